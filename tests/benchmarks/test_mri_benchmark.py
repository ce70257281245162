"""The benchmark of MRI operators: every contestant of a small scan is measured, and transforms alike."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "mri.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    monkeypatch.setenv("RECON_KERNELS", "")
    spec = importlib.util.spec_from_file_location("mri_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mri_benchmark", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "grown", lambda *script: 1.0)
    monkeypatch.setattr(module, "CALLS", 1)
    return module


def ticking() -> float:
    ticking.now += 1e-3  # type: ignore[attr-defined]
    return ticking.now  # type: ignore[attr-defined,no-any-return]


ticking.now = 0.0  # type: ignore[attr-defined]


def test_sense_has_a_row_for_each_call(benchmark: ModuleType) -> None:
    rows = benchmark.measure_sense(16, 2, 3, ticking)
    assert [row["call"] for row in rows] == [
        "fft2 of all coils", "forward", "adjoint", "normal, lines", "normal, points"
    ]  # fmt: skip
    assert all(row["ratio"] == pytest.approx(1) for row in rows)
    assert sum(row.get("peak_mb") == 1.0 and row["setup_seconds"] > 0 for row in rows) == 2


def test_off_the_grid_every_contestant_takes_part_at_equal_error(benchmark: ModuleType) -> None:
    rows = {row["call"]: row for row in benchmark.measure_nufft(24, 2, 8, 3, ticking)}
    assert rows["forward"]["error"] < 1e-4 and rows["gridding forward"]["error"] < 1e-4
    assert rows["normal, Toeplitz"]["error"] < 1e-4 and rows["normal, Toeplitz"]["ratio"] == pytest.approx(0.5)
    if importlib.util.find_spec("finufft"):
        assert rows["FINUFFT forward"]["error"] < 2e-4
        assert rows["FINUFFT adjoint"]["ratio"] == pytest.approx(1)
    for name in ("forward", "normal, Toeplitz", "gridding forward"):
        assert rows[name]["peak_mb"] == 1.0 and rows[name]["setup_seconds"] > 0


def test_ratios_are_to_the_faster_peer(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"forward": 3.0, "adjoint": 4.0, "normal, Toeplitz": 2.0, "gridding forward": 6.0, "gridding adjoint": 2.0}
    monkeypatch.setattr(benchmark, "medians", lambda *given: times | {"FINUFFT forward": 5.0, "FINUFFT adjoint": 8.0})
    rows = {row["call"]: row["ratio"] for row in benchmark.measure_nufft(12, 2, 4, 1, ticking)}
    assert rows["forward"] == pytest.approx(3 / 5) and rows["adjoint"] == pytest.approx(2)
    assert rows["gridding forward"] == pytest.approx(6 / 5) and rows["FINUFFT adjoint"] == pytest.approx(4)


def test_the_contestants_of_gridding_differ_in_their_kernels_alone(benchmark: ModuleType) -> None:
    ours, plain = benchmark.made("radial", 16, 4, 5), benchmark.made("gridding", 16, 4, 5)
    assert plain.scan is None
    x = torch.randn(1, 1, 16, 16, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.forward(x), plain.forward(x), rtol=1e-4, atol=1e-5)


def test_memory_grows_with_the_operator(benchmark: ModuleType) -> None:
    assert benchmark.memory("random", 32, 2, 4) >= 0
