"""Time of a volume's joint reconstruction against its number of slices times that of one slice alone.

    python benchmarks/volume_throughput.py [--slices 16] [--size 128] [--preset mri-x4-dds-3d] [--steps 10]
                                           [--prior NAME] [--backend eager] [--repeats 3] [--limit 1.05]
                                           [--set KEY=VALUE]

Both are the same method with the same settings on the middle of the shipped head; the slice alone is a volume of one.
They take turns, and the least of the repeats counts, as what else runs only adds to it. Nothing but sampling is timed:
not the weights' loading, nor files. Prints a row of a Markdown table; `ratio` is to be at most 1.05.
--limit: exit with 1 where the ratio is above it.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from importlib.resources import as_file, files

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from results import cropped

from recon.config.resolve import resolve
from recon.config.schema import Config
from recon.data import Volume
from recon.errors import ReconError
from recon.io.registry import read_volume
from recon.runs.execute import execute
from recon.runs.plan import Plan, make_plan
from recon.runs.simulate import simulate


def seconds(plan: Plan) -> float:
    """Return how long a plan takes."""
    started = time.monotonic()
    execute(plan)
    return time.monotonic() - started


def planned(config: Config, truth: Volume) -> Plan:
    """Return the plan for a simulated measurement."""
    return make_plan(config, simulate(truth, config))


def middle(truth: Volume) -> Volume:
    """Return the slice in the middle of a volume, as a volume of one."""
    axis = truth.geometry.axes.index("z")
    one = np.take(truth.array, [truth.array.shape[axis] // 2], axis)
    return Volume(np.ascontiguousarray(one), replace(truth.geometry, affine=None))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time of a volume against that of its slices alone.")
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--preset", default="mri-x4-dds-3d")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--prior")
    parser.add_argument("--backend", choices=("eager", "onnxruntime"), default="eager")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--limit", type=float)
    args = parser.parse_args()
    sets = [f"method.steps={args.steps}", f"run.backend={args.backend}", *args.set]
    config = resolve(args.preset, sets=sets, flags={"prior.name": args.prior}, environ={}).config
    with as_file(files("recon.sample_data") / "brain_volume.nii.gz") as path:
        truth = cropped(read_volume(path), [args.slices, args.size, args.size])
    try:
        whole, alone = planned(config, truth), planned(config, middle(truth))
        execute(alone)  # what is made once, such as an exported network, is made here
        pairs = [(seconds(whole), seconds(alone)) for _ in range(args.repeats)]
    except ReconError as err:
        raise SystemExit(f"{err.message}; {err.hint}") from err
    together, one = (min(found) for found in zip(*pairs, strict=True))
    ratio = together / (args.slices * one)
    print("| preset | prior | backend | volume | steps | volume, s | one slice, s | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {args.preset} | {config.prior.name} | {args.backend} | {args.slices}x{args.size}x{args.size} "
        f"| {args.steps} | {together:.2f} | {one:.3f} | {ratio:.3f} |"
    )
    if args.limit is not None and ratio > args.limit:
        raise SystemExit(f"the ratio is above {args.limit}")


if __name__ == "__main__":
    main()
