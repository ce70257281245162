"""A linear map whose gradient is its adjoint, called instead of traced: the map may work in place, or outside torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


def linear_map(x: Tensor, there: Map, back: Map) -> Tensor:
    """Return there(x); differentiable in x any number of times, forwards and backwards, by back, the adjoint of there.

    Both take and return whole batches and are called without recording.
    """
    result: Tensor = _Linear.apply(x, there, back)
    return result


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, there: Map, back: Map) -> Tensor:
        return there(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Map, Map], output: Tensor) -> None:
        ctx.there, ctx.back = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return linear_map(grads[0].resolve_conj(), ctx.back, ctx.there), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return linear_map(tangents[0].resolve_conj(), ctx.there, ctx.back)
