"""The Kalman gain applied to a misfit, by conjugate gradients in measurement space.

    d = V A^H u,    (S + A V A^H) u = r,    V = V^H >= 0 (prior covariance), S >= 0 (noise variance, diagonal)

It is the change of the mean of x ~ N(m, V) once y = A x + noise is seen, with r = y - A m. Each iteration applies V
once and keeps the image V A^H p of its direction p, so that d costs no further product with V.
Sources: Hestenes and Stiefel 1952; Rozet et al. 2024 (MMPS).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.likelihoods import per_item_dot

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Gain:
    """What the iterations found.

    change: d (B, *image).  weights: u (B, *measurement), a warm start for a similar system.
    """

    change: Tensor
    weights: Tensor


@torch.no_grad()
def kalman_gain(
    forward: Map,
    spread: Map,
    noise: Tensor | float,
    misfit: Tensor,
    iterations: int,
    start: Tensor | None = None,
    tolerance: float = 1e-6,
) -> Gain:
    """Return d and u after `iterations` >= 1 products with the covariance V, one system per item of the batch.

    forward: A, (B, *image) -> (B, *measurement).  spread: u -> V A^H u, (B, *measurement) -> (B, *image).
    noise: S, real and >= 0, broadcastable to the misfit.  misfit: r (B, *measurement), real or complex.
    start: the u of a similar system; the first product goes to the best multiple of it.
    tolerance: an item whose residual is at most tolerance ||r|| is frozen, as is one in whose direction V turns out
    negative, as a network's Jacobian may. Nothing waits for a device.
    """
    residual = misfit.resolve_conj().clone()
    limit = tolerance**2 * per_item_dot(residual, residual)
    direction = residual.clone() if start is None else start.resolve_conj().clone()
    weights, change = torch.zeros_like(residual), None
    square = per_item_dot(residual, residual)
    sound = torch.ones_like(square, dtype=torch.bool)
    for k in range(iterations):
        image = spread(direction)
        weighted = noise * direction
        product = forward(image) + weighted
        curvature = per_item_dot(direction, product)
        along = per_item_dot(direction, residual) if start is not None and k == 0 else square
        # S alone bounds the curvature from below, but for rounding
        sound = sound & (curvature > 0.99 * per_item_dot(direction, weighted))
        active = sound & (square > limit)
        step = torch.where(active, along / curvature, 0.0)
        change = _scaled(step, image) if change is None else change + _scaled(step, image)
        weights = weights + _scaled(step, direction)
        residual = residual - _scaled(step, product)
        reduced = per_item_dot(residual, residual)
        turn = torch.where(active, reduced / square, 0.0)
        direction = residual.clone() if start is not None and k == 0 else residual + _scaled(turn, direction)
        square = reduced
    assert change is not None
    return Gain(change, weights)


def _scaled(factor: Tensor, v: Tensor) -> Tensor:
    """Return factor_b v_b for factors (B,)."""
    return factor.reshape(-1, *(1,) * (v.ndim - 1)) * v
