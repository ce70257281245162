"""Conjugate gradients on a batch of Hermitian positive (semi)definite systems.

    find x with (shift + weight M) x = b,   M = M^H >= 0,   one system per item of the batch

Inner products are Re<a, b> per item, with a conjugated; no item sees its batch mates.
Source: Hestenes and Stiefel 1952.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.kernels import fused
from recon.likelihoods import per_item_dot


@dataclass(frozen=True)
class Solution:
    """What conjugate gradients found.

    x: (B, ...).  residual: ||b - M x|| of each item as the recurrence tracks it, real, shape (B,).
    """

    x: Tensor
    residual: Tensor


@torch.no_grad()
def conjugate_gradients(
    matrix: Callable[[Tensor], Tensor],
    b: Tensor,
    start: Tensor | None = None,
    iterations: int = 5,
    tolerance: float = 1e-6,
    shift: float | Tensor = 0.0,
    weight: float | Tensor = 1.0,
) -> Solution:
    """Return x with (shift + weight M) x ~ b after a fixed number of iterations.

    matrix: the map x -> M x, batched, (B, ...) -> (B, ...); it must neither change nor keep its argument.
    b: right-hand side (B, ...), real or complex.  start: first x; None is zero and saves one application of M.
    iterations: applications of M (one more with a start).  tolerance: an item whose residual is at most
    tolerance ||b|| is frozen there.  shift, weight: real, numbers or one value per item, (B, ...).
    Never waits for a device: frozen items go on with step 0 instead of ending the loop.
    """
    b = b.resolve_conj()
    if start is None:
        residual = b.clone(memory_format=torch.contiguous_format)
        x = torch.zeros_like(residual)
    else:
        image = matrix(start)
        column = (-1, *(1,) * (image.ndim - 1))
        scaled = [v.reshape(column) if isinstance(v, Tensor) else v for v in (shift, weight)]
        residual = (b - (scaled[0] * start + scaled[1] * image)).resolve_conj().contiguous()
        x = start.resolve_conj().expand_as(residual).clone(memory_format=torch.contiguous_format)
        del image
    direction = residual.clone()
    square = fused.square(residual)
    limit = tolerance**2 * (square if start is None else fused.square(b.expand_as(residual)))
    shifts, weights = (_per_item(v, square) for v in (shift, weight))
    for _ in range(iterations):
        square = fused.conjugate_step(x, residual, direction, matrix(direction), square, limit, shifts, weights)
    return Solution(x, square.sqrt().to(x.real.dtype))


def differentiable_cg(matrix: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """Return x with M x ~ b after a few iterations from zero, with the graph of every one of them.

    matrix, b: as `conjugate_gradients`, differentiable.  Memory grows with the iterations; no item is frozen.
    """
    tiny = torch.finfo(b.real.dtype).tiny ** 0.5
    column = (-1, *(1,) * (b.ndim - 1))
    x, residual, direction = torch.zeros_like(b), b, b
    square = per_item_dot(b, b)
    for left in reversed(range(iterations)):
        image = matrix(direction)
        step = (square / per_item_dot(direction, image).clamp_min(tiny)).reshape(column)
        x = x + step * direction
        if left:
            residual = residual - step * image
            reduced = per_item_dot(residual, residual)
            direction = residual + (reduced / square.clamp_min(tiny)).reshape(column) * direction
            square = reduced
    return x


def _per_item(value: float | Tensor, like: Tensor) -> Tensor:
    """Return a number, or values (B or 1, ...), as (B,)."""
    if isinstance(value, Tensor):
        return value.reshape(-1).to(like).expand_as(like).contiguous()
    return torch.full_like(like, value)
