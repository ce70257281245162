"""The headline comparisons: real files and presets, images that nothing was tuned on, resumption and ratios."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from recon.config.presets import preset_names
from recon.priors.base import PriorInfo
from recon.priors.networks.unet import UNet, UNetConfig
from recon.priors.store import save_prior
from recon.runs.methods import SAMPLERS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "headlines.py"
TINY = UNetConfig(in_channels=3, channels=(8, 16), blocks=(1, 1), embedding=16, groups=4)
SMALL = {
    "DAPS": ("method.steps=3", "method.inner_steps=2"),
    "DPS, 1000 steps": ("method.steps=3",),
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = spec_from_file_location("headlines", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "headlines", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def prior(tmp_path: Path) -> str:
    import torch

    path = tmp_path / "tiny.safetensors"
    save_prior(path, UNet(TINY).state_dict(), TINY, 0.5, PriorInfo("tiny", 3, multiple=TINY.multiple), torch.float32)
    return str(path)


def ended(*args: str) -> str:
    done = subprocess.run([sys.executable, str(SCRIPT), *args], capture_output=True, text=True, check=True)
    return done.stdout


def test_headlines_name_shipped_images_known_problems_and_methods(script: Any) -> None:
    for headline in script.HEADLINES.values():
        assert f"problems/{headline.problem}" in preset_names({})
        assert not set(headline.images) & set(headline.tuning)
        for image in (*headline.images, *headline.tuning):
            assert (files("recon.sample_data") / image).is_file()
        assert {c.method for c in headline.contestants} <= set(SAMPLERS)
        assert headline.samples == 4 if headline.score == "best" else headline.samples >= 1


def test_black_box_contestants_call_the_model_as_often(script: Any) -> None:
    """Counted from the settings, without a network."""
    from recon.runs.methods import make_method

    headline = script.HEADLINES["enkg-gsg"]
    mine, theirs = (
        make_method(c.method, script.configured(headline, c, None, []).config.method.params)
        for c in headline.contestants
    )
    guided = sum(bool(grid) for grid in mine._levels()[1]) * mine.updates
    ensemble = guided * mine.members(headline.samples)
    single = theirs.network_calls * (1 + theirs.queries) * headline.samples
    assert ensemble <= single < 1.02 * ensemble


def test_a_second_run_computes_nothing_again_and_the_ratios_are_those_of_the_rows(prior: str, tmp_path: Path) -> None:
    out = tmp_path / "h.jsonl"
    sets = [word for label, sets in SMALL.items() for s in sets for word in ("--set", f"{label}={s}")]
    args = ["run", str(out), "--only", "daps-dps", "--tuning", "--images", "2", "--prior", f"daps-dps={prior}", *sets]
    ended(*args)
    first = out.read_text()
    ended(*args)
    assert out.read_text() == first
    rows = [json.loads(line) for line in first.splitlines()]
    images = ("coffee_tuning.png", "china_tuning.png")
    assert [(r["contestant"], r["image"]) for r in rows] == [(label, image) for image in images for label in SMALL]
    for row in rows:
        assert len(row["psnr_of_each"]) == 4 and row["psnr"] == pytest.approx(max(row["psnr_of_each"]), abs=1e-3)
    (line,) = json.loads(ended("table", str(out), "--json"))["headlines"]
    gaps = [rows[0]["psnr"] - rows[1]["psnr"], rows[2]["psnr"] - rows[3]["psnr"]]
    assert line["images"] == 2 and line["score"] == "best of 4"
    assert line["gap_db"] == pytest.approx(sum(gaps) / 2)
    times = [sum(r["seconds_per_sample"] for r in rows if r["contestant"] == label) for label in SMALL]
    assert line["time_ratio"] == pytest.approx(times[1] / times[0])
    assert f"{line['gap_db']:+.2f}" in ended("table", str(out))
