"""High dynamic range: a detector that saturates before black and before white.

    y = min(max(mid + factor (x - mid), low), high),    mid = (low + high)/2

On images in [-1, 1] this is clip(2 x, -1, 1) of DAPS and InverseBench, factor = 2: the darkest and the brightest
quarter of the range are lost. y is a picture in the image's units. No gradient comes from saturated values.
Source: Zhang et al. 2025 (DAPS), the authors' code, and RED-diff before them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from torch import Tensor

from recon.errors import ConfigError
from recon.operators.base import Operator, Shape
from recon.operators.checks import black_and_white, image_size
from recon.operators.family import Arrays, Family


@final
@dataclass(frozen=True)
class HDRParams:
    """The contrast that the detector is exposed with.

    factor: > 0; 2 loses half of the range.
    low, high: image values of black and white, where it saturates; simulations and pictures bring their own.
    """

    factor: float = 2.0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise ConfigError(f"operator 'hdr': factor = {self.factor}", "give a number above 0, such as 2")
        black_and_white("hdr", self.low, self.high)


@final
class HDR(Operator):
    """y = clip(mid + factor (x - mid), low, high), value by value: (B, C, [Z,] Y, X) -> the same shape."""

    def __init__(self, in_shape: Shape, factor: float, value_range: tuple[float, float]) -> None:
        self.in_shape = self.out_shape = in_shape
        self.factor, self.value_range = factor, value_range
        self.low, self.high = value_range

    def _forward(self, x: Tensor) -> Tensor:
        middle = (self.low + self.high) / 2
        return (middle + self.factor * (x - middle)).clamp(self.low, self.high)


def draw(params: HDRParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    """Return no arrays: nothing is random."""
    image_size("hdr", in_shape)
    return {}


def build(params: HDRParams, in_shape: Shape, arrays: Arrays) -> HDR:
    """Return the operator on `in_shape`."""
    image_size("hdr", in_shape)
    return HDR(in_shape, params.factor, (params.low, params.high))


def reads_shape(params: HDRParams, arrays: Arrays, y_shape: Shape) -> Shape:
    """Return the image's shape, which is the measurement's."""
    return y_shape


FAMILY = Family("hdr", HDRParams, draw, build, {}, reads_shape)
