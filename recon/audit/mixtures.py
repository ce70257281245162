"""The exact posterior of a Gaussian mixture under a linear operator: again a mixture."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from recon.audit.bands import Bands
from recon.audit.exact import Exact
from recon.priors.mixture import MixturePrior
from recon.solvers.dense import real_rows


@final
class MixtureExact(Exact):
    """The mixture sum_k w_k N(m_k, C_k): m = sum w_k m_k,  C = sum w_k (C_k + (m_k - m)(m_k - m)^T)."""

    def __init__(self, posterior: MixturePrior) -> None:
        self.posterior = posterior
        means, covariances = posterior.moments()
        self.weights, self.means = posterior.weights, means.flatten(1)
        self.spreads = covariances.diagonal(dim1=1, dim2=2).sqrt()
        self.mean = self.weights @ self.means
        between = self.means - self.mean
        within = torch.einsum("k,kde->de", self.weights, covariances)
        self.total = within + torch.einsum("k,kd,ke->de", self.weights, between, between)
        self.std = self.total.diagonal().sqrt()

    def band_std(self, bands: Bands) -> Tensor:
        assert bands.masks is None, "a mixture has no spectral bands"
        return self.std[None]

    def covariance(self, basis: Tensor) -> Tensor:
        return basis.T @ self.total @ basis

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return real_rows(self.posterior.sample(count, generator, torch.float64))

    def cdf(self, values: Tensor) -> Tensor:
        standard = (values[..., None, :] - self.means) / self.spreads
        return torch.einsum("k,...kd->...d", self.weights, torch.special.ndtr(standard))
