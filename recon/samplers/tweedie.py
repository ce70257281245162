"""The spread of an image given its noisy version, by Tweedie's second moment.

    Cov[x0 | x] = sigma^2 J,   J = dD/dx,  symmetric and >= 0 for an exact denoiser: J u = J^T u, one backward pass

    scalar     r^2 = sigma^2 tr(J)/d,      tr(J)/d  ~ sum <z, J z>/sum ||z||^2       over probes z of random signs
    diagonal   r^2 = sigma^2 diag(J),      diag(J)  ~ sum z * J z/sum z * z
    full       draws x0hat + sigma J^1/2 z by Lanczos, and products sigma^2 J u

Probes are exact where J is a multiple of the identity (scalar) or diagonal. A diagonal estimate is kept above 1 % of
its mean: few probes leave off-diagonal noise, and a variance must be positive.
Sources: Efron 2011 (Tweedie's second moment); Hutchinson 1990; Bekas et al. 2007.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from recon.likelihoods import per_item_dot
from recon.samplers.data_step import DataStep
from recon.samplers.gradient import Traced
from recon.solvers.lanczos import square_root_times
from recon.solvers.metropolis import Normal

LEAST = 1e-2  # of the mean variance


def scalar_std(traced: Traced, sigma: float, probes: int, normal: Normal) -> Tensor:
    """Return r, (B, 1, ...), of a prior's evaluation at x (B, ...) and noise level sigma; `probes` backward passes."""
    seen, size = [], 0
    for _ in range(probes):
        z = _signs(traced.x, normal)
        seen.append(per_item_dot(z, traced.pull(z, keep=True)))
        size += z[0].numel() * (2 if z.is_complex() else 1)
    mean = torch.stack(seen).sum(0) / size
    # a negative estimate, which no exact denoiser gives, leaves next to no spread
    least = torch.finfo(mean.dtype).eps ** 2
    return sigma * mean.clamp_min(least).sqrt().reshape(-1, *(1,) * (traced.x.ndim - 1))


def diagonal_std(traced: Traced, sigma: float, probes: int, normal: Normal) -> Tensor:
    """Return r of each pixel, real and like x; `probes` backward passes. Complex pixels: the mean over both parts."""
    seen = []
    for _ in range(probes):
        z = _signs(traced.x, normal)
        share = (z.conj() * traced.pull(z, keep=True)).real
        seen.append(share / 2 if z.is_complex() else share)
    estimate = torch.stack(seen).mean(0)
    mean = estimate.clamp_min(0).flatten(1).mean(1).reshape(-1, *(1,) * (estimate.ndim - 1))
    least = (LEAST * mean).clamp_min(torch.finfo(estimate.dtype).eps ** 2)
    return sigma * torch.maximum(estimate, least).sqrt()


def covariance_times(traced: Traced, sigma: float, u: Tensor) -> Tensor:
    """Return sigma^2 J u for u like x; one backward pass."""
    return sigma**2 * traced.pull(u, keep=True)


def draw(traced: Traced, sigma: float, steps: int, normal: Normal) -> Tensor:
    """Return x0hat + sigma J^1/2 z, a draw of N(x0hat, sigma^2 J) on each item; `steps` backward passes."""
    z = normal(traced.x.shape, traced.x.dtype)
    return traced.x0 + sigma * square_root_times(lambda u: traced.pull(u, keep=True), z, steps)


def draw_image(
    covariance: str, products: int, traced: Traced, sigma: float, lr: float, data: DataStep, normal: Normal
) -> Tensor:
    """Return a draw of p(y | x0) N(x0; D(x), sigma^2 J) by a data step, with J as `covariance` says.

    "scalar", "diagonal": `products` probes.  "full": `products` each of Lanczos and of conjugate gradients.
    """
    if covariance == "full":
        drawn = draw(traced, sigma, products, normal)
        return data.draw_correlated(drawn, partial(covariance_times, traced, sigma), products)
    estimate = scalar_std if covariance == "scalar" else diagonal_std
    return data.draw(traced.x0, estimate(traced, sigma, products, normal), lr)


def _signs(x: Tensor, normal: Normal) -> Tensor:
    """Return random signs like x; of each part of a complex x."""
    z = normal(x.shape, x.dtype)
    if z.is_complex():
        return torch.view_as_complex(torch.copysign(torch.ones(()).to(z.real), torch.view_as_real(z)))
    return torch.copysign(torch.ones_like(z), z)
