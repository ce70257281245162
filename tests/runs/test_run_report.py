"""The page of a run: what it tells is what the sidecar tells, with and without a truth, for one sample or many."""

from __future__ import annotations

import json
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from recon.config.schema import Config
from recon.data import Geometry, Volume
from recon.errors import OutputExistsError
from recon.io.registry import write_measurement, write_volume
from recon.runs.reconstruct import RunRequest, reconstruct
from recon.runs.simulate import simulate


@pytest.fixture
def files(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).uniform(0, 1, (16, 12)).astype(np.float32)
    truth = Volume(image, Geometry(("y", "x")))
    write_volume(tmp_path / "truth.npy", truth)
    write_measurement(tmp_path / "y.h5", simulate(truth, config()))
    return tmp_path


def config(samples: int = 1) -> Config:
    method = {"name": "dds", "steps": 3} if samples > 1 else {"name": "cg"}
    return Config.model_validate(
        {
            "operator": {"kind": "denoise"},
            "method": method,
            "noise": {"sigma": 0.05},
            "scaling": {"mode": "fixed", "low": 0.0, "high": 1.0},
            "run": {"device": "cpu", "threads": 1, "samples": samples},
        }
    )


def made(files: Path, samples: int = 1, truth: bool = True, force: bool = False) -> tuple[str, dict]:
    request = RunRequest(
        files / "y.h5",
        files / "x.npy",
        config(samples),
        "test",
        truth=files / "truth.npy" if truth else None,
        report=files / "x.html",
        force=force,
        command=("recon", "run", "y.h5", "x.npy", "--set", "a=<b>"),
    )
    report = reconstruct(request, lambda plan: None, None)
    assert report.outputs["report"].endswith("x.html")
    return (files / "x.html").read_text(), json.loads((files / "x.npy.json").read_text())


def test_a_page_tells_what_the_sidecar_tells(files):
    html, sidecar = made(files)
    text, facts = unescape(html), sidecar["Recon"]
    assert f"<td>{facts['Metrics']['psnr']:.6g}</td>" in html
    assert sidecar["Sources"]["input"]["sha256"] in text and sidecar["Sources"]["truth"]["sha256"] in text
    assert "recon run y.h5 x.npy --set 'a=<b>'" in text
    assert facts["Outputs"]["report"] == "x.html"
    assert html.count("data:image/png") == 1 and "not for diagnostic use" in text


def test_samples_and_their_spread_are_drawn_and_the_residual_falls(files):
    html, sidecar = made(files, samples=3, truth=False)
    assert html.count("data:image/png") == 2 and "std over samples" not in html  # it is in the picture
    assert "<polyline" in html and "psnr" not in html
    assert sidecar["Recon"]["Weights"]["sha256"] in html
    for citation in sidecar["Recon"]["Citations"]:
        assert citation in unescape(html)


def test_a_page_is_never_overwritten_without_force(files):
    made(files)
    for name in ("x.npy", "x.npy.json"):
        (files / name).unlink()
    with pytest.raises(OutputExistsError, match=r"x\.html"):
        made(files)
    assert not (files / "x.npy").exists()
    made(files, force=True)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_a_browser_shows_the_page(files):
    made(files, samples=2)
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{files}/x.html"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "Reconstruction x.npy" in done.stdout
    size = subprocess.run(
        [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--window-size=360,800",
            f"--screenshot={files}/narrow.png",
            f"file://{files}/x.html",
        ],
        capture_output=True,
        timeout=120,
    )
    assert size.returncode == 0 and (files / "narrow.png").stat().st_size > 1000
