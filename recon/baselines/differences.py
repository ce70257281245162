"""Finite differences of images, and their adjoint.

(D x)_k[i] = x[i + e_k] - x[i] inside, 0 at the last index of axis k (Neumann boundary),   ||D||^2 <= 4 K
"""

from __future__ import annotations

import torch
from torch import Tensor


def gradient(x: Tensor) -> Tensor:
    """Return D x, (K, B, C, ...), for x (B, C, ...) with K spatial axes."""
    axes = range(2, x.ndim)
    found = x.new_zeros((len(axes), *x.shape))
    for part, axis in zip(found, axes, strict=True):
        steps = x.shape[axis] - 1
        torch.sub(x.narrow(axis, 1, steps), x.narrow(axis, 0, steps), out=part.narrow(axis, 0, steps))
    return found


def gradient_adjoint(q: Tensor) -> Tensor:
    """Return D^H q, (B, C, ...), for q (K, B, C, ...): minus the divergence."""
    found = torch.zeros_like(q[0])
    for axis, part in enumerate(q, start=2):
        steps = found.shape[axis] - 1
        inner = part.narrow(axis, 0, steps)
        found.narrow(axis, 1, steps).add_(inner)
        found.narrow(axis, 0, steps).sub_(inner)
    return found


def norm_bound(x: Tensor) -> float:
    """Return 4 K, the bound of ||D||^2 for images like x (B, C, ...)."""
    return 4.0 * (x.ndim - 2)


def lengths(q: Tensor) -> Tensor:
    """Return sqrt(sum_k |q_k|^2), (B, C, ...), real, for q (K, B, C, ...)."""
    squares = q.real**2 + q.imag**2 if q.is_complex() else q**2
    return squares.sum(0).sqrt_()


def total_variation(x: Tensor) -> Tensor:
    """Return sum_i sqrt(sum_k |(D x)_k[i]|^2) of each item, channel by channel; shape (B,)."""
    return lengths(gradient(x)).flatten(1).sum(1)
