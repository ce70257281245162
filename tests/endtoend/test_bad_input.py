"""Bad input through the installed command: one line, a hint, the documented exit code, and no file left behind."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

RUN = ("run", "k.h5", "out.nii.gz", "--preset", "mri-x4-dds")


def refuses(site, code: int, *words: str, command: tuple[str, ...] = RUN, before: set[str] | None = None) -> str:
    """Run the command; it must exit with `code`, say `words` in one line, and leave the folder as it was."""
    before = site.files() if before is None else before
    ended = site(*command)
    assert ended.code == code, (ended.code, ended.err)
    errors = [line for line in ended.err.splitlines() if line.startswith("recon: error:")]
    assert len(errors) == 1, ended.err
    assert "Traceback" not in ended.err
    for word in words:
        assert word in ended.err, (word, ended.err)
    assert ended.out == b""
    assert site.files() == before
    return ended.err


def test_missing_file(site):
    refuses(site, 3, "nothing.h5", command=("run", "nothing.h5", "out.nii.gz", "--preset", "mri-x4-dds"))


def test_wrong_shape(measured):
    np.save(measured.folder / "y.npy", np.zeros((3, 4, 5, 6, 7), np.complex64))
    np.save(measured.folder / "mask.npy", np.ones(45, np.uint8))
    (measured.folder / "op.toml").write_text('kind = "mri"\nin_shape = [1, 52, 45]\n[arrays]\nmask = "mask.npy"\n')
    command = ("run", "y.npy", "out.nii.gz", "--preset", "mri-x4-dds", "--operator", "op.toml")
    refuses(measured, 3, "(3, 4, 5, 6, 7)", "(1, 52, 45)", command=command)


def test_truth_of_another_shape(measured):
    np.save(measured.folder / "t.npy", np.zeros((9, 9), np.float32))
    refuses(measured, 3, "truth", command=(*RUN, "--truth", "t.npy"))


def test_wrong_axes(pictures):
    command = ("run", "p.npy", "out.npy", "--preset", "denoise-dds", "--axes", "y,q")
    refuses(pictures, 3, "axes", command=command)


def test_kspace_without_a_mask(site):
    np.save(site.folder / "y.npy", np.ones((1, 52, 45), np.complex64))
    refuses(site, 3, "mask", command=("run", "y.npy", "out.npy", "--preset", "mri-x4-dds"))


def test_nan_in_the_measurement(pictures, picture):
    bad = picture.astype(np.float32)
    bad[3, 4] = np.nan
    np.save(pictures.folder / "bad.npy", bad)
    refuses(pictures, 3, "NaN", command=("run", "bad.npy", "out.npy", "--preset", "denoise-dds"))


@pytest.mark.parametrize("name", ["truth.nii.gz", "p.png", "k.h5", "p.tiff"])
def test_truncated_files(pictures, kspace, name):
    path = pictures.folder / name
    content = kspace if name == "k.h5" else path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    preset = "mri-x4-dds" if name == "k.h5" else "denoise-dds"
    refuses(pictures, 3, name, command=("run", name, "out.npy", "--preset", preset))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--preset", "mri-x4-ddss"), ("unknown preset", "'mri-x4-dds'")),
        (("--preset", "mri-x4-dds", "--method", "ddss"), ("unknown method", "dds")),
        (("--preset", "mri-x4-dds", "--set", "method.gama=3"), ("gama", "gamma")),
        (("--preset", "mri-x4-dds", "--set", "metods.gamma=3"), ("metods", "method")),
        (("--preset", "mri-x4-dds", "--prior", "brain-mrt"), ("unknown prior", "brain-mri")),
        (("--preset", "mri-x4-dds", "--set", "method.steps=many"), ("steps", "many")),
        (("--preset", "mri-x4-dds", "--protocol", "fastmr"), ("protocol", "fastmri")),
    ],
)
def test_unknown_names_offer_the_nearest(measured, arguments, words):
    refuses(measured, 4, *words, command=("run", "k.h5", "out.nii.gz", *arguments, "--truth", "truth.nii.gz"))


def test_channel_mismatch(pictures):
    command = ("run", "rgb.png", "out.png", "--preset", "denoise-dds", "--prior", "brain-mri")
    refuses(pictures, 4, "1 channel", "3", command=command)


def test_existing_output_is_refused_before_anything_is_loaded_and_force_overwrites(measured):
    (measured.folder / "out.nii.gz").write_bytes(b"precious")
    refuses(measured, 5, "out.nii.gz", "--force")
    assert (measured.folder / "out.nii.gz").read_bytes() == b"precious"
    assert measured(*RUN, "--force").code == 0
    assert nib.load(measured.folder / "out.nii.gz").shape == (45, 52, 1)


def test_an_existing_sidecar_counts_as_an_output(measured):
    (measured.folder / "out.nii.gz.json").write_text("{}")
    refuses(measured, 5, "out.nii.gz.json")


def test_missing_folder(measured):
    refuses(measured, 7, "folder", command=("run", "k.h5", "no/where.nii.gz", "--preset", "mri-x4-dds"))


def test_unknown_extension(measured):
    refuses(measured, 2, ".xyz", command=("run", "k.h5", "out.xyz", "--preset", "mri-x4-dds"))


def test_a_png_cannot_hold_an_image_without_a_declared_range(measured):
    refuses(measured, 3, "range", "recon view", command=("run", "k.h5", "out.png", "--preset", "mri-x4-dds"))


def test_json_and_an_image_on_the_same_stream(measured):
    refuses(measured, 2, "--json", command=("run", "k.h5", "-", "--preset", "mri-x4-dds", "--json"))


def test_a_device_that_is_not_there(measured):
    refuses(measured, 7, "cuda:9", command=(*RUN, "--device", "cuda:9"))


def test_divergence_is_a_numerical_failure(measured):
    """Exit 6 with the remedy, no result, and the last good state beside where it would have been."""
    command = ("run", "k.h5", "out.nii.gz", "--preset", "mri-x4-dps", "--set", "method.zeta=1e30")
    kept = {"out_last.nii.gz", "out_last.nii.gz.json"}
    refuses(measured, 6, "zeta", "out_last.nii.gz", command=command, before=measured.files() | kept)
    image = nib.load(measured.folder / "out_last.nii.gz").get_fdata()
    assert np.isfinite(image).all() and image.std() > 0
    sidecar = json.loads((measured.folder / "out_last.nii.gz.json").read_text())["Recon"]
    assert sidecar["Status"] == "diverged" and sidecar["Outputs"] == {"image": "out_last.nii.gz"}
    # a second one does not overwrite the first, and says so
    content = (measured.folder / "out_last.nii.gz").read_bytes()
    assert "not saved" in refuses(measured, 6, "zeta", command=command)
    assert (measured.folder / "out_last.nii.gz").read_bytes() == content
    refuses(measured, 6, "is in out_last.nii.gz", command=(*command, "--force"))


def test_rerun_refuses_a_changed_input(measured):
    assert measured(*RUN).code == 0
    with (measured.folder / "k.h5").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    refuses(measured, 3, "SHA-256", command=("rerun", "out.nii.gz.json", "again.nii.gz"))


def test_rerun_refuses_what_is_no_sidecar(measured):
    (measured.folder / "x.json").write_text('{"a": 1}')
    refuses(measured, 3, "x.json", command=("rerun", "x.json", "again.nii.gz"))


@pytest.fixture
def mounted(tmp_path: Path):
    """Mount a tmpfs with options; skip where this user may not."""
    folders: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / "mounted"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip("mounting a tmpfs is not allowed here")
        folders.append(folder)
        return folder

    yield mount
    for folder in folders:
        subprocess.run(["umount", str(folder)], check=True)


def test_disk_full(measured, mounted):
    folder = mounted("size=4k")
    before = measured.files()
    command = ("run", "k.h5", str(folder / "out.nii.gz"), "--preset", "mri-x4-dds", "--samples", "2")
    refuses(measured, 7, "full", command=command, before=before)
    assert list(folder.iterdir()) == []


def test_disk_full_after_the_image_was_written_takes_the_image_away_again(measured, mounted):
    folder = mounted("size=24k")
    before = measured.files()
    command = ("run", "k.h5", str(folder / "out.nii.gz"), "--preset", "mri-x4-dds", "--samples", "3")
    refuses(measured, 7, "full", command=command, before=before)
    assert list(folder.iterdir()) == []


def test_read_only_folder(measured, mounted):
    folder = mounted("ro")
    command = ("run", "k.h5", str(folder / "out.nii.gz"), "--preset", "mri-x4-dds")
    refuses(measured, 7, "read-only", command=command)


def test_read_only_folder_by_permission(measured):
    if os.geteuid() == 0:
        pytest.skip("permissions do not bind root; test_read_only_folder covers it")
    folder = measured.folder / "locked"
    folder.mkdir(mode=0o555)
    refuses(measured, 7, "read-only", command=("run", "k.h5", "locked/out.nii.gz", "--preset", "mri-x4-dds"))


@pytest.mark.parametrize("command", [("run",), ("run", "a"), ("nonsense",), ("run", "a", "b", "--no-such-option")])
def test_wrong_usage(site, command):
    ended = site(*command)
    assert ended.code == 2 and ended.out == b"" and ended.err
