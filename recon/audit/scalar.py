"""The exact posterior of a single number, by quadrature; any operator and any likelihood.

p(x | y) ~ p(y | A(x)) p(x) on a fine grid over the prior's support
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from recon.audit.bands import Bands
from recon.audit.exact import Exact
from recon.data import Problem
from recon.priors.mixture import MixturePrior

POINTS = 40_001
REACH = 9.0  # of the grid, in standard deviations beyond the outer components


@final
class ScalarExact(Exact):
    """A posterior density on a uniform grid (trapezoidal rule), its distribution function and quantiles."""

    def __init__(self, grid: Tensor, log_density: Tensor) -> None:
        """grid: (P,), ascending, uniform.  log_density: (P,), up to a constant; both float64."""
        density = (log_density - log_density.max()).exp()
        steps = (grid[1] - grid[0]) * (density[1:] + density[:-1]) / 2
        self.grid = grid
        self.distribution = torch.cat([torch.zeros(1, dtype=grid.dtype), steps.cumsum(0)]) / steps.sum()
        weight = density / density.sum()
        self.mean = (weight @ grid)[None]
        self.std = (weight @ (grid - self.mean) ** 2).sqrt()[None]

    def band_std(self, bands: Bands) -> Tensor:
        assert bands.masks is None, "a single number has no spectral bands"
        return self.std[None]

    def covariance(self, basis: Tensor) -> Tensor:
        return self.std**2 * basis.T @ basis

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return self.quantile(torch.rand(count, generator=generator, dtype=torch.float64))[:, None]

    def cdf(self, values: Tensor) -> Tensor:
        return _interpolate(values, self.grid, self.distribution)

    def quantile(self, level: Tensor) -> Tensor:
        """Return the quantiles of levels (...) in (0, 1)."""
        return _interpolate(level, self.distribution, self.grid)


def scalar_posterior(prior: MixturePrior, problem: Problem) -> ScalarExact:
    """Return p(x | y) for images of one pixel (1, 1, 1)."""
    means, covariances = prior.moments()
    centres, spreads = means.flatten(), covariances.flatten().sqrt()
    low, high = float((centres - REACH * spreads).min()), float((centres + REACH * spreads).max())
    grid = torch.linspace(low, high, POINTS, dtype=torch.float64)
    images = grid.reshape(-1, 1, 1, 1)
    log_prior = prior.log_density(images, torch.zeros(POINTS, dtype=torch.float64))
    z = problem.operator.to(dtype=torch.float64).forward(images)
    return ScalarExact(grid, log_prior - problem.likelihood.loss(z, problem.y.double()))


def _interpolate(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the piecewise linear function through (x, y), x ascending, held at its ends."""
    right = torch.searchsorted(x, at.contiguous()).clamp(1, len(x) - 1)
    left = right - 1
    gap = (x[right] - x[left]).clamp_min(torch.finfo(x.dtype).tiny)
    return y[left] + (y[right] - y[left]) * ((at - x[left]) / gap).clamp(0, 1)
