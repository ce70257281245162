"""The best regularisation weight that knowing the truth could choose: an upper bound for a baseline, never a result.

    w* = argmin_w ||x_w - t||^2  =  argmax_w PSNR(x_w, t)      for any data range

A grid of weights, then golden sections of ln w in the gaps beside the best one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from recon.data import Problem
from recon.errors import ConfigError
from recon.samplers.base import Method, Result, SeededNoise

LABEL = "oracle"
SECTION = (3 - math.sqrt(5)) / 2  # where to cut a gap, from the best weight


@final
@dataclass(frozen=True)
class OracleChoice:
    """The best weight and its reconstruction.

    weight, mse: the best one and its mean squared error.  result: its reconstruction.
    tried: (weight, mse) of every weight that was tried, in increasing order.  label: marks anything shown of it.
    """

    weight: float
    mse: float
    result: Result
    tried: tuple[tuple[float, float], ...]
    label: str = LABEL


def oracle_weight(
    method_class: Callable[..., Method],
    problem: Problem,
    truth: Tensor,
    weights: Sequence[float],
    refinements: int = 4,
    extensions: int = 4,
) -> OracleChoice:
    """Return the weight that brings the reconstruction nearest to the truth, and that reconstruction.

    method_class: a method with the setting `weight`, such as TotalVariation, or `functools.partial` of one.
    truth: (1, C, Y, X), in the problem's units; complex images are compared by magnitude, as metrics do.
    weights: two or more, above 0; a grid that is best at an end is continued there up to `extensions` times.
    refinements: further reconstructions, each in the longer gap beside the best weight so far.
    Raises ConfigError on fewer than two weights, or weights that are not above 0.
    """
    grid = sorted({float(w) for w in weights})
    if len(grid) < 2 or not 0 < grid[0] <= grid[-1] < math.inf:
        raise ConfigError("an oracle needs two or more finite weights above 0", "give a logarithmic grid")
    tried: dict[float, float] = {}
    best: Result | None = None

    def attempt(weight: float) -> None:
        nonlocal best
        noise = SeededNoise(0, range(len(truth)), truth.device)
        result = method_class(weight=weight).sample(None, problem, None, noise, tuple(truth.shape))
        mse = _mse(result.samples, truth)
        if best is None or mse < min(tried.values()):
            best = result
        tried[weight] = mse

    for weight in grid:
        attempt(weight)
    for _ in range(extensions):
        beyond = _beyond(tried)
        if beyond is None:
            break
        attempt(beyond)
    for _ in range(refinements):
        attempt(_between(tried))
    assert best is not None
    chosen = _argmin(tried)
    return OracleChoice(chosen, tried[chosen], best, tuple(sorted(tried.items())))


def _mse(image: Tensor, truth: Tensor) -> float:
    """Return the mean squared error; infinite where the reconstruction is not finite."""
    if image.is_complex() or truth.is_complex():
        image, truth = image.abs(), truth.abs()
    mse = float((image - truth).square().mean())
    return mse if math.isfinite(mse) else math.inf


def _argmin(tried: dict[float, float]) -> float:
    return min(tried, key=lambda weight: tried[weight])


def _beyond(tried: dict[float, float]) -> float | None:
    """Return the next weight beyond the end of the grid that is best, or None if an inner weight is best."""
    weights, best = sorted(tried), _argmin(tried)
    if best == weights[0]:
        return weights[0] ** 2 / weights[1]
    return weights[-1] ** 2 / weights[-2] if best == weights[-1] else None


def _between(tried: dict[float, float]) -> float:
    """Return the weight that cuts the longer of the gaps beside the best weight, in ln w."""
    weights, best = sorted(tried), _argmin(tried)
    index = weights.index(best)
    neighbours = [weights[i] for i in (index - 1, index + 1) if 0 <= i < len(weights)]
    gap = max((math.log(other / best) for other in neighbours), key=abs)
    return best * math.exp(SECTION * gap)
