"""An operator on images in other units."""

from __future__ import annotations

from typing import final

from torch import Tensor

from recon.operators.base import Operator


@final
class InUnits(Operator):
    """A'(u) = A(a u + b)/a, so that data y of v = a u + b become y/a, and noise is scaled as the image is.

    base: A, any operator; a linear one is better served by moving b into the data (`recon.runs.problem`).
    a: > 0.  b: the image value of u = 0.
    """

    def __init__(self, base: Operator, a: float, b: float) -> None:
        self.base, self.a, self.b = base, a, b
        self.in_shape, self.out_shape = base.in_shape, base.out_shape
        self.in_dtype, self.out_dtype = base.in_dtype, base.out_dtype
        self.differentiable, self.support = base.differentiable, base.support
        if base.value_range is not None:
            low, high = base.value_range
            self.value_range = ((low - b) / a, (high - b) / a)

    def _forward(self, x: Tensor) -> Tensor:
        return self.base.forward(self.a * x + self.b) / self.a
