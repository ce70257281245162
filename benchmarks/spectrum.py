"""Energy spectrum of a prior's samples beside that of its data, shell by shell.

    python benchmarks/spectrum.py [CONFIG] --data DIR [--prior NAME|FILE] [--samples 256] [--steps 32] [--seed 0]

Samples are unconditional, by Heun's method on the EDM grid. The data are fields that the prior was trained on. A shell
counts where the data's power per mode is above 1e-4 of its largest. `spread`: the standard error of the samples' power,
over the power, from field to field. Exits with 1 where a shell that counts is off by more than --bar.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from recon.priors.catalog import prior_path
from recon.priors.open import open_prior
from recon.runs.training import read_train_config
from recon.samplers.base import SeededNoise
from recon.samplers.integrate import sample_prior
from recon.schedules import poly_rho
from recon.training.sources import training_fields
from recon.training.spectra import compare_spectra, largest_deviation, shell_spectrum

BATCH = 16


def main() -> None:
    """Print a row for each shell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default="vorticity", help="training configuration, by name or a TOML file")
    parser.add_argument("--data", type=Path, default=Path("."))
    parser.add_argument("--prior", help="shipped prior or weight file; the configuration's name if not given")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bar", type=float, default=0.15)
    arguments = parser.parse_args()
    config = read_train_config(arguments.config)
    prior = open_prior(prior_path(arguments.prior or config.name))
    grid = poly_rho(arguments.steps, config.sigma_min, config.sigma_max).tolist()
    fields: list[np.ndarray] = []
    for first in range(0, arguments.samples, BATCH):
        chosen = range(first, min(first + BATCH, arguments.samples))
        shape = (len(chosen), 1, config.crop, config.crop)
        fields.extend(sample_prior(prior, shape, grid, "heun", SeededNoise(arguments.seed, chosen))[:, 0].numpy())
        print(f"{len(fields)} of {arguments.samples} samples", end="\r", file=sys.stderr)
    samples = np.stack(fields)
    shells = compare_spectra(samples, training_fields(config, arguments.data))
    each = np.stack([shell_spectrum(field[None]) for field in samples])
    spread = each.std(axis=0) / each.mean(axis=0) / len(each) ** 0.5
    print(f"{'shell':>5}  {'data':>9}  {'samples':>9}  {'off':>7}  {'spread':>7}")
    for shell, error in zip(shells, spread, strict=True):
        note = "" if shell.counted else "  not counted"
        print(
            f"{shell.wavenumber:>5}  {shell.data:>9.2e}  {shell.samples:>9.2e}  {100 * shell.deviation:>6.1f}%"
            f"  {100 * error:>6.1f}%{note}"
        )
    largest = largest_deviation(shells)
    print(f"largest: {100 * largest:.1f}% of {sum(shell.counted for shell in shells)} shells")
    sys.exit(int(largest > arguments.bar))


if __name__ == "__main__":
    main()
