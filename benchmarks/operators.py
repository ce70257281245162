"""Projectors of tomography side by side: ours, torch's sparse CSR, and the peers that are installed; and MRI.

    python benchmarks/operators.py [--json] [--rounds 7] [--only parallel fan cone large mri] [--batch 8]

Each case is one scan; every contestant projects and backprojects one image and a batch, and the rounds interleave the
contestants, so that what else the machine does falls on all of them. Reported are medians over the rounds, the ratio to
ours, the adjoint mismatch |<A x, y> - <x, A^T y>|/(||A x|| ||y||), the time to set up, and how much memory set-up and
both products take, in a process of its own. Peers take part where they are installed, and are no dependencies: ASTRA's
CPU projectors and DeepInverse (parallel), ASTRA's (fan), and for cones, where ASTRA has none, RTK's (itk-rtk): Joseph's
method with its transpose, and with a voxel-driven backprojection, which is none. Set-up includes a peer's import.
`mri` runs benchmarks/mri.py at its defaults.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor

from recon.kernels.compiled import library
from recon.kernels.dispatch import Geometry
from recon.operators import registry
from recon.operators.tomography import RayTransform

STORED_GB = 4.0


@dataclass(frozen=True)
class Case:
    """A scan: the operator's kind, its parameters, and the image's shape without the channel."""

    kind: str
    params: dict[str, Any]
    shape: tuple[int, ...]


CASES = {
    "parallel": Case("ct", {"angles": 180, "detectors": 363, "memory_gb": STORED_GB}, (256, 256)),
    "fan": Case(
        "ct-fan",
        {
            "angles": 180,
            "detectors": 363,
            "detector_pitch": 1.6,
            "source_distance": 600.0,
            "detector_distance": 900.0,
            "memory_gb": STORED_GB,
        },
        (256, 256),
    ),
    "cone": Case(
        "ct-cone",
        {
            "angles": 60,
            "detector_rows": 80,
            "detector_columns": 100,
            "row_pitch": 1.5,
            "column_pitch": 1.5,
            "source_distance": 200.0,
            "detector_distance": 300.0,
            "allow_truncation": True,
            "memory_gb": STORED_GB,
        },
        (64, 64, 64),
    ),
    "large": Case("ct", {"angles": 720, "detectors": 725, "memory_gb": STORED_GB}, (512, 512)),
}


@dataclass(frozen=True)
class Pair:
    """A contestant: forward (B, 1, *shape) -> data, adjoint the other way."""

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]


def ours(case: Case, kernels: str) -> Pair:
    """Return the operator with the kernels of that name, or the default ones."""
    os.environ["RECON_KERNELS"] = kernels
    operator = registry.build(registry.draw(case.kind, case.params, (1, *case.shape), seed=0))
    assert isinstance(operator, RayTransform)
    os.environ["RECON_KERNELS"] = ""
    return Pair(operator.forward, operator.adjoint)


def geometry_of(case: Case) -> Geometry:
    """Return the scan's geometry."""
    operator = registry.build(registry.draw(case.kind, case.params, (1, *case.shape), seed=0))
    assert isinstance(operator, RayTransform)
    return operator.geometry


def astra(case: Case, model: str) -> Pair:
    """Return ASTRA's CPU projector of that name; batches one by one."""
    import astra as library

    g: Any = geometry_of(case)
    radians = np.radians(g.angles)
    volume = library.create_vol_geom(*case.shape)
    if case.kind == "ct":
        scan = library.create_proj_geom("parallel", g.spacing, g.detectors, radians)
    else:
        away = g.detector_distance - g.source_distance
        scan = library.create_proj_geom("fanflat", g.pitch, g.detectors, radians, g.source_distance, away)
    projector = library.create_projector(model, scan, volume)

    def one(values: np.ndarray, back: bool) -> np.ndarray:
        given = np.ascontiguousarray(values, np.float32)
        found = np.zeros(case.shape if back else (len(radians), g.detectors), np.float32)
        image, data = (found, given) if back else (given, found)
        image_id = library.data2d.link("-vol", volume, image)
        data_id = library.data2d.link("-sino", scan, data)
        settings = library.astra_dict("BP" if back else "FP")
        settings["ProjectorId"], settings["ProjectionDataId"] = projector, data_id
        settings["ReconstructionDataId" if back else "VolumeDataId"] = image_id
        algorithm = library.algorithm.create(settings)
        library.algorithm.run(algorithm)
        library.algorithm.delete(algorithm)
        library.data2d.delete([image_id, data_id])
        return found

    def each(values: Tensor, back: bool) -> Tensor:
        return torch.from_numpy(np.stack([one(v[0].numpy(), back)[None] for v in values]))

    return Pair(lambda x: each(x, False), lambda y: each(y, True))


