"""What is known exactly of a posterior: moments, spread in spectral bands, marginal distributions, and draws.

Vectors are real rows: an image (1, Y, X) flattened to (D,), a complex one with its parts interleaved.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from recon.audit.bands import Bands

BLOCK = 512


class Exact(ABC):
    """An exact posterior. mean, std: (D,), float64."""

    mean: Tensor
    std: Tensor

    @abstractmethod
    def band_std(self, bands: Bands) -> Tensor:
        """Return the standard deviation of each value of P_b x, (bands, D)."""

    @abstractmethod
    def covariance(self, basis: Tensor) -> Tensor:
        """Return the covariance W^T C W of W^T x for W = `basis` (D, k); (k, k)."""

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return independent draws (count, D)."""

    @abstractmethod
    def cdf(self, values: Tensor) -> Tensor:
        """Return the marginal distribution functions P(x_i <= v_i | y) of values (..., D)."""


@final
class GaussianExact(Exact):
    """N(mean, covariance) with a dense covariance (D, D)."""

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        """Factorise the covariance; rounding that makes it indefinite is lifted by 1e-12 of its mean variance."""
        self.mean, self.std = mean, covariance.diagonal().clamp_min(0).sqrt()
        lift = 1e-12 * covariance.diagonal().mean()
        self.root = torch.linalg.cholesky(covariance + lift * torch.eye(len(mean), dtype=covariance.dtype))

    def band_std(self, bands: Bands) -> Tensor:
        # C = R R^T: the variance of P x is the sum over the columns r of R of (P r)^2
        columns = self.root.T.contiguous()
        parts = [(bands.split(block) ** 2).sum(1) for block in columns.split(BLOCK)]
        return torch.stack(parts).sum(0).sqrt()

    def covariance(self, basis: Tensor) -> Tensor:
        seen = self.root.T @ basis
        return seen.T @ seen

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        white = torch.randn(count, len(self.mean), generator=generator, dtype=torch.float64)
        return self.mean + white @ self.root.T

    def cdf(self, values: Tensor) -> Tensor:
        return torch.special.ndtr((values - self.mean) / self.std)
