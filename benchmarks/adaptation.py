"""A prior that is fitted to the data on the way (`d3ip`) against the prior as it is (`dds-3d`), on an object that the
prior has not seen.

    python benchmarks/adaptation.py [--problem ct-8] [--object phantom] [--size 64] [--slices 16] [--steps 50]
                                    [--prior NAME] [--noise SIGMA] [--data-seed 0] [--seed 0] [--set KEY=VALUE]...
                                    [--settings KEY=VALUE]...

Prints a row of a Markdown table: PSNR of both by the problem's protocol, the gain, and network evaluations, of which
those of the fit go through the network backwards, too. `phantom` is a phantom of computed tomography as the prior
`phantom-ct` is trained on, turned and enlarged a little from slice to slice; `head` is the middle of the shipped head,
which `brain-mri` knows and `fashion32` does not. --set: of d3ip alone.  --settings: of both.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import scipy.ndimage

import recon.sample_data
from recon.config.resolve import resolve
from recon.data import Geometry, Volume, to_stack
from recon.errors import ReconError
from recon.io.registry import read_volume
from recon.metrics.evaluate import evaluate
from recon.metrics.protocols import find_protocol
from recon.runs.execute import execute
from recon.runs.plan import make_plan
from recon.runs.simulate import simulate
from recon.training.phantoms import random_phantom

TURN = 1.5  # degrees from slice to slice
GROWTH = 1.01  # magnification


def phantom(size: int, slices: int, seed: int) -> np.ndarray:
    """Return a volume (slices, size, size) between 0 and 1 that changes smoothly along z."""
    flat = random_phantom(2 * size, np.random.default_rng(seed))
    flat = np.clip((flat + 1) / 2.8, 0, 1)
    found = []
    for z in range(slices):
        angle, scale = np.radians(TURN * z), GROWTH**z
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale * 2
        centre = np.full(2, size - 0.5)
        smooth = scipy.ndimage.gaussian_filter(flat, 0.6)
        offset = centre - turn @ np.full(2, (size - 1) / 2)
        found.append(scipy.ndimage.affine_transform(smooth, turn, offset, (size, size), order=1))
    return np.stack(found).astype(np.float32)


def head(size: int, slices: int) -> np.ndarray:
    """Return the middle of the shipped head, (slices, size, size) between 0 and 1; pixels are averaged to show most."""
    volume = read_volume(Path(recon.sample_data.__file__).parent / "brain_volume.nii.gz")
    array = to_stack(volume)[:, 0]
    block = max(1, min(array.shape[1:]) // size)
    window = tuple(
        slice((n - m) // 2, (n - m) // 2 + m)
        for n, m in zip(array.shape, (slices, block * size, block * size), strict=True)
    )
    part = array[window].astype(np.float32).reshape(slices, size, block, size, block).mean((2, 4))
    return np.asarray(part / part.max())


def measured(args: argparse.Namespace, method: str, truth: Volume, sets: list[str]) -> dict[str, Any]:
    """Return the scores of a method."""
    own = [f"method.{s}" for s in (f"steps={args.steps}", *args.settings, *sets)]
    preset = f"{args.problem}-{method}"
    shared = [f"run.seed={args.seed}", "run.backend=eager"]
    if args.noise is not None:
        shared.append(f"noise.sigma={args.noise}")
    config = resolve(preset, sets=[*own, *shared], flags={"prior.name": args.prior}, environ={}).config
    data = config.model_copy(update={"run": config.run.model_copy(update={"seed": args.data_seed})})
    started = time.monotonic()
    plan = make_plan(config, simulate(truth, data))
    outcome = execute(plan, lambda p: print(f"{method}: {p.done}/{p.total}", end="\r", file=sys.stderr))
    found = evaluate(outcome.mean, to_stack(truth), find_protocol(config.metrics.protocol), truth.geometry.value_range)
    return {
        **found,
        "nfe": outcome.nfe,
        "backprops": outcome.backprops,
        "residual": outcome.residual[0],
        "seconds": time.monotonic() - started,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="A fitted prior against the prior as it is.")
    parser.add_argument("--problem", default="ct-8")
    parser.add_argument("--object", choices=("phantom", "head"), default="phantom")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--prior", help="in place of the preset's")
    parser.add_argument("--noise", type=float, help="noise.sigma in place of the problem's")
    parser.add_argument("--object-seed", type=int, default=0, help="of the phantom")
    parser.add_argument("--data-seed", type=int, default=0, help="of the measurement's noise")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting of d3ip")
    parser.add_argument("--settings", action="append", default=[], metavar="KEY=VALUE", help="setting of both")
    args = parser.parse_args()
    array = head(args.size, args.slices) if args.object == "head" else phantom(args.size, args.slices, args.object_seed)
    truth = Volume(array, Geometry(("z", "y", "x"), value_range=(0.0, 1.0)))
    try:
        plain = measured(args, "dds-3d", truth, [])
        fitted = measured(args, "d3ip", truth, args.set)
    except ReconError as err:
        raise SystemExit(f"{err.message}; {err.hint}") from err
    print("| problem | object | volume | dds-3d, dB | d3ip, dB | gain, dB | residuals | evaluations | backwards | s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    pair = [f"{row['residual']:.2f}" for row in (plain, fitted)]
    print(
        f"| {args.problem} | {args.object} {args.object_seed} | {args.slices}x{args.size}x{args.size} "
        f"| {plain['psnr']:.2f} | {fitted['psnr']:.2f} | {fitted['psnr'] - plain['psnr']:+.2f} "
        f"| {', '.join(pair)} | {plain['nfe']}, {fitted['nfe']} | {fitted['backprops']} "
        f"| {plain['seconds']:.0f}, {fitted['seconds']:.0f} |"
    )


if __name__ == "__main__":
    main()
