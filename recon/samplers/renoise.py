"""From a (corrected) estimate x0 at noise level sigma_t to the state at the next level sigma_s < sigma_t.

All rules are pure functions in sigma-space, x = x0 + sigma n, with eps = (x - x0)/sigma_t and fresh noise z. Noise
levels are plain numbers, so nothing waits for a device. Every rule returns x0 itself at sigma_s = 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recon.kernels import fused
from recon.likelihoods import per_item_norm
from recon.priors.base import Prediction

BETA_D, BETA_MIN = 19.9, 0.1


def ddim_a(x0: Tensor, eps: Tensor, sigma_t: float, sigma_s: float, eta: float, z: Tensor | None) -> Tensor:
    """Return x0 + sqrt(sigma_s^2 - up^2) eps + up z,  up = eta sigma_s sqrt(sigma_t^2 - sigma_s^2)/sigma_t.

    Used by DDIM, PiGDM, PSLD; eta = 1 is the ancestral step, eta = 0 the probability-flow step (z may then be None).
    Source: Song et al. 2021 (DDIM), eq. 16.
    """
    up = eta * sigma_s * math.sqrt(sigma_t**2 - sigma_s**2) / sigma_t
    return _combine(x0, eps, math.sqrt(sigma_s**2 - up**2), up, z)


def ddim_b(x0: Tensor, eps: Tensor, sigma_t: float, sigma_s: float, eta: float, z: Tensor | None) -> Tensor:
    """Return x0 + sigma_s (sqrt(1 - eta^2) eps + eta z); sigma_t plays no part.

    Used by DDS and DDRM with the network's own eps, by DiffPIR with eps refreshed from the corrected x0 (its
    zeta = eta^2). Source: Chung et al. 2024 (DDS), eq. 12 and the authors' code.
    """
    return _combine(x0, eps, sigma_s * math.sqrt(1 - eta**2), sigma_s * eta, z)


def guided_ddim_b(
    x: Tensor, seen: Prediction, change: Tensor | None, sigma_t: float, sigma_s: float, eta: float, z: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return x0' = x0 + change and x0' + sigma_s (sqrt(1 - eta^2) eps + eta z), with eps = (x - x0)/sigma_t.

    The rule of `ddim_b` with the eps of what was seen at x, the unconditional one where there is one, in one pass.
    """
    base = seen.x0 if seen.x0_uncond is None else seen.x0_uncond
    return fused.guide(x, seen.x0, base, change, z, sigma_s * math.sqrt(1 - eta**2) / sigma_t, sigma_s * eta)


def ancestral(
    x0: Tensor, eps: Tensor, sigma_t: float, sigma_s: float, z: Tensor | None, variance_mix: Tensor | None = None
) -> Tensor:
    """Return a draw from the VP posterior q(x_s | x_t, x0), in sigma-space.

        mean = x0 + sigma_s^2/sigma_t eps,    low = sigma_s^2 (sigma_t^2 - sigma_s^2)/sigma_t^2   (posterior variance)
        high = (sigma_t^2 - sigma_s^2)(1 + sigma_s^2)/(1 + sigma_t^2)                             (beta_t / ab_s)
        variance = high^f low^(1-f) with the learned fraction f, else low

    Used by DPS and MCG. Source: Ho et al. 2020 eq. 7, Nichol and Dhariwal 2021 eq. 15.
    """
    if sigma_s == 0:
        return x0.clone()
    gap = sigma_t**2 - sigma_s**2
    low = sigma_s**2 * gap / sigma_t**2
    if variance_mix is None or z is None:
        return _combine(x0, eps, sigma_s**2 / sigma_t, math.sqrt(low), z)
    high = gap * (1 + sigma_s**2) / (1 + sigma_t**2)
    std = (variance_mix * (0.5 * math.log(high / low)) + 0.5 * math.log(low)).exp()
    return x0.add(eps, alpha=sigma_s**2 / sigma_t).addcmul_(std, z)