def rtk(case: Case, back_filter: str) -> Pair:
    """Return the CPU projector of the Reconstruction Toolkit and a backprojector of that name; batches one by one.

    Its axis of rotation is y, where ours is z; otherwise the coordinates are the same.
    """
    import itk
    from itk import RTK

    g: Any = geometry_of(case)
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(torch.get_num_threads())
    kind = itk.Image[itk.F, 3]
    scan = RTK.ThreeDCircularProjectionGeometry.New()
    for degrees in g.angles:
        scan.AddProjection(g.source_distance, g.detector_distance, float(degrees), 0.0, 0.0)
    spacings = (g.pixel_size, g.slice_distance, g.pixel_size), (g.pitch[1], g.pitch[0], 1.0)

    def image(values: np.ndarray, spacing: tuple[float, ...], offset: tuple[float, ...]) -> Any:
        found = itk.image_from_array(values)
        found.SetSpacing(spacing)
        sizes = values.shape[::-1]
        found.SetOrigin([o - (n - 1) / 2 * s for n, s, o in zip(sizes, spacing, offset, strict=True)])
        return found

    offsets = (0.0, 0.0, 0.0), (g.offset[1], g.offset[0], 0.0)

    def one(values: np.ndarray, back: bool) -> np.ndarray:
        """Add the product to an image of zeros: volumes as (Y, Z, X), projections as (views, rows, columns)."""
        slices, rows, columns = g.shape
        shape = (rows, slices, columns) if back else g.out_shape
        name = back_filter if back else "JosephForwardProjectionImageFilter"
        run = getattr(RTK, name)[kind, kind].New()
        run.SetInput(0, image(np.zeros(shape, np.float32), spacings[not back], offsets[not back]))
        given = values if back else values.transpose(1, 0, 2)
        run.SetInput(1, image(np.ascontiguousarray(given), spacings[back], offsets[back]))
        run.SetGeometry(scan)
        run.Update()
        found = itk.array_from_image(run.GetOutput())
        return np.ascontiguousarray(found.transpose(1, 0, 2)) if back else found

    def each(values: Tensor, back: bool) -> Tensor:
        return torch.from_numpy(np.stack([one(v[0].numpy(), back)[None] for v in values]))

    return Pair(lambda x: each(x, False), lambda y: each(y, True))


def deepinverse(case: Case) -> Pair:
    """Return DeepInverse's default pair, without its normalisation, which only rescales it."""
    from deepinv.physics import Tomography

    physics = Tomography(angles=case.params["angles"], img_width=case.shape[0], circle=False, normalize=False)
    return Pair(physics.A, physics.A_adjoint)


def contestants(name: str) -> dict[str, Callable[[Case], Pair]]:
    """Return who takes part in a case."""
    found: dict[str, Callable[[Case], Pair]] = {"recon": lambda case: ours(case, "")}
    if name != "large":
        found["torch CSR"] = lambda case: ours(case, "reference")
    if importlib.util.find_spec("astra"):
        if name == "fan":
            found["ASTRA line"] = lambda case: astra(case, "line_fanflat")
            found["ASTRA strip"] = lambda case: astra(case, "strip_fanflat")
        elif name != "cone":
            found["ASTRA"] = lambda case: astra(case, "linear")
    if name == "cone" and installed("itk-rtk"):
        found["RTK Joseph"] = lambda case: rtk(case, "JosephBackProjectionImageFilter")
        found["RTK voxel"] = lambda case: rtk(case, "BackProjectionImageFilter")
    if name == "parallel" and importlib.util.find_spec("deepinv"):
        found["DeepInverse"] = deepinverse
    return found


