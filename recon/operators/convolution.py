"""Convolution of every plane of an image with one kernel, by FFT: circular, or of a padded or cropped image.

    y = h * x,   y[i] = sum_j h[j] x[i + c - j],   c = k // 2

Planes go through the transforms in groups that fit the cache.
"""

from __future__ import annotations

from typing import final

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn.functional import pad

from recon.operators.base import LinearOperator, Shape
from recon.operators.groups import by_planes
from recon.operators.linear_map import linear_map
from recon.operators.spectral import Spectrum, hartley

PINV_DAMPING = 1e-2  # of the pseudo-inverse, relative to ||A||^2: blurs are ill-conditioned


@final
class CircularBlur(LinearOperator):
    """y = F^-1 diag(H) F x with the transfer function H = F h; x (B, C, [Z,] Y, X), y of the same shape.

    kernel: h (k_y, k_x).  prox(z, rho, y) = F^-1 (H* Fy + rho Fz) / (|H|^2 + rho);
    pinv(y) = F^-1 H* Fy / (|H|^2 + d max|H|^2), d = 0.01.
    """

    def __init__(self, in_shape: Shape, kernel: Tensor) -> None:
        self.in_shape = self.out_shape = in_shape
        self.kernel = kernel
        self._transform()

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> CircularBlur:
        moved = super().to(device, dtype)
        assert isinstance(moved, CircularBlur)
        moved._transform()
        return moved

    def _transform(self) -> None:
        centre = (-(self.kernel.shape[0] // 2), -(self.kernel.shape[1] // 2))
        rows, columns = self.in_shape[-2:]
        placed = pad(self.kernel, (0, columns - self.kernel.shape[1], 0, rows - self.kernel.shape[0]))
        self.transfer = torch.fft.rfft2(placed.roll(centre, (0, 1)))
        self.reverse = self.transfer.conj().resolve_conj()
        self.square = self._power().to(self.transfer.dtype)

    def _forward(self, x: Tensor) -> Tensor:
        return linear_map(x, lambda v: self._filtered(v, self.transfer), lambda v: self._filtered(v, self.reverse))

    def _adjoint(self, y: Tensor) -> Tensor:
        return linear_map(y, lambda v: self._filtered(v, self.reverse), lambda v: self._filtered(v, self.transfer))

    def normal(self, x: Tensor) -> Tensor:
        return linear_map(x, lambda v: self._filtered(v, self.square), lambda v: self._filtered(v, self.square))

    def _filtered(self, x: Tensor, transfer: Tensor) -> Tensor:
        """Return F^-1 diag(transfer) F x, a few planes at a time."""
        sides = (self.in_shape[-2], self.in_shape[-1])
        return by_planes(x, lambda v: self._back(torch.fft.rfft2(v).mul_(transfer)), sides, sides)

    def svd(self) -> Spectrum:
        """Return s = |H|, V the Hartley basis, U = F^-1 diag(H/|H|) F V."""
        columns = self.in_shape[-1]
        power = self._power()
        magnitude = power.sqrt()
        cut = sum(self.in_shape[-2:]) * torch.finfo(power.dtype).eps * magnitude.max()
        measured = magnitude > cut
        phase = torch.where(measured, self.transfer / magnitude.clamp_min(1e-30), 0.0)
        half = torch.where(measured, magnitude, 0.0)
        # the other half plane holds the mirrored frequencies: -k modulo the sides
        rest = half[:, 1 : columns - half.shape[1] + 1].flip((0, 1)).roll(1, 0)
        return Spectrum(
            torch.cat([half, rest], 1),
            hartley,
            hartley,
            lambda y: hartley(self._back(phase.conj() * torch.fft.rfft2(y))),
            lambda c: self._back(phase * torch.fft.rfft2(hartley(c))),
        )

    def pinv(self, y: Tensor) -> Tensor:
        power = self._power()
        return self._back(self.transfer.conj() * torch.fft.rfft2(y) / (power + PINV_DAMPING * power.max()))

    def prox(self, z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor:
        misfit = torch.fft.rfft2(y) - self.transfer * torch.fft.rfft2(z)
        return z + self._back(self.transfer.conj() * misfit / (self._power() + rho))

    def _power(self) -> Tensor:
        return self.transfer.real**2 + self.transfer.imag**2

    def _back(self, spectrum: Tensor) -> Tensor:
        return torch.fft.irfft2(spectrum, s=self.in_shape[-2:])


@final
class PaddedBlur(LinearOperator):
    """y = C (h * P x): pad by reflection (P; the identity for "valid"), convolve by FFT, crop (C).

    x (B, C, [Z,] Y, X); y has the same shape with "reflect" and sides n - k + 1 with "valid".  kernel: h (k_y, k_x).
    """

    def __init__(self, in_shape: Shape, kernel: Tensor, boundary: str) -> None:
        self.in_shape = in_shape
        self.kernel = kernel
        self.reflect = boundary == "reflect"
        sides, (ky, kx) = in_shape[-2:], kernel.shape
        # pixels added before and after each axis, X first as torch.nn.functional.pad wants them
        self.border = (kx - 1 - kx // 2, kx // 2, ky - 1 - ky // 2, ky // 2) if self.reflect else (0, 0, 0, 0)
        self.out_sides = (sides[0], sides[1]) if self.reflect else (sides[0] - ky + 1, sides[1] - kx + 1)
        self.out_shape = (*in_shape[:-2], *self.out_sides)
        rows, columns = self.out_sides
        self.grid = (int(next_fast_len(rows + ky - 1, real=True)), int(next_fast_len(columns + kx - 1, real=True)))
        self._transform()

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> PaddedBlur:
        moved = super().to(device, dtype)
        assert isinstance(moved, PaddedBlur)
        moved._transform()
        return moved

    def _transform(self) -> None:
        self.transfer = torch.fft.rfft2(self.kernel, s=self.grid)
        self.reverse = self.transfer.conj().resolve_conj()

    def _forward(self, x: Tensor) -> Tensor:
        return linear_map(x, self._blurred, self._transposed)

    def _adjoint(self, y: Tensor) -> Tensor:
        return linear_map(y, self._transposed, self._blurred)

    def normal(self, x: Tensor) -> Tensor:
        """Return A^T A x: what would be cropped and padded again in between is set to zero where it is."""
        return linear_map(x, self._normal, self._normal)

    def _blurred(self, x: Tensor) -> Tensor:
        inside = self._inside
        return by_planes(x, lambda v: self._extended(v)[..., *inside], self.out_sides, self.grid)

    def _transposed(self, y: Tensor) -> Tensor:
        (top, left), (rows, columns) = self._corner, self.out_sides
        border = (left, self.grid[1] - left - columns, top, self.grid[0] - top - rows)
        return by_planes(y, lambda v: self._folded(pad(v, border)), self._in_sides, self.grid)

    def _normal(self, x: Tensor) -> Tensor:
        (top, left), (rows, columns) = self._corner, self.out_sides

        def act(planes: Tensor) -> Tensor:
            full = self._extended(planes)
            full[..., :top, :] = 0
            full[..., top + rows :, :] = 0
            full[..., :left] = 0
            full[..., left + columns :] = 0
            return self._folded(full)

        return by_planes(x, act, self._in_sides, self.grid)

    def _extended(self, planes: Tensor) -> Tensor:
        """Return the convolution of the padded planes on the whole grid, which is right in its inside."""
        if self.reflect:
            planes = pad(planes, self.border, mode="reflect")
        return torch.fft.irfft2(torch.fft.rfft2(planes, s=self.grid).mul_(self.transfer), s=self.grid)

    def _folded(self, full: Tensor) -> Tensor:
        """Return the transpose of `_extended`, of planes on the grid."""
        planes = torch.fft.irfft2(torch.fft.rfft2(full).mul_(self.reverse), s=self.grid)
        (ky, kx), (rows, columns) = self.kernel.shape, self.out_sides
        left, right, top, bottom = self.border
        planes = planes[..., : rows + ky - 1, : columns + kx - 1]
        return fold(fold(planes, -2, top, bottom), -1, left, right)

    @property
    def _corner(self) -> tuple[int, int]:
        return self.kernel.shape[0] - 1, self.kernel.shape[1] - 1

    @property
    def _inside(self) -> tuple[slice, slice]:
        top, left = self._corner
        return slice(top, top + self.out_sides[0]), slice(left, left + self.out_sides[1])

    @property
    def _in_sides(self) -> tuple[int, int]:
        return self.in_shape[-2], self.in_shape[-1]


def fold(padded: Tensor, axis: int, before: int, after: int, wraps: bool = False) -> Tensor:
    """Return the transpose of padding along an axis: borders added, in place, to where they came from.

    Padding is by reflection, or periodic where it wraps.
    """
    n = padded.shape[axis] - before - after
    inside = padded.narrow(axis, before, n)
    if wraps:
        inside.narrow(axis, n - before, before).add_(padded.narrow(axis, 0, before))
        inside.narrow(axis, 0, after).add_(padded.narrow(axis, before + n, after))
        return inside
    if before:
        inside.narrow(axis, 1, before).add_(padded.narrow(axis, 0, before).flip(axis))
    if after:
        inside.narrow(axis, n - 1 - after, after).add_(padded.narrow(axis, before + n, after).flip(axis))
    return inside
