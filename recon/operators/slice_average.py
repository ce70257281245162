"""Thick slices: averages of neighbouring thin ones, the measurement of super-resolution along z."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from torch import Tensor

from recon.errors import ConfigError
from recon.operators.base import LinearOperator, Shape
from recon.operators.checks import image_size
from recon.operators.family import Arrays, Family

KIND = "slice-average"


@final
@dataclass(frozen=True)
class SliceAverageParams:
    """factor: thin slices in a thick one (TPDM: 2 to 5); it must divide their number."""

    factor: int = 4

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ConfigError(f"operator '{KIND}': factor = {self.factor}", "give an integer of at least 1")


@final
class SliceAverage(LinearOperator):
    """y = mean over groups of f slices: (B, C, Z, Y, X) -> (B, C, Z/f, Y, X).

    As A A^T = I/f:  pinv(y) repeats each slice;  prox(z, rho, y) = z + A^T (y - A z)/(1/f + rho).
    """

    def __init__(self, in_shape: Shape, factor: int) -> None:
        channels, slices, *plane = in_shape
        self.in_shape, self.out_shape = tuple(in_shape), (channels, slices // factor, *plane)
        self.factor = factor

    def _forward(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, self.factor)).mean(3)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.pinv(y / self.factor)

    def pinv(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, 2)

    def prox(self, z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor:
        return z + self.pinv((y - self._forward(z)) / (1 + self.factor * rho))


def _draw(params: SliceAverageParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    return {}


def _build(params: SliceAverageParams, in_shape: Shape, arrays: Arrays) -> SliceAverage:
    image_size(KIND, in_shape)
    if len(in_shape) != 4:
        raise ConfigError(f"operator '{KIND}' expects a volume of shape (C, Z, Y, X), got {in_shape}")
    if in_shape[1] % params.factor:
        raise ConfigError(
            f"operator '{KIND}': {in_shape[1]} slices do not divide by factor {params.factor}", "leave some slices out"
        )
    return SliceAverage(in_shape, params.factor)


def _reads_shape(params: Any, arrays: Arrays, y_shape: Shape) -> Shape | None:
    return (y_shape[0], y_shape[1] * params.factor, *y_shape[2:]) if len(y_shape) == 4 else None


FAMILY = Family(kind=KIND, params=SliceAverageParams, draw=_draw, build=_build, reads_shape=_reads_shape, volume=True)
