"""MRI operators side by side: SENSE against the FFTs that it needs, and non-Cartesian scans against FINUFFT.

    python benchmarks/mri.py [--json] [--rounds 7] [--size 320] [--coils 8] [--spokes 64] [--cpu-time]

Rounds interleave the contestants, so that what else the machine does falls on all of them; reported are medians and
their ratio to one full fft2 of all coils (SENSE), or to the faster of FINUFFT's bare plans (where the package is
installed), whose maps are not counted, and gridding by torch's sparse matrices (NUFFT); of the Toeplitz operator to
forward and adjoint. Errors are against the exact sums of exponentials on part of the samples. Of each operator there
are the time to set up and the memory that set-up and products take, in a process of its own. --cpu-time counts the
process's CPU seconds instead of the clock's: with OMP_NUM_THREADS=1 they are steadier on a busy machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from operators import grown, high_water
from torch import Tensor

from recon.operators import registry
from recon.operators.base import LinearOperator
from recon.operators.cartesian import CartesianMRI
from recon.operators.mri_nufft import NonCartesianMRI

EXACT_SAMPLES = 200  # that errors are taken over
CALLS = 5  # in a round of each contestant
PEERS = ("FINUFFT", "gridding")


def sense(size: int, coils: int, mask: str) -> CartesianMRI:
    """Return SENSE of a complex image with synthetic maps, four times undersampled."""
    params = {"acceleration": 4.0, "coils": coils, "complex_image": True, "mask": mask}
    operator = registry.build(registry.draw("mri", params, (1, size, size), seed=0))
    assert isinstance(operator, CartesianMRI)
    return operator


def radial(size: int, coils: int, spokes: int, **params: Any) -> NonCartesianMRI:
    """Return a radial scan of a complex image, two samples per pixel along each spoke."""
    wanted = {"shots": spokes, "coils": coils, "complex_image": True, **params}
    operator = registry.build(registry.draw("mri-nufft", wanted, (1, size, size), seed=0))
    assert isinstance(operator, NonCartesianMRI)
    return operator


def made(name: str, size: int, coils: int, spokes: int) -> LinearOperator:
    """Return an operator whose set-up and memory are reported; "gridding" by the reference in torch."""
    if name in ("random", "gaussian2d"):
        return sense(size, coils, name)
    os.environ["RECON_KERNELS"] = "reference" if name == "gridding" else ""
    found = radial(size, coils, spokes, toeplitz=name == "Toeplitz")
    os.environ["RECON_KERNELS"] = ""
    return found


def timed(name: str, size: int, coils: int, spokes: int) -> tuple[LinearOperator, dict[str, float | None]]:
    """Return an operator, how long its set-up took, and the memory that set-up and its products take."""
    start = time.perf_counter()
    operator = made(name, size, coils, spokes)
    setup = time.perf_counter() - start
    peak = grown(__file__, "--memory", name, "--size", str(size), "--coils", str(coils), "--spokes", str(spokes))
    return operator, {"setup_seconds": setup, "peak_mb": peak}


def memory(name: str, size: int, coils: int, spokes: int) -> float:
    """Return the growth of this process's peak memory in MB by set-up and products."""
    x = torch.zeros(1, 1, size, size, dtype=torch.complex64)
    torch.fft.fft2(x)  # what torch itself loads does not count
    before = high_water()
    operator = made(name, size, coils, spokes)
    operator.adjoint(operator.forward(x))
    operator.normal(x)
    return (high_water() - before) / 1024