def euler(x0: Tensor, eps: Tensor, sigma_t: float, sigma_s: float, z: Tensor | None, vp_scaled: bool) -> Tensor:
    """Return an Euler(-Maruyama) step of the reverse diffusion, in the coordinates u that the authors step in.

        u = x/sqrt(1 + sigma^2), h = beta(t_t)(t_t - t_s):  u_s = (1 + h/2) u_t + h score_u + sqrt(h) z     (VP-scaled)
        u = x, h = 2 sigma_t (sigma_t - sigma_s):           u_s = u_t + h score_u + sqrt(h) z               (unscaled)

    z = None takes the probability-flow ODE: half the score, no noise.  t is the time at which the continuous VP
    schedule reaches sigma, beta(t) = 19.9 t + 0.1.  Used by InverseBench's DPS.
    Source: Song et al. 2021 (score SDE), Karras et al. 2022 eq. 4; departure: a step to sigma_s = 0 returns x0.
    """
    if sigma_s == 0:
        return x0.clone()
    if not vp_scaled:
        h = 2 * sigma_t * (sigma_t - sigma_s)
        return _combine(x0, eps, sigma_t - (h if z is not None else h / 2) / sigma_t, math.sqrt(h), z)
    time = _vp_time(sigma_t)
    h = (BETA_D * time + BETA_MIN) * (time - _vp_time(sigma_s))
    grow = math.sqrt((1 + sigma_s**2) / (1 + sigma_t**2))
    drift = (h if z is not None else h / 2) * (1 + sigma_t**2) / sigma_t
    kept = grow * (1 + h / 2)
    return _combine(x0 * kept, eps, kept * sigma_t - grow * drift, math.sqrt(h * (1 + sigma_s**2)), z)


def reverse_diffusion(x0: Tensor, eps: Tensor, sigma_t: float, sigma_s: float, z: Tensor | None) -> Tensor:
    """Return the VE predictor x + (sigma_t^2 - sigma_s^2) score + sqrt(sigma_t^2 - sigma_s^2) z, score = -eps/sigma_t.

    Used by MCG and the integrator "pc". Source: Song et al. 2021 (score SDE), algorithm 2; departure: no noise in a
    step to sigma_s = 0.
    """
    return _combine(x0, eps, sigma_s**2 / sigma_t, math.sqrt(sigma_t**2 - sigma_s**2) if sigma_s > 0 else 0.0, z)


def langevin_corrector(x0: Tensor, eps: Tensor, sigma_t: float, snr: float, z: Tensor) -> Tensor:
    """Return x + e score + sqrt(2 e) z at level sigma_t, with e = 2 (snr ||z||/||score||)^2 and score = -eps/sigma_t.

    Used by MCG and the integrator "pc". Source: Song et al. 2021 (score SDE), algorithm 4; departure: norms are per
    sample.
    """
    ratio = snr * sigma_t * per_item_norm(z) / per_item_norm(eps).clamp_min(torch.finfo(eps.dtype).tiny)
    step = 2 * ratio.reshape(-1, *(1,) * (eps.ndim - 1)) ** 2
    return x0 + (sigma_t - step / sigma_t) * eps + (2 * step).sqrt() * z


def _combine(x0: Tensor, eps: Tensor, keep: float, up: float, z: Tensor | None) -> Tensor:
    """Return x0 + keep eps + up z as a new tensor."""
    if z is None or up == 0:
        return fused.combine((x0, eps), (1.0, keep))
    return fused.combine((x0, eps, z), (1.0, keep, up))


def _vp_time(sigma: float) -> float:
    """Return the t with sigma^2 = exp(19.9 t^2/2 + 0.1 t) - 1."""
    return (math.sqrt(BETA_MIN**2 + 2 * BETA_D * math.log1p(sigma**2)) - BETA_MIN) / BETA_D
