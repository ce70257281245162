"""Writing files all or nothing: a temporary file beside the target, fsync, rename; failure leaves nothing behind."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from recon.errors import OutputExistsError, ReconError, ResourceError, UsageError
from recon.io.catalog import is_folder_name, names_written

PathLike = str | os.PathLike[str]

_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space, or write elsewhere"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or write elsewhere"),
    errno.EFBIG: ("the file is larger than the system allows", "write elsewhere, or raise the limit"),
    errno.EROFS: ("the file system is read-only", "write elsewhere"),
    errno.EACCES: ("permission denied", "write elsewhere, or change the folder's permissions"),
    errno.EPERM: ("permission denied", "write elsewhere, or change the folder's permissions"),
    errno.ENOENT: ("its folder does not exist", "create the folder first"),
    errno.ENOTDIR: ("its folder is not a folder", "check the path"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter name"),
    errno.EPIPE: ("the reader has closed it", None),
}


def is_stream(path: PathLike) -> bool:
    """Tell whether a path is `-`, a device or a pipe: written directly and never refused as existing."""
    name = os.fspath(path)
    if name in ("-", "/dev/stdout", "/dev/stderr"):
        return True
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def check_writable(paths: Iterable[PathLike], force: bool = False) -> None:
    """Refuse outputs that could not be written, before any work is done.

    Raises ResourceError for a missing or read-only folder, UsageError where a folder is in the way, and
    OutputExistsError, naming every one, where files exist and `force` is not given. `-` and devices always pass.
    """
    existing = []
    for path in (os.fspath(p) for p in paths):
        if is_stream(path):
            continue
        target = _target(path, is_folder_name(path))
        folder = target.parent
        if not os.path.isdir(folder):
            raise write_error(path, OSError(errno.ENOTDIR if os.path.exists(folder) else errno.ENOENT, ""))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ResourceError(f"cannot write {path}: its folder is read-only", "write elsewhere")
        existing += [path for path in names_written(str(target)) if os.path.lexists(path)]
    if existing and not force:
        raise _exists(existing)


def is_several(path: PathLike) -> bool:
    """Tell whether an output of this name is a folder, or several files."""
    name = os.fspath(path)
    return not is_stream(path) and (is_folder_name(name) or len(names_written(name)) > 1)


@contextmanager
def atomic_files(path: PathLike, force: bool = False) -> Iterator[Path]:
    """Yield a path to write a folder to, or several files of one name and other extensions; they appear at the end.

    A folder is replaced as a whole. Errors as `atomic_write`; an interrupt between the renames of several files can
    leave some of them replaced.
    """
    target = _target(path, is_folder_name(path))
    check_writable([path], force)
    work = target.parent / f".{os.fsdecode(os.fsencode(target.name)[:200])}.tmp-{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir()
        yield work / target.name
        _sync_tree(work)
        for name in sorted(os.listdir(work)):
            old = target.parent / name
            if os.path.isdir(old):
                os.replace(old, work / f"{name}.old")
            os.replace(work / name, old)
    except BaseException as err:
        if isinstance(err, OSError):
            raise write_error(path, err) from err
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _sync_folder(target.parent)


def remove(path: PathLike) -> None:
    """Remove an output, whether one file, several or a folder; what is not there is no error."""
    for name in names_written(os.fspath(path)):
        if os.path.isdir(name) and not os.path.islink(name):
            shutil.rmtree(name, ignore_errors=True)
        else:
            Path(name).unlink(missing_ok=True)


@contextmanager
def atomic_write(path: PathLike, force: bool = False) -> Iterator[BinaryIO]:
    """Yield a binary stream whose content becomes the file `path` only if the block ends without an error.

    A link is followed, so that it stays a link. Raises OutputExistsError where the file exists and `force` is not
    given, ResourceError where it cannot be written; any exception, also an interrupt, leaves the folder as it was.
    """
    target = _target(path)
    if os.path.exists(target) and not force:
        raise _exists([path])
    temporary = _temporary(target)
    try:
        with _create(temporary) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if os.path.exists(target) and not force:
            raise _exists([path])
        os.replace(temporary, target)
    except BaseException as err:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(err, OSError):
            raise write_error(path, err) from err
        raise
    _sync_folder(target.parent)


@contextmanager
def open_output(path: PathLike, force: bool = False) -> Iterator[BinaryIO]:
    """Yield a seekable binary stream for a file (see `atomic_write`), for `-` (stdout), or for a device or pipe.

    Raises UsageError where binary data would go to a terminal.
    """
    if not is_stream(path):
        with atomic_write(path, force) as stream:
            yield stream
        return
    buffer = io.BytesIO()
    yield buffer
    name = os.fspath(path)
    to_stdout = name in ("-", "/dev/stdout")
    try:
        if to_stdout and sys.stdout.isatty():
            raise UsageError("binary data will not be written to a terminal", "redirect it, or name an output file")
        if to_stdout:
            sys.stdout.buffer.write(buffer.getbuffer())
            sys.stdout.buffer.flush()
        else:
            with open(name, "wb") as device:
                device.write(buffer.getbuffer())
    except OSError as err:
        raise write_error("standard output" if to_stdout else name, err) from err


def write_bytes(path: PathLike, data: bytes, force: bool = False) -> None:
    """Write `data` to a file all or nothing, or to `-` or a device; errors as in `open_output`."""
    with open_output(path, force) as stream:
        stream.write(data)


def write_error(path: PathLike, err: OSError) -> ResourceError:
    """Return the one-line error that tells why `path` could not be written."""
    reason, hint = _REASONS.get(
        err.errno or 0, (err.strerror or "the system refused it; the disk may be full", "check the disk and the path")
    )
    return ResourceError(f"cannot write {os.fspath(path)}: {reason}", hint)


def _target(path: PathLike, folder: bool = False) -> Path:
    name = os.fspath(path)
    if not name or "\0" in name:
        raise UsageError("the name of an output is empty or invalid", "name an output file")
    target = Path(os.path.realpath(name))
    if os.path.isdir(target) and not folder:
        raise UsageError(f"cannot write {name}: it is a folder", "name a file in it")
    return target


def _exists(paths: list[PathLike] | list[str]) -> ReconError:
    names = ", ".join(os.fspath(p) for p in paths)
    return OutputExistsError(f"output exists: {names}", "use --force to replace it")


def _temporary(target: Path) -> Path:
    """Name the temporary file after its target, cut so that a name near the system's limit still works."""
    return target.parent / f".{os.fsdecode(os.fsencode(target.name)[:200])}.tmp-{os.getpid()}"


def _create(temporary: Path) -> BinaryIO:
    """Create a new file with the user's default permissions; a leftover of a killed process is replaced."""
    with suppress(FileNotFoundError):
        os.unlink(temporary)
    return open(temporary, "x+b")


def _sync_tree(folder: Path) -> None:
    """Bring the content of every file of a folder to the disk."""
    for name in folder.rglob("*"):
        if name.is_file():
            with open(name, "rb") as stream:
                os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
