"""Conjugate gradients on a batch of Hermitian positive (semi)definite systems.

    find x with M x = b,   M = M^H >= 0,   one system per item of the batch

Inner products are Re<a, b> per item, with a conjugated; no item sees its batch mates.
Source: Hestenes and Stiefel 1952.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

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
) -> Solution:
    """Return x with M x ~ b after a fixed number of iterations.

    matrix: the map x -> M x, batched, (B, ...) -> (B, ...); it must neither change nor keep its argument.
    b: right-hand side (B, ...), real or complex.  start: first x; None is zero and saves one application of M.
    iterations: applications of M (one more with a start).  tolerance: an item whose residual is at most
    tolerance ||b|| is frozen there.
    Never waits for a device: frozen items go on with step 0 instead of ending the loop.
    """
    b = b.resolve_conj()
    residual = b.clone() if start is None else (b - matrix(start)).resolve_conj()
    x = torch.zeros_like(residual) if start is None else start.resolve_conj().expand_as(residual).clone()
    direction = residual.clone()
    # updates act on real views of the same memory: real coefficients times complex vectors, fused and in place
    vx, vr, vp = _reals(x), _reals(residual), _reals(direction)
    column = (-1, *(1,) * (vr.ndim - 1))
    limit = tolerance**2 * per_item_dot(b, b)
    square = per_item_dot(vr, vr)
    for _ in range(iterations):
        image = _reals(matrix(direction))
        curvature = per_item_dot(vp, image)
        active = square > limit
        step = torch.where(active & (curvature > 0), square / curvature, 0.0).reshape(column)
        vx.addcmul_(step, vp)
        vr.addcmul_(step, image, value=-1)
        del image
        reduced = per_item_dot(vr, vr)
        turn = torch.where(active, reduced / square, 0.0).reshape(column)
        torch.addcmul(vr, turn, vp, out=vp)
        square = reduced
    return Solution(x, square.sqrt())


def _reals(v: Tensor) -> Tensor:
    """Return v, or the real view (B, ..., 2) of a complex v."""
    return torch.view_as_real(v.resolve_conj()) if v.is_complex() else v
