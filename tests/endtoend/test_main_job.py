"""The main job through the installed command: simulate, run, eval, rerun, pipes, formats."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command import RECON, Site, environment
from PIL import Image

from recon.runs.methods import BASELINES

RUN = ("run", "k.h5", "out.nii.gz", "--preset", "mri-x4-dds")


def test_simulate_run_eval_and_rerun_bit_for_bit(measured):
    ended = measured(*RUN, "--samples", "2", "--truth", "truth.nii.gz", "--json")
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert report["status"] == "ok" and report["nfe"] == 6 and report["protocol"] == "fastmri"
    assert set(report["outputs"]) == {"image", "std", "samples", "sidecar"}
    assert measured.files() >= {"out.nii.gz", "out_std.nii.gz", "out_samples.nii.gz", "out.nii.gz.json"}

    scores = json.loads(measured("eval", "out.nii.gz", "truth.nii.gz", "--protocol", "fastmri", "--json").out)
    for name in ("psnr", "ssim", "nmse"):
        assert scores["metrics"][name] == pytest.approx(report["metrics"][name], rel=1e-5)

    again = measured("rerun", "out.nii.gz.json", "again.nii.gz")
    assert again.code == 0, again.err
    for suffix in ("", "_std", "_samples"):
        first = (measured.folder / f"out{suffix}.nii.gz").read_bytes()
        assert (measured.folder / f"again{suffix}.nii.gz").read_bytes() == first


def test_output_keeps_the_geometry_and_units_of_the_truth(measured):
    assert measured(*RUN).code == 0
    truth, found = (nib.load(measured.folder / name) for name in ("truth.nii.gz", "out.nii.gz"))
    assert found.shape == truth.shape
    np.testing.assert_array_equal(found.affine, truth.affine)
    assert found.get_data_dtype() == np.float32
    assert int(found.header["sform_code"]) == int(truth.header["sform_code"])
    values = np.asarray(truth.dataobj)
    assert abs(found.get_fdata().mean() - values.mean()) < 0.1 * values.mean()


def test_mean_and_std_are_those_of_the_samples(measured):
    assert measured(*RUN, "--samples", "3").code == 0
    samples = nib.load(measured.folder / "out_samples.nii.gz").get_fdata()
    assert samples.shape == (45, 52, 1, 3)
    np.testing.assert_allclose(nib.load(measured.folder / "out.nii.gz").get_fdata(), samples.mean(-1), atol=1e-3)
    np.testing.assert_allclose(
        nib.load(measured.folder / "out_std.nii.gz").get_fdata(), samples.std(-1, ddof=1), atol=1e-3
    )
    assert samples.std(-1).max() > 0


def test_a_sample_does_not_depend_on_how_many_are_drawn(measured):
    assert measured(*RUN).code == 0
    assert measured("run", "k.h5", "three.nii.gz", *RUN[3:], "--samples", "3", "--set", "run.chunk=3").code == 0
    one = nib.load(measured.folder / "out.nii.gz").get_fdata()
    first = nib.load(measured.folder / "three_samples.nii.gz").get_fdata()[..., 0]
    np.testing.assert_allclose(first, one, atol=1e-4 * np.abs(one).max())
    other = measured("run", "k.h5", "seed.nii.gz", *RUN[3:], "--seed", "1")
    assert other.code == 0
    assert np.abs(nib.load(measured.folder / "seed.nii.gz").get_fdata() - one).max() > 1


def test_sidecar_tells_everything_and_no_absolute_path(measured):
    assert measured(*RUN, "--truth", str(measured.folder / "truth.nii.gz")).code == 0
    text = (measured.folder / "out.nii.gz.json").read_text()
    assert str(measured.folder) not in text and os.uname().nodename not in text
    facts = json.loads(text)["Recon"]
    assert facts["Config"]["method"]["steps"] == 3 and facts["Preset"] == "mri-x4-dds"
    for key in (
        "Command",
        "Weights",
        "Seed",
        "Versions",
        "Device",
        "NFE",
        "Seconds",
        "PeakMemoryMB",
        "Status",
        "Citations",
    ):
        assert facts[key] not in (None, [], {}), key
    assert facts["Metrics"]["psnr"] > 10 and facts["Protocol"]["name"] == "fastmri"


def test_pipes(site):
    made = site("simulate", "truth.nii.gz", "-", "--preset", "mri-x4-dds")
    assert made.code == 0 and made.out[:2] == b"PK"
    found = site("run", "-", "-", "--preset", "mri-x4-dds", stdin=made.out)
    assert found.code == 0, found.err
    image = np.load(io.BytesIO(found.out), allow_pickle=False)
    # npy has no names for its axes, so they are written in the order z, y, x
    assert image.shape == (1, 52, 45) and np.isfinite(image).all()
    assert site.files() == {"truth.nii.gz"}


def test_a_pipe_between_two_processes_equals_files(measured):
    shell = f"'{RECON}' simulate truth.nii.gz - -p mri-x4-dds | '{RECON}' run - - -p mri-x4-dds > piped.npy"
    subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell], cwd=measured.folder, check=True, env=environment(), timeout=240
    )
    assert measured(*RUN).code == 0
    np.testing.assert_array_equal(
        np.load(measured.folder / "piped.npy").T, nib.load(measured.folder / "out.nii.gz").get_fdata(dtype=np.float32)
    )


@pytest.mark.parametrize("name", ["p.png", "p.tiff", "p.npy", "truth.nii.gz"])
def test_run_takes_pictures_and_arrays_as_measurements(pictures, picture, name):
    ending = name.partition(".")[2]
    ended = pictures("run", name, f"out.{ending}", "--preset", "denoise-dds", "--json")
    assert ended.code == 0, ended.err
    if ending == "png":
        found = np.asarray(Image.open(pictures.folder / "out.png"))
        assert found.dtype == np.uint8
    elif ending == "nii.gz":
        found = nib.load(pictures.folder / "out.nii.gz").get_fdata()[:, :, 0].T
    elif ending == "npy":
        found = np.load(pictures.folder / "out.npy")
    else:
        found = np.asarray(Image.open(pictures.folder / "out.tiff"))
    assert found.shape == picture.shape
    assert np.corrcoef(found.ravel().astype(float), picture.ravel())[0, 1] > 0.9


def test_super_resolution_of_a_nifti_image_shrinks_its_pixels(site):
    ended = site("run", "truth.nii.gz", "big.nii.gz", "--preset", "sr4-dds")
    assert ended.code == 0, ended.err
    small, big = (nib.load(site.folder / name) for name in ("truth.nii.gz", "big.nii.gz"))
    assert big.shape == (180, 208, 1)
    np.testing.assert_allclose(nib.affines.voxel_sizes(big.affine), [0.25, 0.25, 1])
    # the corners of the field of view stay where they are
    for image in (small, big):
        corner = image.affine @ [-0.5, -0.5, 0, 1]
        np.testing.assert_allclose(corner, small.affine @ [-0.5, -0.5, 0, 1], atol=1e-5)


# sirt divides by sums of weights, which k-space does not have
@pytest.mark.parametrize("method", sorted(set(BASELINES) - {"sirt"}))
def test_classical_baselines_run_the_same_way(measured, method):
    command = (
        "run",
        "k.h5",
        "out.nii.gz",
        "--preset",
        "mri-x4-dds",
        "--method",
        method,
        "--truth",
        "truth.nii.gz",
        "--json",
    )
    ended = measured(*command, few=False)
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert report["nfe"] == 0 and report["metrics"]["psnr"] > 15


def test_a_volume_gives_one_measurement_a_slice_and_comes_back_as_a_volume(site, crop):
    array = np.asarray(crop.dataobj)
    stack = np.concatenate([array, array[::-1], array[:, ::-1]], axis=2)
    nib.Nifti1Image(stack, crop.affine).to_filename(site.folder / "volume.nii.gz")
    assert site("simulate", "volume.nii.gz", "all.h5", "--preset", "mri-x4-dds").code == 0
    assert site("simulate", "volume.nii.gz", "one.h5", "--preset", "mri-x4-dds", "--index", "1").code == 0
    assert site("run", "all.h5", "all.nii.gz", "--preset", "mri-x4-dds", "--method", "adjoint", few=False).code == 0
    assert site("run", "one.h5", "one.nii.gz", "--preset", "mri-x4-dds", "--method", "adjoint", few=False).code == 0
    whole, one = (nib.load(site.folder / f"{name}.nii.gz") for name in ("all", "one"))
    assert whole.shape == (45, 52, 3) and one.shape == (45, 52, 1)
    # the noise of a slice does not depend on the others
    np.testing.assert_allclose(one.get_fdata()[..., 0], whole.get_fdata()[..., 1], atol=1e-3)
    np.testing.assert_allclose(one.affine @ [0, 0, 0, 1], crop.affine @ [0, 0, 1, 1])


def test_an_operator_file_goes_before_the_measurement_and_the_conflict_is_printed(measured):
    lines = np.ones(45, dtype=np.uint8)
    np.save(measured.folder / "mask.npy", lines)
    (measured.folder / "op.toml").write_text(
        'kind = "mri"\n[params]\nacceleration = 1.0\n[arrays]\nmask = "mask.npy"\n'
    )
    ended = measured(
        "run", "k.h5", "out.nii.gz", "-p", "mri-x4-dds", "--operator", "op.toml", "--method", "adjoint", few=False
    )
    assert ended.code == 0, ended.err
    assert "acceleration" in ended.err and "operator file" in ended.err


def test_dry_run_shows_the_plan_and_writes_nothing(measured):
    before = measured.files()
    ended = measured(*RUN, "--dry-run", "--json")
    assert ended.code == 0, ended.err
    plan = json.loads(ended.out)
    assert plan["network_evaluations"] == 3 and plan["operator"]["in_shape"] == [1, 52, 45]
    assert measured.files() == before


def test_quiet_is_silent_on_stderr_and_stdout_holds_the_result_alone(measured):
    ended = measured(*RUN, "-q", "--json")
    assert ended.code == 0 and ended.err == ""
    json.loads(ended.out)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_in_the_middle_leaves_no_file(measured, number, code):
    before = measured.files()
    command = [str(RECON), *RUN, "--set", "method.steps=500", "--samples", "4"]
    process = subprocess.Popen(
        command, cwd=measured.folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(b"run: step"):
            break
    time.sleep(0.2)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err.decode().strip().splitlines()[-1].startswith("recon: ")
    assert measured.files() == before


def test_progress_lines_go_to_stderr_when_it_is_no_terminal(measured):
    ended = measured(*RUN)
    assert "run: step 3/3" in ended.err and "eta" in ended.err
    assert b"step" not in ended.out


def test_check_finds_every_problem_at_once(measured):
    good = measured("check", "mri-x4-dds", "k.h5", "--json")
    assert good.code == 0, good.err
    report = json.loads(good.out)
    assert all(row["ok"] for row in report["checks"]) and report["estimate"]["network_evaluations"] == 3
    bad = measured("check", "mri-x4-dds", "--set", "operator.acs=2.0", "--set", "metrics.protocol=nope", "--json")
    assert bad.code == 4
    failed = {row["check"] for row in json.loads(bad.out)["checks"] if not row["ok"]}
    assert failed >= {"operator parameters", "metric protocol"}


def test_eval_thresholds(site):
    assert site("eval", "truth.nii.gz", "truth.nii.gz", "--fail-if", "psnr<30").code == 0
    ended = site("eval", "truth.nii.gz", "truth.nii.gz", "--fail-if", "ssim>0.5")
    assert ended.code == 8 and "ssim" in ended.err
    assert site("eval", "truth.nii.gz", "truth.nii.gz", "--fail-if", "psnr is low").code == 2


def test_view_writes_a_picture(measured):
    assert measured(*RUN, "--samples", "2").code == 0
    ended = measured("view", "out.nii.gz", "v.png", "--truth", "truth.nii.gz", "--std", "out_std.nii.gz")
    assert ended.code == 0, ended.err
    assert Image.open(measured.folder / "v.png").size[0] > 300


def test_demo_in_an_empty_folder(tmp_path: Path):
    site = Site(tmp_path)
    ended = site("demo", "--samples", "2", "--json")
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    names = [row["name"] for row in report["reconstructions"]]
    assert names == ["zero-filled", "TV (oracle)", "DDS, one sample", "DDS, mean of 2"]
    assert all(Path(tmp_path / path).is_file() for path in report["outputs"].values())
    scores = {row["name"]: row["psnr"] for row in report["reconstructions"]}
    assert scores["TV (oracle)"] > scores["zero-filled"] + 2
    again = site("demo", "--samples", "2")
    assert again.code == 5
