"""Files are written all or nothing, never over another without force, and failures leave nothing behind."""

import errno
import io
import os
import resource
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from recon.data import Geometry, Volume
from recon.errors import InputError, OutputExistsError, ResourceError, UsageError
from recon.io import atomic
from recon.io.registry import read_volume, write_volume

EXTENSIONS = (".npy", ".npz", ".h5", ".png", ".tif", ".nii", ".nii.gz")


def picture(shape: tuple[int, ...] = (6, 5)) -> Volume:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return Volume(array, Geometry(("y", "x"), value_range=(0.0, 255.0)))


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_existing_files_are_refused_then_replaced_with_force(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"out{extension}"
    path.write_bytes(b"old")
    with pytest.raises(OutputExistsError, match="output exists") as caught:
        write_volume(path, picture())
    assert caught.value.exit_code == 5 and "--force" in str(caught.value.hint)
    assert path.read_bytes() == b"old"
    write_volume(path, picture(), force=True)
    np.testing.assert_array_equal(np.squeeze(read_volume(path).array).reshape(-1).sum(), picture().array.sum())
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
def test_failing_fsync_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: str, code: int
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    kept = tmp_path / f"kept{extension}"
    kept.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", refuse)
    for path in (tmp_path / f"new{extension}", kept):
        with pytest.raises(ResourceError, match="cannot write") as caught:
            write_volume(path, picture(), force=True)
        assert caught.value.exit_code == 7 and "\n" not in caught.value.message
    assert os.listdir(tmp_path) == [kept.name] and kept.read_bytes() == b"old"


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_real_file_size_limit_is_one_error_and_no_file(tmp_path: Path, extension: str) -> None:
    values = np.random.default_rng(0).uniform(0, 255, (400, 300)).astype(np.float32)
    volume = Volume(values, picture().geometry)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(ResourceError, match="cannot write"):
            write_volume(tmp_path / f"out{extension}", volume)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_failing_open_names_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "_create", refuse)
    with pytest.raises(ResourceError, match=r"cannot write .*out\.npy: the disk is full"):
        write_volume(tmp_path / "out.npy", picture())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, ValueError])
def test_interrupts_leave_nothing_and_pass_through(tmp_path: Path, interrupt: type[BaseException]) -> None:
    target = tmp_path / "out.bin"
    with pytest.raises(interrupt):
        with atomic.atomic_write(target) as stream:
            stream.write(b"half")
            assert os.listdir(tmp_path) == [f".out.bin.tmp-{os.getpid()}"]
            raise interrupt
    assert os.listdir(tmp_path) == []


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    with pytest.raises(OutputExistsError):
        with atomic.atomic_write(target) as stream:
            stream.write(b"mine")
            target.write_bytes(b"theirs")
    assert target.read_bytes() == b"theirs" and os.listdir(tmp_path) == ["out.bin"]


def test_leftover_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    (tmp_path / f".out.bin.tmp-{os.getpid()}").write_bytes(b"stale and long")
    atomic.write_bytes(tmp_path / "out.bin", b"new")
    assert os.listdir(tmp_path) == ["out.bin"] and (tmp_path / "out.bin").read_bytes() == b"new"


def test_links_stay_links_and_permissions_are_the_users(tmp_path: Path) -> None:
    (tmp_path / "real.bin").write_bytes(b"old")
    (tmp_path / "link.bin").symlink_to("real.bin")
    old = os.umask(0o027)
    try:
        atomic.write_bytes(tmp_path / "link.bin", b"new", force=True)
    finally:
        os.umask(old)
    assert (tmp_path / "link.bin").is_symlink() and (tmp_path / "real.bin").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "real.bin").stat().st_mode) == 0o640


def test_names_near_the_system_limit_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 250 + ".npy")
    write_volume(path, picture())
    assert read_volume(path).array.shape == (6, 5)
    with pytest.raises(ResourceError, match="name is too long"):
        write_volume(tmp_path / ("a" * 300 + ".npy"), picture())


@pytest.mark.parametrize("name", ["absent/out.npy", "file/out.npy"])
def test_missing_folders_are_found_before_and_at_writing(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    for act in (lambda p: atomic.check_writable([p]), lambda p: write_volume(p, picture())):
        with pytest.raises(ResourceError, match="folder"):
            act(tmp_path / name)
    assert os.listdir(tmp_path) == ["file"]


def test_check_writable_names_every_existing_file(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.nii", "b.nii", "c.nii")]
    for path in paths[:2]:
        path.write_bytes(b"")
    with pytest.raises(OutputExistsError, match=r"a\.nii, .*b\.nii$"):
        atomic.check_writable(paths)
    atomic.check_writable(paths, force=True)
    atomic.check_writable([paths[2], "-", "/dev/null", "/dev/stdout"])


def test_check_writable_refuses_read_only_folders_and_folders_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="it is a folder"):
        atomic.check_writable([tmp_path], force=True)
    with pytest.raises(UsageError, match="empty"):
        atomic.check_writable([""])
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ResourceError, match="read-only"):
        atomic.check_writable([tmp_path / "out.nii"])


def test_devices_and_pipes_are_written_directly(tmp_path: Path) -> None:
    write_volume("/dev/null", picture())
    with pytest.raises(ResourceError, match="the disk is full"):
        write_volume("/dev/full", picture())
    pipe = tmp_path / "pipe.npy"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_volume(pipe, picture())
    data = os.read(reader, 10_000)
    os.close(reader)
    np.testing.assert_array_equal(read_volume(data).array, picture().array)


class _Stdout:
    """A standard output that may be a terminal."""

    def __init__(self, terminal: bool) -> None:
        self.buffer = io.BytesIO()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def test_dash_writes_npy_to_stdout_but_not_to_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = _Stdout(terminal=False)
    monkeypatch.setattr(sys, "stdout", stdout)
    write_volume("-", picture())
    np.testing.assert_array_equal(np.load(io.BytesIO(stdout.buffer.getvalue())), picture().array)
    monkeypatch.setattr(sys, "stdout", terminal := _Stdout(terminal=True))
    with pytest.raises(UsageError, match="terminal"):
        write_volume("-", picture())
    assert terminal.buffer.getvalue() == b""


@pytest.mark.parametrize("name", ["out", "out.jpg", "out.toml", "out.nii.bz2"])
def test_unknown_extensions_are_usage_errors(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"cannot write"):
        write_volume(tmp_path / name, picture())
    assert os.listdir(tmp_path) == []


def test_nothing_is_created_where_the_format_cannot_hold_the_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="complex"):
        write_volume(tmp_path / "out.png", Volume(np.zeros((4, 4), np.complex64), Geometry(("y", "x"))))
    assert os.listdir(tmp_path) == []
