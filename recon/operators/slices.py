"""A block operator over the slices of a volume: every slice is measured by itself.

    (A x)_z = A_z x_z,    x (B, C, Z, Y, X) -> y (B, Z, *out_shape)

with one operator for all slices, or one for each: masks and coil maps may differ from slice to slice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.operators.base import LinearOperator, Operator, Scaled, Shape

Act = Callable[[LinearOperator, Tensor], Tensor]

# image values that go through one operator together: bounds the memory of what it makes on the way
TOGETHER = 2**20


@final
class Slicewise(LinearOperator):
    """The operators of Z slices as the operator of their volume.

    parts: one linear operator of images (C, Y, X) for each slice, or one for all of them, and then count: Z.
    Raises ConfigError for operators of different shapes or types, and for one that is not linear.
    """

    def __init__(self, parts: Sequence[Operator], count: int | None = None) -> None:
        kinds = {(p.in_shape, p.out_shape, p.in_dtype, p.out_dtype) for p in parts}
        linear = tuple(p for p in parts if isinstance(p, LinearOperator))
        if len(linear) != len(parts):
            raise ConfigError(
                f"slices of a volume need a linear operator, got {parts[0]!r}", "reconstruct the slices one by one"
            )
        if len(kinds) != 1 or len(parts) not in (1, count or len(parts)):
            raise ConfigError(f"{len(parts)} operators of {len(kinds)} shapes or types do not make a volume")
        self.parts, self.count = linear, count or len(linear)
        first = linear[0]
        self.in_shape = (first.in_shape[0], self.count, *first.in_shape[1:])
        self.out_shape = (self.count, *first.out_shape)
        self.in_dtype, self.out_dtype = first.in_dtype, first.out_dtype
        self.differentiable = all(p.differentiable for p in linear)
        if any(p.support is not None for p in linear):
            whole = [torch.ones(()) if p.support is None else p.support for p in linear]
            self.support = torch.stack([s.broadcast_to(first.out_shape) for s in whole])

    def _forward(self, x: Tensor) -> Tensor:
        return self._each(LinearOperator.forward, x.transpose(1, 2), self.out_shape, self.out_dtype)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._images(LinearOperator.adjoint, y)

    def normal(self, x: Tensor) -> Tensor:
        """Return A^H A x by the slices' own."""
        return self._images(lambda part, image: part.normal(image), x.transpose(1, 2))

    def pinv(self, y: Tensor) -> Tensor | None:
        """Return the slices' pseudo-inverses; None where they have none."""
        return self._images(_pinv, y) if self.has_pinv() else None

    def has_pinv(self) -> bool:
        return all(part.has_pinv() for part in self.parts)

    def measured(self) -> int:
        each = [p.measured() for p in self.parts]
        return sum(each) * (self.count // len(each))

    def part(self, first: int, count: int) -> Slicewise:
        """Return the operator of some neighbouring slices."""
        if len(self.parts) == 1:
            return Slicewise(self.parts, count)
        return Slicewise(self.parts[first : first + count])

    def chosen(self, places: Sequence[int]) -> Slicewise:
        """Return the operator of some slices, in the order of their numbers."""
        if len(self.parts) == 1:
            return Slicewise(self.parts, len(places))
        return Slicewise([self.parts[z] for z in places])

    def _images(self, act: Act, values: Tensor) -> Tensor:
        shape = (self.count, *self.parts[0].in_shape)
        return self._each(act, values, shape, self.in_dtype).transpose(1, 2)

    def _each(self, act: Act, values: Tensor, shape: Shape, dtype: torch.dtype) -> Tensor:
        """Return act on the slices of values (B, Z, ...), in memory as (B, *shape)."""
        out = values.new_empty((len(values), *shape), dtype=dtype)
        plane = torch.Size(self.parts[0].in_shape).numel()
        step = max(1, TOGETHER // plane) if len(self.parts) == 1 else 1
        for item in range(len(values)):
            for z in range(0, self.count, step):
                part = self.parts[0 if len(self.parts) == 1 else z]
                out[item, z : z + step] = act(part, values[item, z : z + step])
        return out


def _pinv(part: LinearOperator, y: Tensor) -> Tensor:
    found = part.pinv(y)
    assert found is not None
    return found


def chosen_of(operator: Operator, places: Sequence[int]) -> LinearOperator | None:
    """Return the operator of some slices of a volume's, by their numbers; None where it sees slices together."""
    if isinstance(operator, Slicewise):
        return operator.chosen(places)
    if isinstance(operator, Scaled):
        inner = chosen_of(operator.base, places)
        return None if inner is None else inner * operator.scale
    return None


def parts_of(operator: Operator) -> tuple[LinearOperator, ...] | None:
    """Return the operators of a volume's slices, or the one of all of them; None where it sees slices together."""
    if isinstance(operator, Slicewise):
        return operator.parts
    if isinstance(operator, Scaled):
        inner = parts_of(operator.base)
        return None if inner is None else tuple(part * operator.scale for part in inner)
    return None


def part_of(operator: Operator, first: int, count: int) -> Operator | None:
    """Return the operator of some neighbouring slices of a volume's; None where it sees slices together."""
    if isinstance(operator, Slicewise):
        return operator.part(first, count)
    if isinstance(operator, Scaled):
        inner = part_of(operator.base, first, count)
        return inner * operator.scale if isinstance(inner, LinearOperator) else None
    return None
