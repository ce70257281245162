"""Share of a reconstruction's time that is spent outside the network, and outside network and operator.

    python benchmarks/sampler_overhead.py [--json] [--rounds 5] [--size 256] [--steps 20] [--methods dps daps ...]

Every method of images, and some of their forms. Evaluations of a network with the shipped prior's configuration (random
weights: the time is the same) at 256 x 256, on single-coil Cartesian MRI. Backward passes through network and operator,
and changes to the basis of the operator's singular vectors, count as theirs. The rounds interleave the methods, so that
what else the machine does falls on all of them; reported are medians over the rounds. Goal: at most 3 % outside network
and operator.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

# as the command does, and before torch loads OpenMP
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

from recon.data import Problem
from recon.likelihoods import Gaussian
from recon.operators import registry
from recon.operators.base import LinearOperator
from recon.operators.spectral import Spectrum
from recon.priors.base import Denoiser, Prediction, PriorInfo
from recon.priors.edm import EDMDenoiser
from recon.priors.networks.unet import UNet, UNetConfig
from recon.runs.allocator import keep_freed_memory
from recon.runs.methods import make_method, method_class
from recon.samplers.base import Method, SeededNoise

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "dps": ("dps", {}),
    "dps rms": ("dps", {"norm": "rms", "clip": False}),
    "mcg": ("mcg", {}),
    "dds cg": ("dds", {"correction": "cg"}),
    "dds cg-noiseless": ("dds", {"correction": "cg-noiseless"}),
    "dds projection": ("dds", {"correction": "projection"}),
    "dds matched": ("dds", {"weighting": "matched", "grid": "edm", "eta": 1.0, "cg_iterations": 10}),
    "dds exact": ("dds", {"weighting": "matched", "grid": "edm", "eta": 1.0, "correction": "exact"}),
    "daps": ("daps", {"inner": "langevin", "inner_steps": 20}),
    "daps exact": ("daps", {"inner": "exact"}),
    "daps tweedie": ("daps", {"conditional": "tweedie", "products": 2}),
    "enkg": ("enkg", {"particles": 4, "batch": 1, "ode_steps": 2, "updates": 1}),
    "ddrm": ("ddrm", {}),
    "ddnm": ("ddnm", {}),
    "pigdm": ("pigdm", {}),
    "diffpir": ("diffpir", {}),
    "reddiff": ("reddiff", {}),
    "pnpdm": ("pnpdm", {"prior_grid": "own", "prior_steps": 5}),
    "lgd": ("lgd", {}),
    "mmps": ("mmps", {}),
    "tds": ("tds", {"particles": 4, "batch": 1}),
}
# the setting that is a method's number of steps: the first of these that it has
STEPS = ("steps", "iterations")


def configured(name: str, steps: int) -> Method:
    """Return the method of a row, with so many steps."""
    kind, rest = METHODS[name]
    names = {field.name for field in fields(method_class(kind))}  # type: ignore[arg-type]
    return make_method(kind, {next(key for key in STEPS if key in names): steps, **rest})


class Clock:
    """Adds up the time of calls, and of the backward passes between the marks around them."""

    def __init__(self) -> None:
        self.seconds, self.started = 0.0, 0.0

    def start(self) -> None:
        self.started = time.perf_counter()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self.started

    def call(self, function: Callable[[Tensor], Any], x: Tensor) -> Any:
        self.start()
        found = function(x)
        self.stop()
        return found

    def marked(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return function(x), timed forwards and backwards."""
        y: Tensor = self.call(function, _Mark.apply(x, self.stop))
        marked: Tensor = _Mark.apply(y, self.start)
        return marked


