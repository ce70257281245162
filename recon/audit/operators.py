"""The non-linear measurements of the scalar cases."""

from __future__ import annotations

from typing import final

from torch import Tensor

from recon.operators.base import Operator, Shape


@final
class Amplitude(Operator):
    """y = |x|, value by value."""

    def __init__(self, in_shape: Shape) -> None:
        self.in_shape = self.out_shape = in_shape

    def _forward(self, x: Tensor) -> Tensor:
        return x.abs()


@final
class Clipped(Operator):
    """y = min(max(x, low), high), value by value: no gradient where the sensor saturates."""

    def __init__(self, in_shape: Shape, low: float, high: float) -> None:
        self.in_shape = self.out_shape = in_shape
        self.low, self.high = low, high

    def _forward(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)
