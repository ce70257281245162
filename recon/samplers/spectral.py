"""The spectral step: what the data say of each singular direction, by their noise against the level's.

Coefficients of A = U diag(s) V^H: c = V^H x0hat, e = V^H eps, m = U^H (y - A x0hat), z fresh noise. At the next level
sigma_s, with data of noise sigma_y (sigma_y/s in image units):

    s sigma_s > sigma_y     c + eta_b m/s + sqrt(sigma_s^2 - eta_b^2 sigma_y^2/s^2) z       the data are the less noisy
    s sigma_s < sigma_y     c + sqrt(1 - eta^2) sigma_s m/sigma_y + eta sigma_s z           the level is the less noisy
    s = 0, or equal         c + sqrt(1 - eta^2) sigma_s e + eta sigma_s z                   nothing is measured: DDIM-B

Each row has total noise sigma_s where x0hat is the truth. Used by DDRM, and by DDNM+ with eta_b = 1.
Source: Kawar et al. 2022 (DDRM), eqs. 7 and 8 and the authors' code; Wang et al. 2023 (DDNM), eqs. 45 to 51.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian
from recon.operators.base import LinearOperator
from recon.operators.spectral import Spectrum, inverse
from recon.samplers.gradient import require_linear


@final
@dataclass(frozen=True)
class SpectralData:
    """Data in the operator's singular basis: its spectrum, seen = U^H y (1 or B, ...), and their noise sigma_y."""

    spectrum: Spectrum
    seen: Tensor
    sigma_y: float

    def start(self, n: Tensor, sigma: float) -> Tensor:
        """Return the first state at level sigma from unit noise n (B, *in_shape).

        y/s + sqrt(sigma^2 - sigma_y^2/s^2) V^H n where s sigma > sigma_y, else sigma V^H n.
        """
        s, noise = self.spectrum.values, self.spectrum.to_v(n)
        weight = inverse(s)
        rest = (sigma**2 - (self.sigma_y * weight) ** 2).clamp_min(0).sqrt()
        known = weight * self.seen + rest * noise
        return self.spectrum.from_v(torch.where(s * sigma > self.sigma_y, known, sigma * noise))

    def step(self, x0: Tensor, eps: Tensor, z: Tensor | None, sigma_s: float, eta: float, eta_b: float) -> Tensor:
        """Return the state at sigma_s, from x0 and eps (B, *in_shape); x0 itself, and z None, at sigma_s = 0."""
        if sigma_s == 0 or z is None:
            return x0.clone()
        basis, s, keep = self.spectrum, self.spectrum.values, (1 - eta**2) ** 0.5 * sigma_s
        near = s * sigma_s > self.sigma_y
        far = (s > 0) & (s * sigma_s < self.sigma_y)
        weight = inverse(s)
        rest = (sigma_s**2 - (eta_b * self.sigma_y * weight) ** 2).clamp_min(0).sqrt()
        data = torch.where(near, eta_b * weight, far.to(s) * (keep / (self.sigma_y or 1.0)))
        fresh = torch.where(near, rest, eta * sigma_s)
        misfit = self.seen - s * basis.to_v(x0)
        own = (~(near | far)).to(s) * keep
        return x0 + basis.from_v(data * misfit + own * basis.to_v(eps) + fresh * basis.to_v(z))


def spectral_data(name: str, problem: Problem, cutoff: float) -> SpectralData:
    """Return a problem's data in the singular basis; values below `cutoff` of the largest count as unmeasured.

    Raises ConfigError unless the operator has an SVD and the noise is Gaussian.
    """
    operator = require_linear(name, problem)
    spectrum = operator.svd()
    if spectrum is None:
        raise ConfigError(
            f"method '{name}' needs a singular value decomposition, {operator!r} has none", "use method dds or diffpir"
        )
    spectrum = spectrum.above(cutoff)
    return SpectralData(spectrum, spectrum.to_u(problem.y), gaussian_sigma(name, problem))


def gaussian_sigma(name: str, problem: Problem) -> float:
    """Return the standard deviation of Gaussian noise, 0 for exact data. Raises ConfigError for another kind."""
    if not isinstance(problem.likelihood, Gaussian):
        kind = type(problem.likelihood).__name__
        raise ConfigError(f"method '{name}' needs Gaussian noise, got {kind}", "use method dps, or noise.kind=gaussian")
    return problem.likelihood.sigma


def truncated_pinv(operator: LinearOperator, cutoff: float) -> Callable[[Tensor], Tensor] | None:
    """Return r -> A^+ r without singular values below `cutoff` of the largest, or without an SVD the operator's own
    pseudo-inverse, or None where it has neither."""
    spectrum = operator.svd()
    if spectrum is not None:
        return spectrum.above(cutoff).pinv
    if not operator.has_pinv():
        return None

    def own(r: Tensor) -> Tensor:
        image = operator.pinv(r)
        assert image is not None
        return image

    return own
