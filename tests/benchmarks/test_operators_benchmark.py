"""The benchmark of projectors: every contestant of a small scan is measured, and agrees with ours."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "operators.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("operators_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "operators_benchmark", module)
    monkeypatch.setenv("RECON_KERNELS", "")
    spec.loader.exec_module(module)
    small = {
        "parallel": module.Case("ct", {"angles": 9, "detectors": 25}, (16, 16)),
        "fan": module.Case(
            "ct-fan",
            {
                "angles": 9,
                "detectors": 40,
                "detector_pitch": 1.6,
                "source_distance": 40.0,
                "detector_distance": 60.0,
            },
            (16, 16),
        ),
        "cone": module.Case(
            "ct-cone",
            {
                "angles": 9,
                "detector_rows": 20,
                "detector_columns": 30,
                "row_pitch": 1.5,
                "column_pitch": 1.6,
                "row_offset": 0.4,
                "column_offset": -0.7,
                "slice_distance": 1.2,
                "source_distance": 40.0,
                "detector_distance": 60.0,
                "allow_truncation": True,
            },
            (10, 16, 14),
        ),
    }
    monkeypatch.setattr(module, "CASES", small)
    return module


@pytest.mark.parametrize("name", ["parallel", "fan", "cone"])
def test_a_row_for_each_contestant(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(benchmark, "peak", lambda name, who: 1.0)
    rows = benchmark.measure(name, rounds=2, batch=3)
    assert [row["contestant"] for row in rows][:2] == ["recon", "torch CSR"]
    for row in rows:
        assert (row["mismatch"] < 1e-5 or row["contestant"] == "RTK voxel") and row["setup_seconds"] > 0
        assert all(row[f"{what}_ms"] > 0 for what in ("forward", "adjoint", "forward_batch", "adjoint_batch"))
    assert set(rows[0]["times_ours"].values()) == {1.0}


def test_contestants_project_the_same_scan(benchmark: ModuleType) -> None:
    """So that their times may be compared: peers, where they are installed, up to their own interpolation."""
    for name, case in benchmark.CASES.items():
        image = torch.zeros(1, 1, *case.shape)
        image[..., 4:11, 5:9] = 1
        image[..., 3:6, 8:10] = 2
        if name == "cone":  # RTK's volumes end at the middle of the outer slices
            image[:, :, [0, 1, -2, -1]] = 0
        pairs = {who: make(case) for who, make in benchmark.contestants(name).items() if who != "DeepInverse"}
        expected = pairs["recon"].forward(image)
        for who, pair in pairs.items():
            gap = float((pair.forward(image) - expected).norm() / expected.norm())
            assert gap < (0.1 if who.startswith("ASTRA") else 1e-5), who


def test_memory_is_that_of_the_contestant(benchmark: ModuleType) -> None:
    assert benchmark.memory("parallel", "recon") >= 0


def test_tomography_and_mri_are_measured_in_one_run(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    mri = importlib.import_module("mri")
    monkeypatch.setattr(
        mri, "measure_sense", lambda *given: [{"case": "SENSE", "call": "forward", "ms": 1.0, "ratio": 0.5}]
    )
    monkeypatch.setattr(
        mri, "measure_nufft", lambda *given: [{"case": "NUFFT", "call": "adjoint", "ms": 2.0, "ratio": None}]
    )
    monkeypatch.setattr(benchmark, "peak", lambda name, who: 1.0)
    command = ["operators.py", "--rounds", "1", "--batch", "2", "--only", "parallel", "mri"]
    monkeypatch.setattr(sys, "argv", [*command, "--json"])
    benchmark.main()
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["case"] for row in rows][-3:] == ["parallel", "SENSE", "NUFFT"]
    monkeypatch.setattr(sys, "argv", command)
    benchmark.main()
    assert "SENSE  forward" in (shown := capsys.readouterr().out) and "torch CSR" in shown
