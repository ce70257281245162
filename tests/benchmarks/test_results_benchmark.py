"""The results benchmark: its suites name real files, problems and training-side tuning images; a run resumes."""

from __future__ import annotations

import io
import json
import plistlib
import subprocess
import sys
import tarfile
import tomllib
from importlib.resources import files
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from recon.config.presets import preset_names
from recon.config.resolve import resolve
from recon.runs.methods import make_method

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "results.py"
SUITES = tomllib.loads(SCRIPT.with_name("suites.toml").read_text())


def results(*args: str) -> str:
    done = subprocess.run([sys.executable, str(SCRIPT), *args], capture_output=True, text=True, check=True)
    return done.stdout


def test_suites_name_shipped_images_and_known_problems() -> None:
    for suite in SUITES.values():
        for image in [] if suite.get("download") else suite["images"]:
            assert (files("recon.sample_data") / image).is_file()
        for problem in suite["problems"]:
            assert f"problems/{problem}" in preset_names({})


def test_no_image_is_both_for_tuning_and_for_reporting() -> None:
    tuning = {image for name, suite in SUITES.items() if "tuning" in name for image in suite["images"]}
    reported = {image for name, suite in SUITES.items() if "tuning" not in name for image in suite["images"]}
    assert not tuning & reported


def test_a_second_run_computes_nothing_again_and_the_table_averages(tmp_path: Path) -> None:
    out = str(tmp_path / "r.jsonl")
    args = ("run", out, "--suite", "tuning", "--problems", "denoise", "--methods", "adjoint")
    results(*args)
    first = Path(out).read_text()
    results(*args)
    assert Path(out).read_text() == first
    rows = [json.loads(line) for line in first.splitlines()]
    assert [r["item"] for r in rows] == [0, 1]
    mean = sum(r["psnr"] for r in rows) / 2
    assert f"| {mean:.2f} |" in results("table", out)


@pytest.mark.parametrize("name", [name for name, suite in SUITES.items() if suite.get("volume")])
def test_suites_of_volumes_have_volumes_and_settings_that_methods_take(name: str) -> None:
    suite = SUITES[name]
    assert len(suite["crop"]) == 3 and all("volume" in image or suite.get("download") for image in suite["images"])
    for problem in suite["problems"]:
        for method in suite["methods"]:
            sets = suite.get("set", {}).get(method, [])
            config = resolve(f"problems/{problem}", method=method.removesuffix("-oracle"), sets=sets, environ={}).config
            made = make_method(config.method.name, config.method.params)
            if name == "volume-64":
                assert getattr(made, "steps", 0) <= 200


def test_a_volume_is_one_case(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    results("run", str(out), "--suite", "tuning-volume", "--problems", "ct-8", "--methods", "adjoint")
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert row["item"] == 0 and row["psnr"] > 5


def test_images_that_are_not_shipped_come_from_a_folder(tmp_path: Path) -> None:
    array = np.linspace(-1000, 1200, 12 * 192 * 192, dtype=np.float32).reshape(192, 192, 12)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "cranium.nii.gz")
    out = tmp_path / "r.jsonl"
    results("run", str(out), "--suite", "volume-ct", "--methods", "fbp", "--folder", str(tmp_path))
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert (row["image"], row["item"]) == ("cranium.nii.gz", 0) and row["psnr"] > 5


def test_a_project_of_invesalius_becomes_a_volume(tmp_path: Path) -> None:
    voxels = np.arange(24, dtype="<i2").reshape(2, 3, 4) - 1000
    facts = {
        "matrix": {"dtype": "int16", "filename": "matrix.dat", "shape": [2, 3, 4]},
        "spacing": [0.5, 0.75, 1.5],
    }
    project, output = tmp_path / "Head.inv3", tmp_path / "head.nii.gz"
    with tarfile.open(project, "w:gz") as archive:
        for name, content in (("t/main.plist", plistlib.dumps(facts)), ("t/matrix.dat", voxels.tobytes())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    script = Path(__file__).parents[2] / "benchmarks" / "unpack_inv3.py"
    subprocess.run([sys.executable, script, project, output], check=True)
    image = nib.load(output)
    assert (np.asarray(image.dataobj).transpose(2, 1, 0) == voxels).all()
    assert tuple(float(size) for size in image.header.get_zooms()) == (0.5, 0.75, 1.5)
