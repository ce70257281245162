"""A prior's denoising on the held-out images of its training configuration, against classical and learned denoisers.

    python benchmarks/denoising.py CONFIG --data DIR [--prior NAME|FILE] [--against FILE]... [--levels 15 25 50]
Levels are the standard deviations of the noise in 8-bit grey levels (255 is the width of the value range). Prints PSNR
in dB, clipped to the value range for all alike; total variation and non-local means have the setting that is best on
the truth. A learned denoiser is any file that `recon priors show` knows, such as FFDNet's.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from recon.priors.catalog import prior_path
from recon.priors.open import open_prior
from recon.runs.training import read_train_config
from recon.training.report import Oracle, by_denoiser, denoising_report, non_local_means, spread
from recon.training.sources import held_out_images


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="training configuration, by name or a TOML file")
    parser.add_argument("--data", type=Path, default=Path("."))
    parser.add_argument("--prior", help="shipped prior or weight file; the configuration's name if not given")
    parser.add_argument("--against", type=Path, action="append", default=[])
    parser.add_argument("--levels", type=float, nargs="+", default=[15.0, 25.0, 50.0])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    config = read_train_config(arguments.config)
    low, high = config.value_range
    baselines: dict[str, Oracle] = {"nl_means": non_local_means}
    baselines |= {path.stem: by_denoiser(open_prior(path), config.value_range) for path in arguments.against}
    prior = open_prior(prior_path(arguments.prior or config.name))
    sigmas = tuple(level * (high - low) / 255 for level in arguments.levels)
    images = spread(held_out_images(config, arguments.data), 32)
    rows = denoising_report(prior, images, sigmas, config.seed, baselines, clip=True)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    names = ["noisy", "total variation", *baselines, "prior"]
    print(f"{'level':>6}  {'image':>5}" + "".join(f"  {name:>16}" for name in names))
    for level, sigma in zip(arguments.levels, sigmas, strict=True):
        here = [row for row in rows if row.sigma == sigma]
        values = np.array([[r.noisy, r.tv_oracle, *r.baselines.values(), r.prior] for r in here])
        for name, line in [
            *((str(r.image), v) for r, v in zip(here, values, strict=True)),
            ("mean", values.mean(axis=0)),
        ]:
            print(f"{level:>6g}  {name:>5}" + "".join(f"  {value:>16.2f}" for value in line))


if __name__ == "__main__":
    main()
