"""Share of a DDS reconstruction's time that is spent outside the network.

    python benchmarks/sampler_overhead.py [--json] [--rounds 5] [--size 256] [--steps 50]

50 evaluations of a network with the shipped prior's configuration (random weights: the time is the same) at 256 x 256,
on single-coil Cartesian MRI, for each form of the data correction. The rounds interleave the forms, so that what else
the machine does falls on all of them; reported are medians over the rounds. Goal: at most 10 % outside the network.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time

# as the command does, and before torch loads OpenMP
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

from recon.data import Problem
from recon.likelihoods import Gaussian
from recon.operators import registry
from recon.priors.base import Denoiser, Prediction, PriorInfo
from recon.priors.edm import EDMDenoiser
from recon.priors.networks.unet import UNet, UNetConfig
from recon.runs.methods import make_method
from recon.samplers.base import Method, SeededNoise

FORMS = ("cg", "cg-noiseless", "projection")


class Timed(Denoiser):
    """A denoiser that adds up the time of its calls."""

    def __init__(self, base: Denoiser) -> None:
        self.base, self.info, self.seconds = base, base.info, 0.0

    def _denoise(self, x: Tensor, sigma: Tensor, cond: Tensor | None) -> Prediction:
        start = time.perf_counter()
        found = self.base(x, sigma, cond)
        self.seconds += time.perf_counter() - start
        return found


def make_prior() -> EDMDenoiser:
    """Return a denoiser with the shipped prior's network and random weights."""
    generator = torch.Generator().manual_seed(0)
    network = UNet(UNetConfig(channels=(64, 96, 128, 160), blocks=(2, 2, 2, 1)))
    for weight in network.parameters():
        with torch.no_grad():
            weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    return EDMDenoiser(network, PriorInfo(name="random", channels=1, multiple=network.config.multiple))


def make_problem(size: int) -> Problem:
    """Return noisy single-coil MRI of a random real image, four-fold undersampled."""
    spec = registry.draw("mri", {"acceleration": 4.0}, (1, size, size), seed=0)
    operator = registry.build(spec)
    image = SeededNoise(1, [0]).normal((1, 1, size, size))
    return Problem(operator, operator.forward(image), Gaussian(0.01))


def timed_run(method: Method, prior: Denoiser, problem: Problem) -> tuple[float, float]:
    """Return seconds of a whole reconstruction, and of the network within it."""
    timed = Timed(prior)
    shape = (1, *problem.operator.in_shape)
    start = time.perf_counter()
    method.sample(timed, problem, None, SeededNoise(0, [0]), shape)
    return time.perf_counter() - start, timed.seconds


def measure(rounds: int, size: int, steps: int) -> list[dict[str, float | str]]:
    """Return, for each form, medians over the rounds."""
    prior, problem = make_prior(), make_problem(size)
    methods = {form: make_method("dds", {"steps": steps, "correction": form}) for form in FORMS}
    timed_run(make_method("dds", {"steps": 2}), prior, problem)
    runs: dict[str, list[tuple[float, float]]] = {form: [] for form in FORMS}
    for index in range(rounds):
        for form, method in methods.items():
            runs[form].append(timed_run(method, prior, problem))
            print(f"round {index + 1}/{rounds}: {form}", file=sys.stderr)
    rows: list[dict[str, float | str]] = []
    for form, times in runs.items():
        rows.append(
            {
                "correction": form,
                "share_outside_network": statistics.median((total - net) / total for total, net in times),
                "outside_ms_per_step": statistics.median((total - net) / steps * 1e3 for total, net in times),
                "network_ms_per_step": statistics.median(net / steps * 1e3 for _, net in times),
                "total_seconds": statistics.median(total for total, _ in times),
            }
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Share of DDS's time outside the network.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()
    rows = measure(args.rounds, args.size, args.steps)
    facts = {"size": args.size, "steps": args.steps, "rounds": args.rounds, "threads": torch.get_num_threads()}
    if args.json:
        print(json.dumps({"benchmark": "sampler_overhead", **facts, "torch": torch.__version__, "rows": rows}))
        return
    print(f"DDS, {args.steps} evaluations at {args.size} x {args.size}, single-coil MRI, {facts['threads']} threads")
    print(f"{'correction':14}{'outside':>10}{'outside/step':>15}{'network/step':>15}{'total':>10}")
    for row in rows:
        print(
            f"{row['correction']:14}{row['share_outside_network']:>10.1%}{row['outside_ms_per_step']:>12.2f} ms"
            f"{row['network_ms_per_step']:>12.1f} ms{row['total_seconds']:>8.2f} s"
        )


if __name__ == "__main__":
    main()
