"""The benchmark of GPUs: what it does without one, its tables, and its measurements with stand-ins for a GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from recon.kernels import dispatch
from recon.kernels.parallel import ParallelGeometry
from recon.kernels.triton.catalog import kernels
from recon.kernels.triton.resources import Resources, roofline_table
from recon.kernels.triton.work import Work, adjoint_work, forward_work

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_benchmark", module)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so_in_a_line_and_exits_with_7(gpu, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 7
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and "no GPU" in printed.err


def test_a_gpu_without_triton_is_refused(gpu, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(gpu, "copying_speed", lambda rounds: 3e12)
    monkeypatch.setattr(
        gpu.dispatch, "projector", lambda *_: dispatch.StoredMatrix(torch.zeros(1, 1), torch.zeros(1, 1))
    )
    assert gpu.main(["--only", "parallel"]) == 7
    assert "'reference', not triton" in capsys.readouterr().err


def test_measurements_of_a_scan(gpu, monkeypatch, tmp_path) -> None:
    """On the CPU: its projector stands in for the GPU's, and a clock for the GPU's events."""
    monkeypatch.setitem(gpu.SCANS, "parallel", ParallelGeometry((9, 8), np.arange(7) * 25.0, 13))
    chosen = dispatch.projector

    class Named:
        name = "triton"

        def __init__(self, inner):
            self.forward, self.adjoint = inner.forward, inner.adjoint

    def projector(geometry, memory, device):
        inner = chosen(geometry, memory)
        return Named(inner) if device.type == "cuda" else inner

    plain = torch.randn
    monkeypatch.setattr(gpu.dispatch, "projector", projector)
    monkeypatch.setattr(gpu.torch, "randn", lambda *shape, device="cpu", **rest: plain(*shape, **rest))
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(gpu, "copying_speed", lambda rounds: 3e12)
    monkeypatch.setattr(gpu, "milliseconds", lambda function, rounds: function().numel() * 1e-3)

    assert gpu.main(["--only", "parallel", "--batch", "2", "--json", "--output", str(tmp_path / "out")]) == 0
    forward, adjoint = json.loads((tmp_path / "out").read_text())["rows"]
    work = forward_work(gpu.SCANS["parallel"], 2)
    assert forward["ms"] == pytest.approx(2 * 7 * 13 * 1e-3) and adjoint["ms"] == pytest.approx(2 * 72 * 1e-3)
    assert forward["gb_per_second"] == pytest.approx(work.bytes / (forward["ms"] * 1e6))
    assert forward["of_arithmetic"] == pytest.approx(work.flops / (1e-3 * forward["ms"] * 66.9e12))
    assert 0 < forward["error"] < 1e-6 and adjoint["mismatch"] < 1e-6

    assert gpu.main(["--only", "parallel", "--batch", "1", "2", "--output", str(tmp_path / "table")]) == 0
    lines = (tmp_path / "table").read_text().splitlines()
    assert "H100" in lines[0] and len([line for line in lines if line.startswith("| parallel |")]) == 4


def test_the_tables_have_a_row_a_kernel(gpu, monkeypatch, capsys) -> None:
    monkeypatch.setattr(gpu, "compiled", lambda kernel, target: Resources(kernel.name, target.name, 30, 0, 16))
    assert gpu.main(["--resources"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| 30 / 0 / 16 | 30 / 0 / 16 | 30 / 0 / 16 |") == len(kernels())
    assert all(printed.count(f"| `{name}` |") >= 2 for name in {kernel.name for kernel in kernels()})


def test_a_roofline_says_what_bounds_a_kernel() -> None:
    table = roofline_table([kernel for kernel in kernels() if kernel.function == "weigh_cone"])
    assert table.count("memory") == 3 and "arithmetic" not in table
    assert Work(2e12, 1e12).seconds(1e12, 1e13) == 2 and Work(1e12, 1e14).seconds(1e12, 1e13) == 10


def test_work_grows_as_the_scan_does() -> None:
    small, large = (ParallelGeometry((n, n), np.arange(float(n)), n) for n in (32, 64))
    for work in (forward_work, adjoint_work):
        assert work(large).flops == pytest.approx(8 * work(small).flops)
        assert work(large, 2).bytes < 2 * work(large).bytes + 1
    # by hand: 32 views of 32 rays on 32 lines, a fraction and 4 operations each
    assert forward_work(small).flops == 32**3 * 5 and forward_work(small, 3).flops == 32**3 * 13
