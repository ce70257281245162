"""A volume with the installed command: joint reconstruction, interruption by a signal, and going on."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command import RECON, Site, environment

import recon.sample_data

SAMPLES = Path(recon.sample_data.__file__).parent
RUN = ("run", "k.h5", "out.nii.gz", "--preset", "mri-x4-dds-3d", "--truth", "truth.nii.gz")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A folder with four slices of the shipped volume and their measurement."""
    nib.load(SAMPLES / "brain_volume.nii.gz").slicer[70:102, 90:122, 90:94].to_filename(tmp_path / "truth.nii.gz")
    site = Site(tmp_path)
    ended = site("simulate", "truth.nii.gz", "k.h5", "--preset", "mri-x4")
    assert ended.code == 0, ended.err
    return site


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_volume_goes_on_with_the_same_bits(site, number, code):
    steps = ("--set", "method.steps=40")
    whole = site("run", "k.h5", "whole.nii.gz", *RUN[3:], *steps, few=False)
    assert whole.code == 0, whole.err
    process = subprocess.Popen(
        [str(RECON), *RUN, *steps],
        cwd=site.folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(few=False),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(b"run: step"):
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    last = err.decode().strip().splitlines()[-1]
    assert last.endswith("state saved in out.nii.gz.state.npz; go on with --resume"), last
    assert "out.nii.gz" not in site.files()
    ended = site(*RUN, *steps, "--resume", "--json", few=False)
    assert ended.code == 0 and "going on from out.nii.gz.state.npz" in ended.err, ended.err
    assert not any(name.endswith(".state.npz") for name in site.files())
    first, second = (nib.load(site.folder / f"{name}.nii.gz") for name in ("whole", "out"))
    assert np.array_equal(np.asanyarray(first.dataobj), np.asanyarray(second.dataobj))
    assert np.allclose(second.affine, nib.load(site.folder / "truth.nii.gz").affine)
    assert json.loads(ended.out)["nfe"] == 160


def test_resume_needs_a_file_and_says_where_there_is_nothing(site):
    assert site("run", "k.h5", "-", "--preset", "mri-x4-dds-3d", "--resume").code == 2
    ended = site(*RUN, "--resume")
    assert ended.code == 0 and "nothing to resume" in ended.err, ended.err


def test_slice_by_slice_with_a_method_of_images(site):
    ended = site("run", "k.h5", "out.nii.gz", "--preset", "mri-x4-dds", "--truth", "truth.nii.gz", "--json")
    assert ended.code == 0, ended.err
    assert nib.load(site.folder / "out.nii.gz").shape == (32, 32, 4)
    assert "together" not in ended.err


def test_a_prior_that_is_fitted_to_the_volume(site):
    few = ("--set", "method.steps=2", "--set", "method.adapt_steps=2")
    run = (*RUN[:4], "mri-x4-d3ip", *RUN[5:], *few, "--json")
    ended = site(*run, few=False)
    assert ended.code == 0, ended.err
    facts = json.loads(ended.out)
    # two levels of four slices, and two picked slices in each of two steps at the first: the last is below the fits
    assert facts["nfe"] == 2 * 4 + 2 * 2
    shown = site("methods", "show", "d3ip", "--json")
    entry = json.loads(shown.out)
    assert entry["needs"] == ["adjoint", "gradient", "linear", "slices"] and "mri-x4-d3ip" in entry["presets"]
    assert "chung2024ddip" in entry["citation"]
    assert nib.load(site.folder / "out.nii.gz").shape == (32, 32, 4)