class _Mark(torch.autograd.Function):
    """The identity, which calls back when a gradient passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, passed: Callable[[], None]) -> Tensor:
        ctx.passed = passed
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ctx.passed()
        return grads[0], None


class TimedPrior(Denoiser):
    """A denoiser whose calls are timed."""

    def __init__(self, base: Denoiser) -> None:
        self.base, self.info, self.clock = base, base.info, Clock()

    def _denoise(self, x: Tensor, sigma: Tensor, cond: Tensor | None) -> Prediction:
        return Prediction(self.clock.marked(lambda v: self.base(v, sigma, cond).x0, x))


class TimedOperator(LinearOperator):
    """A linear operator whose calls are timed."""

    def __init__(self, base: LinearOperator) -> None:
        self.base, self.clock = base, Clock()
        self.in_shape, self.out_shape, self.support = base.in_shape, base.out_shape, base.support
        self.in_dtype, self.out_dtype = base.in_dtype, base.out_dtype

    def _forward(self, x: Tensor) -> Tensor:
        return self.clock.marked(self.base.forward, x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.clock.marked(self.base.adjoint, y)

    def normal(self, x: Tensor) -> Tensor:
        return self.clock.marked(self.base.normal, x)

    def svd(self) -> Spectrum | None:
        found = self.base.svd()
        if found is None:
            return None
        maps = (found.to_v, found.from_v, found.to_u, found.from_u)
        return Spectrum(found.values, *(partial(self.clock.marked, each) for each in maps))

    def has_svd(self) -> bool:
        return self.base.has_svd()

    def pinv(self, y: Tensor) -> Tensor | None:
        found: Tensor | None = self.clock.call(self.base.pinv, y)
        return found

    def prox(self, z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor | None:
        found: Tensor | None = self.clock.call(lambda v: self.base.prox(v, rho, y), z)
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
    operator = registry.build(registry.draw("mri", {"acceleration": 4.0}, (1, size, size), seed=0))
    image = SeededNoise(1, [0]).normal((1, 1, size, size))
    return Problem(operator, operator.forward(image), Gaussian(0.01))


def timed_run(method: Method, prior: Denoiser, problem: Problem) -> tuple[float, float, float, int]:
    """Return seconds of a whole reconstruction, of the network and of the operator in it, and its evaluations."""
    if not isinstance(problem.operator, LinearOperator):
        raise TypeError(f"expected a linear operator, got {problem.operator!r}")
    network, operator = TimedPrior(prior), TimedOperator(problem.operator)
    count = method.members(1)
    shape = (count, *problem.operator.in_shape)
    noise = SeededNoise(0, range(count))
    start = time.perf_counter()
    result = method.sample(network, Problem(operator, problem.y, problem.likelihood), None, noise, shape)
    return time.perf_counter() - start, network.clock.seconds, operator.clock.seconds, result.stats.nfe


def measure(rounds: int, size: int, steps: int, names: Sequence[str] = ()) -> list[dict[str, float | str]]:
    """Return, for each method, medians over the rounds."""
    keep_freed_memory()
    prior, problem = make_prior(), make_problem(size)
    methods = {name: configured(name, steps) for name in names or METHODS}
    for name in methods:
        timed_run(configured(name, 2), prior, problem)
    runs: dict[str, list[tuple[float, float, float, int]]] = {name: [] for name in methods}
    for index in range(rounds):
        for name, method in methods.items():
            runs[name].append(timed_run(method, prior, problem))
            print(f"round {index + 1}/{rounds}: {name}", file=sys.stderr)
    return [
        {
            "method": name,
            "share_outside_network": statistics.median(1 - net / total for total, net, _, _ in times),
            "share_outside_both": statistics.median(1 - (net + ops) / total for total, net, ops, _ in times),
            "network_ms_per_step": statistics.median(net / nfe * 1e3 for _, net, _, nfe in times),
            "operator_ms_per_step": statistics.median(ops / nfe * 1e3 for _, _, ops, nfe in times),
            "rest_ms_per_step": statistics.median((total - net - ops) / nfe * 1e3 for total, net, ops, nfe in times),
        }
        for name, times in runs.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Share of a reconstruction's time outside network and operator.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--methods", nargs="*", default=(), choices=list(METHODS), metavar="NAME", help="default: all")
    args = parser.parse_args()
    rows = measure(args.rounds, args.size, args.steps, args.methods)
    facts = {"size": args.size, "steps": args.steps, "rounds": args.rounds, "threads": torch.get_num_threads()}
    if args.json:
        print(json.dumps({"benchmark": "sampler_overhead", **facts, "torch": torch.__version__, "rows": rows}))
        return
    print(f"{args.steps} steps at {args.size} x {args.size}, single-coil MRI, {facts['threads']} threads")
    print(f"{'method':18}{'outside network':>16}{'and operator':>14}{'ms: network':>13}{'operator':>10}{'rest':>8}")
    for row in rows:
        print(
            f"{row['method']:18}{row['share_outside_network']:>16.1%}{row['share_outside_both']:>14.1%}"
            f"{row['network_ms_per_step']:>13.1f}{row['operator_ms_per_step']:>10.2f}{row['rest_ms_per_step']:>8.2f}"
        )


if __name__ == "__main__":
    main()
