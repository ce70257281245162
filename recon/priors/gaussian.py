"""A stationary Gaussian prior with an exact denoiser, and its exact posterior under Fourier-diagonal operators.

    x0 ~ N(m, F^H diag(S) F)                D(x, s) = m + F^H [S/(S + s^2)] F (x - m)
    y = F^H H F x0 + sigma n                x0 | y ~ N(m + F^H [S H*/(|H|^2 S + sigma^2)] (F y - H F m),
                                                       F^H diag(S sigma^2/(|H|^2 S + sigma^2)) F)

F is the orthonormal Fourier transform over the spatial axes. For complex images the same spectrum holds for each of the
real and imaginary parts, and noise has standard deviation s in each part.
"""

from __future__ import annotations

import copy
import math
from typing import final

import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.priors.base import Denoiser, Prediction, PriorInfo, per_item

UNBOUNDED = 1e6


@final
class GaussianPrior(Denoiser):
    """A stationary Gaussian prior given by its power spectrum.

    spectrum: (C, [Z,] Y, X), variance of each orthonormal Fourier coefficient, in the order of `torch.fft.fftn`.
    mean: (C, [Z,] Y, X), or one number.  value_range: what methods that clip clip to.
    Real images need an even spectrum, S(k) = S(-k). Raises ConfigError on negative values and shapes that do not fit.
    """

    def __init__(
        self, spectrum: Tensor, mean: Tensor | float = 0.0, value_range: tuple[float, float] = (-1.0, 1.0)
    ) -> None:
        self.spectrum = spectrum.double()
        given = torch.as_tensor(mean)
        kind = torch.complex128 if given.is_complex() else torch.float64
        if given.ndim > 0 and given.shape != spectrum.shape:
            raise ConfigError(f"a mean of {tuple(given.shape)} does not fit a spectrum of {tuple(spectrum.shape)}")
        if spectrum.ndim < 2 or bool((self.spectrum < 0).any()):
            raise ConfigError(
                f"a power spectrum has axes (C, [Z,] Y, X) and no negative values: {tuple(spectrum.shape)}"
            )
        self.mean = given.to(kind).expand(spectrum.shape)
        self.axes = tuple(range(-(spectrum.ndim - 1), 0))
        self.even = bool(torch.allclose(self.spectrum, _mirrored(self.spectrum, self.axes)))
        self.info = PriorInfo(
            name="gaussian",
            channels=spectrum.shape[0],
            sizes=tuple(spectrum.shape[1:]),
            sigma_min=0.0,
            sigma_max=UNBOUNDED,
            value_range=value_range,
        )

    def _denoise(self, x: Tensor, sigma: Tensor, cond: Tensor | None) -> Prediction:
        mean = self._mean_like(x)
        variance = per_item(sigma, x) ** 2
        spectrum = self.spectrum.to(x.real.dtype)
        if x.is_complex():
            seen = torch.fft.fftn(x - mean, dim=self.axes, norm="ortho")
            return Prediction(mean + torch.fft.ifftn(_ratio(spectrum, variance) * seen, dim=self.axes, norm="ortho"))
        self._check_real()
        seen = torch.fft.rfftn(x - mean, dim=self.axes, norm="ortho")
        kept = _ratio(spectrum[..., : seen.shape[-1]], variance) * seen
        return Prediction(mean + torch.fft.irfftn(kept, s=x.shape[2:], dim=self.axes, norm="ortho"))

    def sample(self, count: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return `count` images (count, C, [Z,] Y, X) of the prior, on its device; the generator is on the CPU."""
        shape, real = (count, *self.spectrum.shape), dtype.to_real()
        if dtype.is_complex:
            white = torch.view_as_complex(torch.randn(*shape, 2, generator=generator, dtype=real))
        else:
            self._check_real()
            white = torch.randn(shape, generator=generator, dtype=real)
        white = white.to(self.spectrum.device)
        coloured = self.spectrum.to(real).sqrt() * torch.fft.fftn(white, dim=self.axes, norm="ortho")
        image = torch.fft.ifftn(coloured, dim=self.axes, norm="ortho")
        return self._mean_like(white) + (image if dtype.is_complex else image.real)

    def posterior(self, y: Tensor, sigma: float, transfer: Tensor | None = None) -> GaussianPrior:
        """Return p(x0 | y) for y = F^H H F x0 + sigma n; itself stationary around its mean.

        y: (C, [Z,] Y, X), in image space (for masked Fourier data: A^H y).  sigma: > 0, of each real number.
        transfer: H, (C or 1, [Z,] Y, X); None is denoising, H = 1.
        """
        h = torch.ones_like(self.spectrum) if transfer is None else transfer.to(torch.complex128)
        total = h.abs() ** 2 * self.spectrum + sigma**2
        misfit = torch.fft.fftn(y.to(torch.complex128), dim=self.axes, norm="ortho") - h * torch.fft.fftn(
            self.mean, dim=self.axes, norm="ortho"
        )
        shift = torch.fft.ifftn(self.spectrum * h.conj() / total * misfit, dim=self.axes, norm="ortho")
        mean = self.mean + (shift if y.is_complex() else shift.real)
        return GaussianPrior(self.spectrum * sigma**2 / total, mean, self.info.value_range)

    def to(self, device: str | torch.device) -> GaussianPrior:
        moved = copy.copy(self)
        moved.spectrum, moved.mean = self.spectrum.to(device), self.mean.to(device)
        return moved

    def _mean_like(self, x: Tensor) -> Tensor:
        if self.mean.is_complex() and not x.is_complex():
            raise ConfigError("this Gaussian prior has a complex mean", "give it complex images")
        return self.mean.to(x.dtype)

    def _check_real(self) -> None:
        if not self.even:
            raise ConfigError("a Gaussian prior of real images needs an even spectrum, S(k) = S(-k)")


def power_law_spectrum(shape: tuple[int, ...], exponent: float, std: float) -> Tensor:
    """Return S(f) ~ |f|^-exponent with pixel standard deviation `std`, for images of `shape` (C, [Z,] Y, X), float64.

    f is in cycles per pixel; frequencies below that of one cycle over the longest side, such as 0, share its value.
    """
    square = torch.zeros(shape[1:], dtype=torch.float64)
    for axis, size in enumerate(shape[1:]):
        along = [1] * len(shape[1:])
        along[axis] = size
        square = square + torch.fft.fftfreq(size, dtype=torch.float64).reshape(along) ** 2
    law = square.clamp_min(max(shape[1:]) ** -2.0) ** (-exponent / 2)
    return (law * (std**2 * math.prod(shape[1:]) / law.sum())).expand(shape).clone()


def _ratio(spectrum: Tensor, variance: Tensor) -> Tensor:
    """Return S/(S + s^2), 0 where S is 0."""
    return spectrum / (spectrum + variance).clamp_min(torch.finfo(spectrum.dtype).tiny)


def _mirrored(spectrum: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return S(-k)."""
    return spectrum.flip(axes).roll([1] * len(axes), axes)
