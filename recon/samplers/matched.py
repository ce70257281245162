"""The weight of data against a denoised image that follows the noise of both.

    gamma_t = r_t^2/sigma_y^2,     r_t^2 = sigma_t^2/(1 + sigma_t^2/s^2)

r_t^2 is the variance given x_t of white images of standard deviation s = 1/2, in a range of 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recon.data import Problem

SPREAD = 0.5


def spread_given(sigma: float) -> float:
    """Return r_t^2 at noise level sigma."""
    return SPREAD**2 * sigma**2 / (SPREAD**2 + sigma**2)


def matched_gamma(problem: Problem, z: Tensor, count: int, sigma: float) -> Tensor:
    """Return gamma_t at noise level sigma, (B, 1, ...), with the noise level sigma_y of the data at z = A x0.

    z: (B, *out_shape).  count: of measured numbers.
    """
    level = problem.likelihood.noise_level(z, count).clamp_min(torch.finfo(z.real.dtype).tiny ** 0.25)
    return (spread_given(sigma) / level**2).reshape(-1, *(1,) * len(problem.operator.in_shape))