def medians(
    calls: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float], what: str
) -> dict[str, float]:
    """Return the median milliseconds of each call, over rounds that run all of them in turn."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for index in range(rounds):
        for name, call in calls.items():
            start = clock()
            for _ in range(CALLS):
                call()
            found[name].append((clock() - start) / CALLS)
        print(f"{what}: round {index + 1}/{rounds}", file=sys.stderr)
    return {name: 1e3 * statistics.median(values) for name, values in found.items()}


def measure_sense(size: int, coils: int, rounds: int, clock: Callable[[], float]) -> list[dict[str, Any]]:
    """Return the rows of SENSE, relative to one full fft2 of all coils."""
    (lines, of_lines), (points, of_points) = (timed(mask, size, coils, 0) for mask in ("random", "gaussian2d"))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, size, size, dtype=torch.complex64, generator=generator)
    whole, y = torch.randn(1, coils, size, size, dtype=torch.complex64, generator=generator), lines.forward(x)
    calls: dict[str, Callable[[], Any]] = {
        "fft2 of all coils": lambda: torch.fft.fft2(whole),
        "forward": lambda: lines.forward(x),
        "adjoint": lambda: lines.adjoint(y),
        "normal, lines": lambda: lines.normal(x),
        "normal, points": lambda: points.normal(x),
    }
    times = medians(calls, rounds, clock, "SENSE")
    unit = times["fft2 of all coils"]
    facts = {"forward": of_lines, "normal, points": of_points}
    return [
        {"case": "SENSE", "call": name, "ms": ms, "ratio": ms / unit, **facts.get(name, {})}
        for name, ms in times.items()
    ]


def measure_nufft(size: int, coils: int, spokes: int, rounds: int, clock: Callable[[], float]) -> list[dict[str, Any]]:
    """Return the rows of the radial scan, relative to the faster of FINUFFT's bare plans and gridding in torch."""
    ours, of_ours = timed("radial", size, coils, spokes)
    fast, of_fast = timed("Toeplitz", size, coils, spokes)
    plain, of_plain = timed("gridding", size, coils, spokes)
    assert isinstance(ours, NonCartesianMRI) and isinstance(plain, NonCartesianMRI)
    x = torch.randn(1, 1, size, size, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    y = ours.forward(x)
    calls: dict[str, Callable[[], Any]] = {
        "forward": lambda: ours.forward(x),
        "adjoint": lambda: ours.adjoint(y),
        "normal, Toeplitz": lambda: fast.normal(x),
        "gridding forward": lambda: plain.forward(x),
        "gridding adjoint": lambda: plain.adjoint(y),
    }
    errors = {"forward": exact_error(ours, x), "gridding forward": exact_error(plain, x)}
    slow, quick = ours.normal(x), fast.normal(x)
    errors["normal, Toeplitz"] = float((slow - quick).norm() / slow.norm())
    if importlib.util.find_spec("finufft"):
        bare, error = finufft_plans(ours, x, y)
        calls |= bare
        errors["FINUFFT forward"] = error
    times = medians(calls, rounds, clock, "NUFFT")
    times["forward and adjoint"] = times["forward"] + times["adjoint"]
    best = {what: min(times.get(f"{who} {what}", math.inf) for who in PEERS) for what in ("forward", "adjoint")}
    units = best | {"normal, Toeplitz": times["forward and adjoint"]}
    units |= {f"{who} {what}": best[what] for who in PEERS for what in best}
    facts = {"forward": of_ours, "normal, Toeplitz": of_fast, "gridding forward": of_plain}
    rows = []
    for name, ms in times.items():
        row = {"case": "NUFFT", "call": name, "ms": ms, "ratio": ms / units[name] if name in units else None}
        rows.append(row | {"error": errors.get(name)} | facts.get(name, {}))
    return rows


def finufft_plans(operator: NonCartesianMRI, x: Tensor, y: Tensor) -> tuple[dict[str, Callable[[], Any]], float]:
    """Return FINUFFT's transforms of the same images and samples at its tolerance 1e-4, and their error."""
    import finufft

    coils, shape, path = operator.out_shape[0], operator.in_shape[1:], operator.by.path  # type: ignore[attr-defined]
    angles = [np.ascontiguousarray(2 * math.pi * path[:, d], np.float32) for d in (1, 0)]
    settings: dict[str, Any] = {
        "eps": 1e-4,
        "dtype": "complex64",
        "upsampfac": 1.25,
        "nthreads": torch.get_num_threads(),
    }
    there, back = (finufft.Plan(k, shape, coils, isign=s, **settings) for k, s in ((2, -1), (1, 1)))
    for plan in (there, back):
        plan.setpts(*angles)
    images = (x * operator.maps).reshape(coils, *shape).numpy()
    samples = np.ascontiguousarray(y.reshape(coils, -1).numpy())
    found = there.execute(images) / math.sqrt(math.prod(shape))
    chosen = exact_samples(operator, x)
    error = float(np.linalg.norm(found[:, chosen[0]] - chosen[1]) / np.linalg.norm(chosen[1]))
    return {"FINUFFT forward": lambda: there.execute(images), "FINUFFT adjoint": lambda: back.execute(samples)}, error


def exact_samples(operator: NonCartesianMRI, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return some indices and their samples (coils, n) by the sums of exponentials."""
    path, shape = operator.by.path, operator.in_shape[1:]  # type: ignore[attr-defined]
    chosen = np.random.default_rng(0).choice(len(path), min(EXACT_SAMPLES, len(path)), replace=False)
    waves = [
        np.exp(-2j * np.pi * np.outer(path[chosen, d], np.arange(n) - n // 2))
        for d, n in zip((1, 0), shape, strict=True)
    ]
    images = (x[0] * operator.maps).numpy().astype(np.complex128)
    return chosen, np.einsum("jy,cyx,jx->cj", waves[0], images, waves[1], optimize=True) / math.sqrt(math.prod(shape))


def exact_error(operator: NonCartesianMRI, x: Tensor) -> float:
    """Return the relative error of the samples."""
    chosen, exact = exact_samples(operator, x)
    found = operator.forward(x)[0].flatten(1)[:, chosen].numpy()
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def measure(
    rounds: int, size: int = 320, coils: int = 8, spokes: int = 64, clock: Callable[[], float] = time.perf_counter
) -> list[dict[str, Any]]:
    """Return all rows."""
    return measure_sense(size, coils, rounds, clock) + measure_nufft(size, coils, spokes, rounds, clock)


def table(rows: list[dict[str, Any]]) -> None:
    """Print the rows for a person."""
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}x"
        error = "" if row.get("error") is None else f"  error {row['error']:.1e}"
        setup = "" if row.get("setup_seconds") is None else f"  set-up {row['setup_seconds']:.2f} s"
        peak = "" if row.get("peak_mb") is None else f"  peak {row['peak_mb']:.0f} MB"
        print(f"{row['case']:7}{row['call']:22}{row['ms']:9.2f} ms{ratio:>9}{error}{setup}{peak}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="MRI operators side by side.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--spokes", type=int, default=64)
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds of the process in place of the clock's")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print(memory(arguments.memory, arguments.size, arguments.coils, arguments.spokes))
        return
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    rows = measure(arguments.rounds, arguments.size, arguments.coils, arguments.spokes, clock)
    facts = {"threads": torch.get_num_threads(), "torch": torch.__version__, "rounds": arguments.rounds}
    if arguments.json:
        print(json.dumps({"benchmark": "mri", **facts, "rows": rows}))
        return
    print(f"medians of {arguments.rounds} rounds, {facts['threads']} threads, {arguments.size}x{arguments.size}")
    table(rows)


if __name__ == "__main__":
    main()
