"""Peak memory of `recon run` on a volume, from its measurement's file to the reconstruction's.

    python benchmarks/volume_memory.py [--slices 64 256] [--size 256] [--preset mri-x4-dds-3d] [--steps 2]
                                       [--cg 5] [--prior small|NAME] [--backend eager] [--limit GIB]
                                       [--set operator.coils=8]

Prints a row of a Markdown table for each number of slices: the most memory that the command's process held (resident),
that of one slice alone, and the difference in volumes of four bytes a voxel; then how the peak grows from the first
number of slices to the last. For a method of images (`--preset mri-x4-dds`) the slices are reconstructed one by one.
`small` is an untrained network that is
quick to evaluate: what grows with the slices does not depend on the network, whose own memory is that of one slice.
--limit: exit with 1 where the peak is above it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from recon.data import Geometry, Volume
from recon.io.registry import write_volume
from recon.priors.base import PriorInfo
from recon.priors.networks.unet import UNet, UNetConfig
from recon.priors.store import save_prior

RECON = [sys.executable, "-c", "from recon.cli.main import app; app()"]
SMALL = UNetConfig(channels=(8, 16), blocks=(1, 1), embedding=16, groups=4)


def peak(folder: Path, command: list[str]) -> float:
    """Run a command of `recon` in a folder; return the most MiB that it held. Exits where it failed."""
    child = subprocess.Popen([*RECON, *command], cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert child.stderr is not None
    said = child.stderr.read().decode()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"recon {' '.join(command[:1])} failed: {said.strip().splitlines()[-1]}")
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def measured(args: argparse.Namespace, folder: Path, slices: int) -> float:
    """Return the peak of a run of so many slices."""
    rng = np.random.default_rng(0)
    rows = np.hanning(args.size)
    head = np.multiply.outer(rows, rows).astype(np.float32)
    volume = head + 0.1 * rng.random((slices, args.size, args.size), dtype=np.float32)
    write_volume(folder / "truth.npz", Volume(volume, Geometry(("z", "y", "x"))), force=True)
    given = ["--preset", args.preset, "--force", "-q", *(part for one in args.set for part in ("--set", one))]
    peak(folder, ["simulate", "truth.npz", "y.h5", *given])
    if args.prior == "small":
        torch.manual_seed(0)
        info = PriorInfo("small", 1, multiple=SMALL.multiple)
        save_prior(folder / "small.safetensors", UNet(SMALL).state_dict(), SMALL, 0.5, info, torch.float32)
    prior = "small.safetensors" if args.prior == "small" else args.prior
    sets = [f"method.steps={args.steps}", f"method.cg_iterations={args.cg}", f"run.backend={args.backend}"]
    more = [part for one in [*sets, "run.threads=1"] for part in ("--set", one)]
    return peak(folder, ["run", "y.h5", "out.npy", *given, "--prior", prior, "--device", "cpu", *more])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Peak memory of a volume's reconstruction.")
    parser.add_argument("--slices", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--preset", default="mri-x4-dds-3d")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--cg", type=int, default=5)
    parser.add_argument("--prior", default="small")
    parser.add_argument("--backend", choices=("eager", "onnxruntime"), default="eager")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--limit", type=float, metavar="GIB")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows: list[tuple[int, float]] = []
        alone = measured(args, Path(name), 1)
        print("| preset | prior | backend | volume | peak, MiB | one slice, MiB | beyond it, volumes |")
        print("|---|---|---|---|---|---|---|", flush=True)
        most = alone
        for slices in args.slices:
            found = measured(args, Path(name), slices)
            rows.append((slices, found))
            most, voxels = max(most, found), slices * args.size**2
            print(
                f"| {args.preset} | {args.prior} | {args.backend} | {slices}x{args.size}x{args.size} "
                f"| {found:.0f} | {alone:.0f} | {(found - alone) * 2**20 / (4 * voxels):.1f} |",
                flush=True,
            )
    (few, low), (many, high) = rows[0], rows[-1]
    if many > few:
        each = (high - low) / (many - few)
        print(f"\n{few} to {many} slices: {each:.3f} MiB a slice, {each * 2**20 / (4 * args.size**2):.2f} volumes")
    if args.limit is not None and most > 1024 * args.limit:
        raise SystemExit(f"the peak is above {args.limit} GiB")


if __name__ == "__main__":
    main()
