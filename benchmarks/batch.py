"""Throughput of one `recon batch` against as many separate `recon run` calls.

    python benchmarks/batch.py [--slices 64] [--preset mri-x4-dds] [--set method.steps=50] [--json]

Slices of the shipped brain volume are simulated once; then the same measurements go through both, one after the other.
Reported are seconds, their ratio (goal: at least 1.5), and the largest difference of the outputs over their largest
value: 0 where inputs go through the network one by one, as on a CPU, else that of its rounding
(`--set run.together=8` sets how many go together).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from recon.io.registry import read_volume

RECON = [sys.executable, "-c", "from recon.cli.main import app; app()"]
VOLUME = "brain_volume.nii.gz"
FIRST = 60  # of the slices that are taken


def recon(*arguments: str) -> None:
    """Run a command quietly; raise if it fails."""
    subprocess.run([*RECON, *arguments, "-q"], check=True, stdout=subprocess.DEVNULL)


def simulate(folder: Path, count: int, preset: str) -> list[Path]:
    """Write measurements of `count` slices."""
    made = []
    with as_file(files("recon.sample_data") / VOLUME) as volume:
        for index in range(count):
            made.append(folder / f"slice-{index:02d}.h5")
            recon("simulate", str(volume), str(made[-1]), "--preset", preset, "--index", str(FIRST + index))
    return made


def differ(first: Path, second: Path) -> float:
    """Return the largest difference of two images over the largest value; 0 for the same bytes."""
    if first.read_bytes() == second.read_bytes():
        return 0.0
    a, b = (read_volume(path).array for path in (first, second))
    return float(np.abs(a - b).max() / np.abs(a).max())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Throughput of a batch against separate runs.")
    parser.add_argument("--slices", type=int, default=64)
    parser.add_argument("--preset", default="mri-x4-dds")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    settings = [part for text in args.set for part in ("--set", text)]
    with tempfile.TemporaryDirectory() as name:
        scans, single, many = (Path(name) / part for part in ("scans", "single", "many"))
        scans.mkdir()
        single.mkdir()
        print(f"simulating {args.slices} slices", file=sys.stderr)
        inputs = simulate(scans, args.slices, args.preset)
        start = time.monotonic()
        for path in inputs:
            recon("run", str(path), str(single / f"{path.stem}.nii.gz"), "--preset", args.preset, *settings)
        separate = time.monotonic() - start
        start = time.monotonic()
        recon("batch", str(scans), str(many), "--preset", args.preset, *settings)
        together = time.monotonic() - start
        difference = max(differ(single / p.name, p) for p in many.glob("*.nii.gz"))
    facts = {
        "slices": args.slices,
        "threads": os.cpu_count(),
        "separate_seconds": round(separate, 1),
        "batch_seconds": round(together, 1),
        "ratio": round(separate / together, 3),
        "difference": difference,
    }
    if args.json:
        print(json.dumps({"benchmark": "batch", **facts}))
        return
    print(f"{args.slices} slices, {facts['threads']} cores: separate runs {separate:.1f} s, one batch {together:.1f} s")
    print(f"ratio {facts['ratio']}, outputs {f'differ by {difference:.1e}' if difference else 'the same'}")


if __name__ == "__main__":
    main()
