"""The Triton projectors on the GPU of this machine, and what their kernels take of any GPU.

    python benchmarks/gpu.py [--rounds 20] [--batch 1 8] [--only parallel fan cone] [--json] [--output FILE]
    python benchmarks/gpu.py --resources [--output FILE]

The first form needs a GPU (CUDA or ROCm), and exits with 7 where there is none. For every scan it reports the relative
error of both directions against the CPU's projector in float64, the adjoint mismatch
|<A x, y> - <x, A^T y>|/(||A x|| ||y||), the median time of a product in float32 after warming up, and the part of the
memory's speed, measured by copying, and of the chip's published arithmetic that it reaches. The second form compiles
every kernel ahead of time for sm_80, sm_90 and gfx942, which needs no GPU, and writes the tables of docs/kernels.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recon.errors import ReconError, ResourceError
from recon.kernels import dispatch
from recon.kernels.dispatch import Geometry
from recon.kernels.parallel import ParallelGeometry
from recon.kernels.projector import Projector
from recon.kernels.scans import ConeGeometry, FanGeometry
from recon.kernels.triton.catalog import kernels
from recon.kernels.triton.resources import TARGETS, compiled, markdown, resource_table, roofline_table
from recon.kernels.triton.work import Work, adjoint_work, forward_work

GB = 1e9
FAN = ((256, 256), 2.0 * np.arange(180), 363, 1.6, 600.0, 900.0)
SCANS: dict[str, Geometry] = {
    "parallel": ParallelGeometry((256, 256), np.arange(180.0), 363),
    "parallel-large": ParallelGeometry((512, 512), np.arange(720) / 4, 725),
    "fan": FanGeometry(*FAN),
    "fan-curved": FanGeometry(*FAN, curved=True),
    "cone": ConeGeometry((64, 64, 64), 6.0 * np.arange(60), (80, 100), (1.5, 1.5), 200.0, 300.0),
    "cone-large": ConeGeometry((256, 256, 256), 2.0 * np.arange(180), (320, 400), (1.5, 1.5), 800.0, 1200.0),
}


def milliseconds(function: Callable[[], Any], rounds: int) -> float:
    """Return the median time of a call on the GPU, after two that compile and warm up."""
    function(), function()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def copying_speed(rounds: int) -> float:
    """Return the memory's speed in byte/s, of copying 1 GiB."""
    source = torch.empty(2**28, device="cuda")
    target = torch.empty_like(source)
    return 2 * 4 * 2**28 / (1e-3 * milliseconds(lambda: target.copy_(source), rounds))


def published_flops() -> float | None:
    """Return the chip's float32 operations a second, where it is one of `TARGETS`."""
    name = torch.cuda.get_device_name()
    return next((target.flops for target in TARGETS if target.chip.split()[0] in name), None)


def accuracy(geometry: Geometry, ours: Projector, exact: Projector) -> dict[str, float]:
    """Return relative errors against the exact projector on the CPU, and the adjoint mismatch."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(1, prod(s), generator=generator) for s in (geometry.in_shape, geometry.out_shape))
    ax, aty = ours.forward(x.cuda()).cpu().double(), ours.adjoint(y.cuda()).cpu().double()
    x, y = x.double(), y.double()
    expected, back = exact.forward(x), exact.adjoint(y)
    gap = abs(float((ax * y).sum() - (x * aty).sum()))
    return {
        "forward_error": float((ax - expected).norm() / expected.norm()),
        "adjoint_error": float((aty - back).norm() / back.norm()),
        "mismatch": gap / float(ax.norm() * y.norm()),
    }


def measure(name: str, batch: int, rounds: int, bandwidth: float, flops: float | None) -> list[dict[str, Any]]:
    """Return a row for each direction."""
    geometry = SCANS[name]
    ours = dispatch.projector(geometry, 4 * GB, torch.device("cuda"))
    if ours.name != "triton":
        raise ResourceError(f"the GPU's projector is '{ours.name}', not triton", "see recon doctor")
    exact = dispatch.projector(geometry, 8 * GB, torch.device("cpu")).to(None, torch.float64)
    checked = accuracy(geometry, ours, exact)
    x: Tensor = torch.randn(batch, prod(geometry.in_shape), device="cuda")
    y = ours.forward(x)
    rows = []
    products: list[tuple[str, Callable[[], Tensor], Work]] = [
        ("forward", lambda: ours.forward(x), forward_work(geometry, batch)),
        ("adjoint", lambda: ours.adjoint(y), adjoint_work(geometry, batch)),
    ]
    for what, product, work in products:
        took = 1e-3 * milliseconds(product, rounds)
        rows.append(
            {
                "scan": name,
                "batch": batch,
                "product": what,
                "error": checked[f"{what}_error"],
                "mismatch": checked["mismatch"],
                "ms": 1e3 * took,
                "gb_per_second": work.bytes / took / GB,
                "of_memory": work.bytes / took / bandwidth,
                "of_arithmetic": work.flops / took / flops if flops else None,
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    titles = ("scan", "batch", "product", "error", "mismatch", "ms", "GB/s", "of memory", "of arithmetic")
    cells = (
        (
            row["scan"],
            str(row["batch"]),
            row["product"],
            f"{row['error']:.1e}",
            f"{row['mismatch']:.1e}",
            f"{row['ms']:.3f}",
            f"{row['gb_per_second']:.1f}",
            f"{row['of_memory']:.1%}",
            "?" if row["of_arithmetic"] is None else f"{row['of_arithmetic']:.1%}",
        )
        for row in rows
    )
    return markdown(titles, cells)


def resources() -> str:
    """Return the tables of every kernel's resources and roofline, in Markdown."""
    found = [(kernel, [compiled(kernel, target) for target in TARGETS]) for kernel in kernels()]
    return f"{resource_table(found)}\n\n{roofline_table([kernel for kernel, _ in found])}"


def on_the_gpu(arguments: argparse.Namespace) -> str:
    """Return the measurements as text. Raises ResourceError where there is no GPU."""
    if not torch.cuda.is_available():
        raise ResourceError("this machine has no GPU that torch can use", "--resources needs none")
    bandwidth, flops = copying_speed(arguments.rounds), published_flops()
    rows = [
        row
        for name in arguments.only
        for batch in arguments.batch
        for row in measure(name, batch, arguments.rounds, bandwidth, flops)
    ]
    about = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "copying_gb_per_second": bandwidth / GB}
    if arguments.json:
        return json.dumps({"benchmark": "gpu", **about, "rounds": arguments.rounds, "rows": rows})
    words = f"{about['gpu']}, torch {about['torch']}, copies at {bandwidth / GB:.0f} GB/s, median of {arguments.rounds}"
    return f"{words}\n\n{table(rows)}"


def main(argv: list[str] | None = None) -> int:
    """Write what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(description="The Triton projectors on a GPU.")
    parser.add_argument("--resources", action="store_true", help="compile ahead of time, without a GPU")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--only", nargs="+", choices=SCANS, default=list(SCANS))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--output", type=Path, help="write to this file")
    arguments = parser.parse_args(argv)
    try:
        text = resources() if arguments.resources else on_the_gpu(arguments)
    except ReconError as err:
        print(f"{err} ({err.hint})", file=sys.stderr)
        return err.exit_code
    if arguments.output:
        arguments.output.write_text(text + "\n")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
