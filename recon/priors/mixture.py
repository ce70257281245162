"""A Gaussian mixture prior with an exact denoiser, and its exact posterior under a linear operator.

    p(x0) = sum_k w_k N(m_k, C_k)
    D(x, s) = sum_k r_k(x) [m_k + C_k (C_k + s^2 I)^-1 (x - m_k)],    r_k ~ w_k N(x; m_k, C_k + s^2 I)

The posterior under y = A x0 + sigma n is a mixture of the components' posteriors, weighted by w_k p(y | k).
"""

from __future__ import annotations

import copy
import math
from typing import final

import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.operators.base import LinearOperator
from recon.priors.base import Denoiser, Prediction, PriorInfo
from recon.solvers.dense import dense_matrix, linear_gaussian_posterior, real_rows

UNBOUNDED = 1e6


@final
class MixturePrior(Denoiser):
    """A Gaussian mixture over small real images.

    weights: (K,), positive; normalised here.  means: (K, C, [Z,] Y, X).
    covariances: (K, C, [Z,] Y, X), variances of independent pixels, or (K, D, D) with D the number of values.
    Raises ConfigError where shapes do not fit or a covariance is not positive semidefinite.
    """

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor,
        value_range: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        shape = tuple(means.shape[1:])
        size = math.prod(shape)
        self.log_weights = (weights.double() / weights.double().sum()).log()
        self.means = means.double().flatten(1)
        self.basis: Tensor | None = None
        if covariances.shape == means.shape:
            self.variances = covariances.double().flatten(1)
        elif covariances.shape == (len(means), size, size):
            self.variances, self.basis = torch.linalg.eigh(covariances.double())
        else:
            raise ConfigError(f"covariances of {tuple(covariances.shape)} do not fit means of {tuple(means.shape)}")
        lowest, highest = float(self.variances.min()), float(self.variances.max())
        if weights.shape != (len(means),) or not bool((weights > 0).all()) or lowest < -1e-9 * highest:
            raise ConfigError(f"a mixture of {len(means)} needs as many positive weights, and covariances >= 0")
        self.variances = self.variances.clamp_min(0)
        self.info = PriorInfo(
            name="gaussian-mixture",
            channels=shape[0],
            sizes=shape[1:],
            sigma_min=0.0,
            sigma_max=UNBOUNDED,
            value_range=value_range,
        )

    @property
    def weights(self) -> Tensor:
        """Component weights (K,), float64, of sum 1."""
        return self.log_weights.exp()

    def _denoise(self, x: Tensor, sigma: Tensor, cond: Tensor | None) -> Prediction:
        shifted = self._shifted(x)
        total = self.variances.to(x.dtype) + (sigma**2)[:, None, None]
        shares = self._log_joint(shifted, total).softmax(1)
        shrunk = shifted * (self.variances.to(x.dtype) / total)
        if self.basis is not None:
            shrunk = torch.einsum("bke,kde->bkd", shrunk, self.basis.to(x.dtype))
        return Prediction(torch.einsum("bk,bkd->bd", shares, self.means.to(x.dtype) + shrunk).reshape(x.shape))

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return ln p(x) of x = x0 + sigma n for x (B, C, [Z,] Y, X) and sigma (B,); shape (B,)."""
        total = self.variances.to(x.dtype) + (sigma**2)[:, None, None]
        return self._log_joint(self._shifted(x), total).logsumexp(1)

    def sample(self, count: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return `count` images (count, C, [Z,] Y, X) of the prior, on its device; the generator is on the CPU."""
        chosen = torch.multinomial(self.weights.cpu(), count, replacement=True, generator=generator)
        white = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        chosen, white = chosen.to(self.means.device), white.to(self.means.device)
        drawn = white * self.variances[chosen].sqrt()
        if self.basis is not None:
            drawn = torch.einsum("be,bde->bd", drawn, self.basis[chosen])
        return (self.means[chosen] + drawn).reshape(count, self.info.channels, *(self.info.sizes or ())).to(dtype)

    def posterior(self, operator: LinearOperator, y: Tensor, sigma: float) -> MixturePrior:
        """Return p(x0 | y) for y (1, *out_shape) = A x0 + sigma n, sigma > 0 of each real number; on the CPU.

        Raises ConfigError if the image is too large for dense matrices.
        """
        matrix, data = dense_matrix(operator), real_rows(y)[0].cpu()
        means, covariances = self.moments()
        parts = [
            linear_gaussian_posterior(matrix, cov, mean, data, sigma)
            for mean, cov in zip(means.flatten(1), covariances, strict=True)
        ]
        evidence = self.log_weights.cpu() + torch.tensor([p.log_evidence for p in parts], dtype=torch.float64)
        # a component without any share stays in, with the smallest weight that float64 holds
        weights = evidence.softmax(0).clamp_min(torch.finfo(torch.float64).tiny)
        moved = torch.stack([p.mean for p in parts]).reshape(means.shape)
        return MixturePrior(weights, moved, torch.stack([p.covariance for p in parts]), self.info.value_range)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the components' means (K, C, [Z,] Y, X) and covariances (K, D, D), float64 on the CPU."""
        if self.basis is None:
            covariances = torch.diag_embed(self.variances)
        else:
            covariances = (self.basis * self.variances[:, None, :]) @ self.basis.mT
        means = self.means.reshape(-1, self.info.channels, *(self.info.sizes or ()))
        return means.cpu(), covariances.cpu()

    def to(self, device: str | torch.device) -> MixturePrior:
        moved = copy.copy(self)
        moved.log_weights, moved.means = self.log_weights.to(device), self.means.to(device)
        moved.variances = self.variances.to(device)
        moved.basis = None if self.basis is None else self.basis.to(device)
        return moved

    def _shifted(self, x: Tensor) -> Tensor:
        """Return x - m_k in the eigenbasis of C_k: (B, K, D)."""
        shifted = x.flatten(1)[:, None] - self.means.to(x.dtype)
        if self.basis is None:
            return shifted
        return torch.einsum("bkd,kde->bke", shifted, self.basis.to(x.dtype))

    def _log_joint(self, shifted: Tensor, total: Tensor) -> Tensor:
        """Return ln w_k N(x; m_k, C_k + sigma^2 I), (B, K), from eigenvalues `total` (B, K, D) of the covariance."""
        log_norm = (total * (2 * math.pi)).log().sum(-1)
        return self.log_weights.to(shifted.dtype) - 0.5 * (log_norm + (shifted**2 / total).sum(-1))
