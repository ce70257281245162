"""The exact posterior of a stationary Gaussian prior where A^H A is a circular convolution.

    A^H A = F^H diag(g) F:   y' = F^H g^-1/2 F A^H y = F^H g^1/2 F x + sigma n
so that the posterior is again stationary around its mean, with transfer function g^1/2 (`GaussianPrior.posterior`).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from recon.audit.bands import Bands
from recon.audit.exact import Exact
from recon.operators.base import LinearOperator
from recon.priors.gaussian import GaussianPrior
from recon.solvers.dense import real_rows

AXES = (-2, -1)


@final
class StationaryExact(Exact):
    """The posterior N(m, F^H diag(S) F) of real or complex images (1, Y, X), held by its spectrum."""

    def __init__(self, posterior: GaussianPrior, complex_image: bool) -> None:
        self.posterior, self.complex_image = posterior, complex_image
        self.kind = torch.complex128 if complex_image else torch.float64
        self.mean = real_rows(posterior.mean.to(self.kind)[None])[0]
        self.std = posterior.spectrum.mean().sqrt().expand(self.mean.shape)

    def band_std(self, bands: Bands) -> Tensor:
        if bands.masks is None:
            return self.std[None]
        levels = (bands.masks * self.posterior.spectrum[0]).mean(AXES).sqrt()
        return levels[:, None].expand(-1, len(self.mean))

    def covariance(self, basis: Tensor) -> Tensor:
        shape = (basis.shape[1], *self.posterior.spectrum.shape)
        columns = basis.T.contiguous()
        images = torch.view_as_complex(columns.reshape(*shape, 2)) if self.complex_image else columns.reshape(shape)
        coloured = torch.fft.ifft2(self.posterior.spectrum * torch.fft.fft2(images))
        return basis.T @ real_rows(coloured if self.complex_image else coloured.real).T

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return real_rows(self.posterior.sample(count, generator, self.kind))

    def cdf(self, values: Tensor) -> Tensor:
        return torch.special.ndtr((values - self.mean) / self.std)


def circulant_posterior(prior: GaussianPrior, operator: LinearOperator, y: Tensor, sigma: float) -> Exact | None:
    """Return p(x | y), or None where A^H A is no circular convolution.

    operator: of images (1, Y, X).  y: (1, *out_shape).  sigma: > 0, of each real number of y.
    """
    exact = operator.to("cpu", torch.float64)
    assert isinstance(exact, LinearOperator)
    symbol = _symbol(exact)
    if symbol is None:
        return None
    root = symbol.sqrt()
    inverse = torch.where(root > 0, 1 / root.clamp_min(torch.finfo(root.dtype).tiny), 0)
    seen = torch.fft.fft2(exact.adjoint(y.to(exact.out_dtype))[0], norm="ortho")
    white = torch.fft.ifft2(inverse * seen, norm="ortho")
    is_complex = exact.in_dtype.is_complex
    return StationaryExact(prior.posterior(white if is_complex else white.real, sigma, root), is_complex)


def _symbol(operator: LinearOperator) -> Tensor | None:
    """Return g (1, Y, X) >= 0 with A^H A = F^H diag(g) F, or None."""
    delta = torch.zeros(1, *operator.in_shape, dtype=operator.in_dtype)
    delta[..., 0, 0] = 1
    symbol = torch.fft.fft2(operator.normal(delta)).real[0]
    scale = symbol.max()
    symbol = torch.where(symbol > 1e-10 * scale, symbol, 0)
    probe = torch.randn(1, *operator.in_shape, dtype=operator.in_dtype, generator=torch.Generator().manual_seed(0))
    seen, expected = torch.fft.fft2(operator.normal(probe)), symbol * torch.fft.fft2(probe)
    same = torch.linalg.vector_norm(seen - expected) <= 1e-6 * torch.linalg.vector_norm(seen)
    return symbol if bool(same) else None
