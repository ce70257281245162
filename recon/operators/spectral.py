"""How an operator offers its singular value decomposition, A = U diag(s) V^H, as maps between images and coefficients.

    V is unitary and complete          from_v(to_v(x)) = x and to_v(from_v(c)) = c
    U is unitary where s > 0           to_u(from_u(c)) = c there; to_u gives 0 and from_u ignores c where s = 0
    so that                            A x = from_u(s to_v(x)),   A^H y = from_v(s to_u(y))

All of it in the real inner product Re<., .>, so white noise of unit variance in each real number of an image has the
same law among its coefficients. Coefficients of real images are real: operators that are diagonal in the Fourier basis
use the Hartley transform, Re F x - Im F x, which is orthonormal, its own inverse, and real; no symmetry among complex
coefficients has to be kept by those who change them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


@final
@dataclass(frozen=True)
class Spectrum:
    """The singular values and the bases of a linear operator.

    values: s >= 0, real, broadcastable to one item's coefficients; exactly 0 where nothing is measured.
    to_v, from_v: V^H x and V c, images (B, *in_shape) <-> coefficients (B, ...), as many as the image has values.
    to_u, from_u: U^H y and U c, measurements (B, *out_shape) <-> coefficients.
    """

    values: Tensor
    to_v: Map
    from_v: Map
    to_u: Map
    from_u: Map

    def prox(self, z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor:
        """Return argmin_x ||A x - y||^2 + rho ||x - z||^2 = z + V s (s^2 + rho)^-1 (U^H y - s V^H z).

        rho: a number or (B or 1, ...) with one value per item; at rho = 0 the limit, z + A^+ (y - A z).
        """
        c = self.to_v(z)
        if isinstance(rho, Tensor) and rho.ndim > 0:
            rho = rho.reshape(-1, *(1,) * (c.ndim - 1))
        gain = torch.where(self.values > 0, self.values / (self.values**2 + rho), 0.0)
        return z + self.from_v(gain * (self.to_u(y) - self.values * c))

    def pinv(self, y: Tensor) -> Tensor:
        """Return the Moore-Penrose inverse V s^+ U^H y."""
        return self.from_v(inverse(self.values) * self.to_u(y))

    def above(self, share: float) -> Spectrum:
        """Return the spectrum that counts values below `share` of the largest as unmeasured, as the truncated SVD."""
        kept = self.values >= share * self.values.max()
        values = torch.where(kept, self.values, 0.0)
        to_u, from_u = self.to_u, self.from_u
        return Spectrum(values, self.to_v, self.from_v, lambda y: kept * to_u(y), lambda c: from_u(kept * c))


def inverse(values: Tensor) -> Tensor:
    """Return 1/s, and 0 where s is 0."""
    return torch.where(values > 0, 1 / values, 0.0)


def complete_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return U (M, N), s (N,) and V (N, N) of a matrix (M, N), computed in float64 and given in its own precision.

    Values that rounding alone could make, below max(M, N) eps of the largest, are 0, and so are their columns of U.
    """
    rows, columns = matrix.shape
    exact = matrix.to(torch.complex128 if matrix.is_complex() else torch.float64)
    u, s, vh = torch.linalg.svd(exact, full_matrices=rows < columns)
    missing = max(columns - len(s), 0)
    s, u = torch.nn.functional.pad(s, (0, missing)), torch.nn.functional.pad(u, (0, missing))
    s = torch.where(s > max(rows, columns) * torch.finfo(matrix.dtype).eps * s.max(), s, 0.0)
    return (u * (s > 0)).to(matrix), s.to(matrix.real.dtype), vh.mH.to(matrix)


def hartley(x: Tensor) -> Tensor:
    """Return Re F x - Im F x over the last two axes, with the orthonormal F, of a real x; its own inverse.

    Source: Bracewell, J. Opt. Soc. Am. 73, 1983.
    """
    k = torch.fft.fft2(x, norm="ortho")
    return k.real - k.imag


def rescaled(spectrum: Spectrum, scale: float) -> Spectrum:
    """Return the spectrum of scale A, for a real number other than 0."""
    sign = 1.0 if scale > 0 else -1.0
    to_u, from_u = spectrum.to_u, spectrum.from_u
    return Spectrum(
        abs(scale) * spectrum.values,
        spectrum.to_v,
        spectrum.from_v,
        lambda y: sign * to_u(y),
        lambda c: sign * from_u(c),
    )


def before(inner: Spectrum, outer: Spectrum) -> Spectrum | None:
    """Return the spectrum of A B where the square B (`inner`) is a multiple of a unitary operator; else None."""
    gain = _gain(inner)
    if gain is None:
        return None
    return Spectrum(
        gain * outer.values,
        lambda x: outer.to_v(inner.from_u(inner.to_v(x))),
        lambda c: inner.from_v(inner.to_u(outer.from_v(c))),
        outer.to_u,
        outer.from_u,
    )


def after(outer: Spectrum, inner: Spectrum) -> Spectrum | None:
    """Return the spectrum of A B where the square A (`outer`) is a multiple of a unitary operator; else None."""
    gain = _gain(outer)
    if gain is None:
        return None
    return Spectrum(
        gain * inner.values,
        inner.to_v,
        inner.from_v,
        lambda y: inner.to_u(outer.from_v(outer.to_u(y))),
        lambda c: outer.from_u(outer.to_v(inner.from_u(c))),
    )


def _gain(spectrum: Spectrum) -> float | None:
    """Return g if all singular values are g > 0."""
    low, high = (float(v) for v in spectrum.values.aminmax())
    return high if 0 < high <= low * (1 + 4 * torch.finfo(spectrum.values.dtype).eps) else None