def installed(distribution: str) -> bool:
    """Return whether a distribution is installed, by whatever name it is imported."""
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def seconds(function: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def mismatch(pair: Pair, x: Tensor, y: Tensor) -> float:
    """Return |<A x, y> - <x, A^T y>|/(||A x|| ||y||), inner products in double precision."""
    ax, aty = pair.forward(x).double(), pair.adjoint(y).double()
    gap = abs(float((ax * y.double()).sum() - (x.double() * aty).sum()))
    return gap / float(ax.norm() * y.double().norm())


def measure(name: str, rounds: int, batch: int) -> list[dict[str, Any]]:
    """Return one row a contestant."""
    case, pairs, setup = CASES[name], {}, {}
    for who, make in contestants(name).items():
        start = time.perf_counter()
        pairs[who] = make(case)
        setup[who] = time.perf_counter() - start
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 1, *case.shape, generator=generator)
    data, times = {}, {}
    for who, pair in pairs.items():
        data[who] = torch.randn(batch, *pair.forward(x[:1]).shape[1:], generator=generator)
        pair.adjoint(data[who][:1])
        times[who] = {what: [] for what in ("forward", "adjoint", "forward_batch", "adjoint_batch")}
    for index in range(rounds):
        for who, pair in pairs.items():
            one, many = times[who], data[who]
            one["forward"].append(seconds(lambda p=pair: p.forward(x[:1])))
            one["adjoint"].append(seconds(lambda p=pair, y=many: p.adjoint(y[:1])))
            one["forward_batch"].append(seconds(lambda p=pair: p.forward(x)))
            one["adjoint_batch"].append(seconds(lambda p=pair, y=many: p.adjoint(y)))
        print(f"{name}: round {index + 1}/{rounds}", file=sys.stderr)
    medians = {who: {what: 1e3 * statistics.median(v) for what, v in each.items()} for who, each in times.items()}
    rows = []
    for who, pair in pairs.items():
        ratios = {what: medians[who][what] / medians["recon"][what] for what in medians[who]}
        rows.append(
            {
                "case": name,
                "contestant": who,
                **{f"{what}_ms": value for what, value in medians[who].items()},
                "times_ours": ratios,
                "mismatch": mismatch(pair, x[:1], data[who][:1]),
                "setup_seconds": setup[who],
                "peak_mb": peak(name, who),
            }
        )
    return rows


def peak(name: str, who: str) -> float | None:
    """Return how much memory set-up and both products take, in MB, in a process of its own; None where it fails."""
    return grown(__file__, "--memory", name, who)


def grown(*script: str) -> float | None:
    """Return the number that a script prints last, run in a process of its own; None where it fails."""
    command = [sys.executable, *os.environ.get("RECON_BENCHMARK_RUNNER", "").split(), *script]
    done = subprocess.run(command, capture_output=True, text=True)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def memory(name: str, who: str) -> float:
    """Return the growth of this process's peak memory in MB."""
    case, make = CASES[name], contestants(name)[who]
    x = torch.randn(1, 1, *case.shape)
    torch.fft.rfft(x[0, 0])  # what torch itself loads does not count
    before = high_water()
    pair = make(case)
    pair.adjoint(pair.forward(x))
    return (high_water() - before) / 1024


def high_water() -> int:
    """Return the peak memory of this process in kB: Linux's own record, as getrusage includes that of the parent."""
    record = Path("/proc/self/status")
    lines = record.read_text().splitlines() if record.exists() else []
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return peaks[0] if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def table(rows: list[dict[str, Any]], batch: int) -> None:
    """Print the rows for a person."""
    titles = ("forward", "adjoint", f"forward x{batch}", f"adjoint x{batch}")
    print(f"{'case':10}{'contestant':13}" + "".join(f"{t:>19}" for t in titles) + "  mismatch   set-up      peak")
    for row in rows:
        keys = ("forward", "adjoint", "forward_batch", "adjoint_batch")
        cells = "".join(f"{row[f'{k}_ms']:>9.1f} ms{row['times_ours'][k]:>6.1f}x " for k in keys)
        taken = "?" if row["peak_mb"] is None else f"{row['peak_mb']:.0f} MB"
        facts = f"{row['mismatch']:>10.1e}{row['setup_seconds']:>7.2f} s{taken:>10}"
        print(f"{row['case']:10}{row['contestant']:13}{cells}{facts}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Operators of tomography and MRI side by side.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=[*CASES, "mri"], default=[*CASES, "mri"])
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print(memory(*arguments.memory))
        return
    import mri  # which takes its measurement of memory from here

    scans = [name for name in arguments.only if name != "mri"]
    rows = [row for name in scans for row in measure(name, arguments.rounds, arguments.batch)]
    others = mri.measure(arguments.rounds) if "mri" in arguments.only else []
    facts = {
        "kernels": library().instructions or library().reason,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rounds": arguments.rounds,
        "batch": arguments.batch,
    }
    if arguments.json:
        print(json.dumps({"benchmark": "operators", **facts, "rows": rows + others}))
        return
    print(f"medians of {arguments.rounds} rounds, {facts['threads']} threads, compiled kernels: {facts['kernels']}")
    if rows:
        table(rows, arguments.batch)
    if others:
        mri.table(others)


if __name__ == "__main__":
    main()
