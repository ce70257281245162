"""Predictor and corrector of the variance-exploding diffusion for the slices of a volume.

    corrector   x + e score + sqrt(2 e) n,    e = 2 (snr mean||n_k||/mean||score_k||)^2,    score = (x0 - x)/sigma^2

The means are over the slices k of a group: the mini-batch of the authors' code, which here has a size of its own, so
that results do not depend on how many slices go through the network together. An image is one slice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recon.samplers.renoise import reverse_diffusion


def corrector(x: Tensor, x0: Tensor, sigma: float, snr: float, n: Tensor, batch: int, axis: int) -> Tensor:
    """Return x after a Langevin step at level sigma.

    x: (B, C, [Z,] Y, X).  x0: its denoised image.  n: noise like x.  batch: slices of a group.  axis: across which.
    Source: Song et al. 2021 (score SDE), algorithm 4.
    """
    pull = x0 - x
    ratio = group_means(slice_norms(n, axis), batch) / group_means(slice_norms(pull, axis), batch).clamp_min(1e-30)
    # e/sigma^2 of each slice
    step = spread_over(2 * (snr * sigma * ratio) ** 2, x, axis)
    return pull.mul_(step).add_(x).addcmul_((2 * sigma**2 * step).sqrt(), n)


def predictor(x: Tensor, x0: Tensor, sigma_t: float, sigma_s: float, n: Tensor | None) -> Tensor:
    """Return x at level sigma_s < sigma_t: x + (sigma_t^2 - sigma_s^2) score + sqrt(sigma_t^2 - sigma_s^2) n.

    n: noise like x, or None for the mean.
    """
    return reverse_diffusion(x0, (x - x0).div_(sigma_t), sigma_t, sigma_s, n)


def slice_norms(v: Tensor, axis: int) -> Tensor:
    """Return the norm of each slice across `axis` of v (B, C, Z, Y, X), (B, slices); of an image, (B, 1)."""
    kept = (0, axis) if v.ndim > 4 else (0,)
    real = torch.view_as_real(v) if v.is_complex() else v
    return torch.linalg.vector_norm(real, dim=[d for d in range(real.ndim) if d not in kept]).reshape(len(v), -1)


def group_means(values: Tensor, batch: int) -> Tensor:
    """Return values (B, slices) with each replaced by the mean of its group of up to `batch` neighbours."""
    groups = values.tensor_split(-(-values.shape[1] // batch), dim=1)
    return torch.cat([group.mean(1, keepdim=True).expand_as(group) for group in groups], dim=1)


def spread_over(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """Return values (B, slices) so that they broadcast over x (B, C, Z, Y, X), or over an image."""
    shape = [1] * x.ndim
    shape[0] = len(values)
    if x.ndim > 4:
        shape[axis] = values.shape[1]
    return values.reshape(shape)
