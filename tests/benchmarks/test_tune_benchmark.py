"""The tuning benchmark: every candidate is a valid method, the choice is as documented, the output is a preset."""

from __future__ import annotations

import json
import math
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


def row(gamma: float, one: float, two: float, residual: float) -> dict[str, Any]:
    return {
        "suite": "tuning",
        "problem": "sr4",
        "method": "dds",
        "settings": {"weighting": "matched", "gamma": gamma},
        "single_psnr": one,
        "psnr": two,
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


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    for name in ("results", "tune"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import tune  # type: ignore[import-not-found]

    return tune


@pytest.mark.parametrize("name", CANDIDATES)
def test_every_candidate_is_a_valid_method(script: Any, name: str) -> None:
    for problem in ("mri-x4", *CANDIDATES[name].get("problems", {})):
        assert f"problems/{problem}" in preset_names({})
        for settings in script.candidates(CANDIDATES[name], problem):
            make_method(name, settings)


def test_candidates_are_all_combinations_of_each_table(script: Any) -> None:
    method = {"base": {"steps": 5}, "try": [{"a": [1, 2], "b": "x"}, {"c": 3}]}
    assert list(script.candidates(method, "sr4")) == [
        {"steps": 5, "a": 1, "b": "x"},
        {"steps": 5, "a": 2, "b": "x"},
        {"steps": 5, "c": 3},
    ]


def test_the_mean_of_eight_follows_from_one_and_two(script: Any) -> None:
    bias, variance = 0.004, 0.01
    one, two, eight = (-10 * math.log10(bias + variance / count) for count in (1, 2, 8))
    assert script.psnr_of_eight({"single_psnr": one, "psnr": two}) == pytest.approx(eight)
    # two samples that cancel promise nothing beyond an eighth of the error of one
    assert script.psnr_of_eight({"single_psnr": 20.0, "psnr": 40.0}) == pytest.approx(20 + 10 * math.log10(8))


def test_the_best_mean_wins_and_what_is_written_is_a_preset(tmp_path: Path) -> None:
    written = write(tmp_path, [row(1.0, 30.0, 31.0, 1.0), row(2.0, 29.0, 31.0, 0.5), row(4.0, 31.0, 31.2, 1.0)])
    config = resolve(str(written.rename(Path(written.parent / "mine.toml"))), environ={}).config
    assert (config.method.name, config.prior.name) == ("dds", "brain-mri")
    assert config.method.model_dump()["gamma"] == 2.0


def test_a_preset_holds_what_its_suite_sets_for_the_problem(script: Any) -> None:
    assert list(script._sections(["operator.size=31", "noise.sigma=0.1"])) == [
        *("", "[operator]", "size = 31"),
        *("", "[noise]", "sigma = 0.1"),
    ]


def test_ensembles_are_tuned_on_small_images_alone() -> None:
    suites = tomllib.loads(SCRIPT.with_name("suites.toml").read_text())
    limited = {name: method["suites"] for name, method in CANDIDATES.items() if "suites" in method}
    assert limited == {"enkg": ["tuning-clothes"], "tds": ["tuning-clothes"]}
    assert suites["tuning-clothes"]["prior"] == "fashion32"


def test_among_equals_the_data_are_fitted_to_their_noise(tmp_path: Path) -> None:
    written = write(
        tmp_path, [row(1.0, 30.0, 31.0, 0.97), row(2.0, 30.0, 31.005, 0.6), {**row(8.0, 0, 0, 0), "error": "x"}]
    )
    assert "gamma = 1.0" in written.read_text()
    assert "super-resolution: four times; DDS, 50 network evaluations" in written.read_text()
