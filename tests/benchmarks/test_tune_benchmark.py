"""The tuning benchmark: every candidate is a valid method, the choice is as documented, the output is a preset."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from recon.config.presets import preset_names
from recon.config.resolve import resolve
from recon.runs.methods import make_method

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "tune.py"
CANDIDATES = tomllib.loads(SCRIPT.with_name("tuning.toml").read_text())


def row(gamma: float, one: float, infinite: float, residual: float) -> dict[str, Any]:
    return {
        "suite": "tuning",
        "problem": "sr4",
        "method": "dds",
        "settings": {"weighting": "matched", "gamma": gamma},
        "psnr_infinite": infinite,
        "single_psnr": one,
        "psnr": one,
        "residual": residual,
        "seconds_per_sample": 1.0,
        "nfe": 50.0,
    }


def write(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    lines, folder = tmp_path / "rows.jsonl", tmp_path / "presets"
    lines.write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "problems").mkdir(parents=True)
    (folder / "problems" / "sr4.toml").write_text('description = "super-resolution: four times"\n')
    subprocess.run([sys.executable, str(SCRIPT), "write", str(lines), str(folder)], check=True)
    return folder / "sr4-dds.toml"


@pytest.mark.parametrize("name", CANDIDATES)
def test_every_candidate_is_a_valid_method(name: str) -> None:
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        from tune import candidates
    finally:
        sys.path.remove(str(SCRIPT.parent))
    for problem in ("mri-x4", *CANDIDATES[name].get("problems", {})):
        assert f"problems/{problem}" in preset_names({})
        for settings in candidates(CANDIDATES[name], problem):
            make_method(name, settings)


def test_the_best_mean_wins_and_what_is_written_is_a_preset(tmp_path: Path) -> None:
    written = write(tmp_path, [row(1.0, 30.0, 31.0, 1.0), row(2.0, 29.0, 31.5, 0.5), row(4.0, 31.0, 31.2, 1.0)])
    config = resolve(str(written.rename(Path(written.parent / "mine.toml"))), environ={}).config
    assert (config.method.name, config.prior.name) == ("dds", "brain-mri")
    assert config.method.model_dump()["gamma"] == 2.0


def test_among_equals_the_data_are_fitted_to_their_noise(tmp_path: Path) -> None:
    written = write(
        tmp_path, [row(1.0, 30.0, 31.0, 0.97), row(2.0, 30.0, 31.04, 0.6), {**row(8.0, 0, 0, 0), "error": "x"}]
    )
    assert "gamma = 1.0" in written.read_text()
    assert "super-resolution: four times; DDS, 50 network evaluations" in written.read_text()
