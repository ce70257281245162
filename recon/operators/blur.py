"""Blur: convolution of every channel with one kernel.

    y = h * x,   y[i] = sum_j h[j] x[i + c - j],   c = k // 2

True convolution: the image of a point is the kernel itself (DPS computes the correlation, which mirrors h).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn.functional import pad

from recon.errors import ConfigError, InputError
from recon.operators.base import LinearOperator, Shape
from recon.operators.checks import image_size, numeric, required
from recon.operators.family import Arrays, Family
from recon.operators.motion import motion_kernel
from recon.operators.separable import Separable, convolution_matrix
from recon.operators.spectral import Spectrum, hartley

PINV_DAMPING = 1e-2  # of the pseudo-inverse, relative to ||A||^2: blurs are ill-conditioned
RANK_ONE = 1e-6  # second singular value of a separable kernel, relative to the first: rounding of float32
SEPARABLE_SIDE = 1024  # beyond, factors take seconds to build and the FFT is several times faster


@final
@dataclass(frozen=True)
class BlurParams:
    """The kernel and what lies beyond the image; an array "kernel" from a file overrides the kernel.

    kernel: "gaussian", "motion" (a random camera path) or "array" (from a file).
    size: side of the kernel in pixels, odd.  sigma: of the Gaussian, in pixels.  intensity: of the motion, in [0, 1].
    boundary: "reflect" (mirrored without repeating the edge), "circular", or "valid" (only where the kernel lies
        inside; the measurement is smaller by size - 1).
    normalise: scale a given kernel to sum 1; the others have sum 1 always.
    The defaults are those of DPS on 256 x 256 images.
    """

    kernel: Literal["gaussian", "motion", "array"] = "gaussian"
    size: int = 61
    sigma: float = 3.0
    intensity: float = 0.5
    boundary: Literal["reflect", "circular", "valid"] = "reflect"
    normalise: bool = False

    def __post_init__(self) -> None:
        if self.size < 1 or self.size % 2 == 0:
            raise ConfigError(f"operator 'blur': size = {self.size}", "give an odd size, so that the kernel is centred")
        if not 0 < self.sigma < float("inf"):
            raise ConfigError(f"operator 'blur': sigma = {self.sigma}", "give a positive width in pixels")
        if not 0 <= self.intensity <= 1:
            raise ConfigError(f"operator 'blur': intensity = {self.intensity}", "give a number from 0 to 1")


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

    def _forward(self, x: Tensor) -> Tensor:
        return self._back(self.transfer * torch.fft.rfft2(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._back(self.transfer.conj() * torch.fft.rfft2(y))

    def normal(self, x: Tensor) -> Tensor:
        return self._back(self._power() * torch.fft.rfft2(x))

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
        self.out_sides = sides if self.reflect else (sides[0] - ky + 1, sides[1] - kx + 1)
        self.out_shape = (*in_shape[:-2], *self.out_sides)
        self.grid = tuple(
            int(next_fast_len(n + k - 1, real=True)) for n, k in zip(self.out_sides, (ky, kx), strict=True)
        )
        self._transform()

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> PaddedBlur:
        moved = super().to(device, dtype)
        assert isinstance(moved, PaddedBlur)
        moved._transform()
        return moved

    def _transform(self) -> None:
        self.transfer = torch.fft.rfft2(self.kernel, s=self.grid)

    def _forward(self, x: Tensor) -> Tensor:
        planes = x.flatten(0, -3)
        if self.reflect:
            planes = pad(planes, self.border, mode="reflect")
        full = torch.fft.irfft2(self.transfer * torch.fft.rfft2(planes, s=self.grid), s=self.grid)
        (ky, kx), (rows, columns) = self.kernel.shape, self.out_sides
        inside = full[..., ky - 1 : ky - 1 + rows, kx - 1 : kx - 1 + columns]
        return inside.reshape(x.shape[0], *self.out_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        (ky, kx), (rows, columns) = self.kernel.shape, self.out_sides
        placed = pad(y.flatten(0, -3), (kx - 1, self.grid[1] - kx + 1 - columns, ky - 1, self.grid[0] - ky + 1 - rows))
        full = torch.fft.irfft2(self.transfer.conj() * torch.fft.rfft2(placed), s=self.grid)
        planes = full[..., : rows + ky - 1, : columns + kx - 1]
        left, right, top, bottom = self.border
        planes = _fold(_fold(planes, -1, left, right), -2, top, bottom)
        return planes.reshape(y.shape[0], *self.in_shape)


def draw(params: BlurParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    """Return {"kernel": (k, k)}, float64.

    Raises ConfigError where the kernel is larger than the image, InputError where a given one is no kernel.
    """
    size = image_size("blur", in_shape)
    if "kernel" in given:
        kernel = _checked_kernel(given["kernel"], size)
        return {"kernel": _normalised(kernel) if params.normalise else kernel}
    if params.kernel == "array":
        raise ConfigError(
            "operator 'blur' with kernel = 'array' came without the array 'kernel'",
            "name it in an operator file (--operator FILE), or choose kernel = 'gaussian' or 'motion'",
        )
    _check_fits((params.size, params.size), size)
    if params.kernel == "motion":
        return {"kernel": motion_kernel(params.size, params.intensity, rng)}
    return {"kernel": gaussian_kernel(params.size, params.sigma)}


def build(params: BlurParams, in_shape: Shape, arrays: Arrays) -> LinearOperator:
    """Return the convolution with the array "kernel".

    A kernel of rank one (a Gaussian) on an image of up to 1024 x 1024 becomes one matrix per axis, unless circular.
    """
    size = image_size("blur", in_shape)
    kernel = _checked_kernel(required("blur", "kernel", arrays), size)
    tensor = torch.from_numpy(kernel.astype(np.float32))
    if params.boundary == "circular":
        return CircularBlur(in_shape, tensor)
    factors = _factors(kernel) if max(size) <= SEPARABLE_SIDE else None
    if factors is None:
        return PaddedBlur(in_shape, tensor, params.boundary)
    matrices = [convolution_matrix(n, h, params.boundary) for n, h in zip(size, factors, strict=True)]
    rows, columns = (torch.from_numpy(m.astype(np.float32)) for m in matrices)
    return Separable(in_shape, rows, columns, damping=PINV_DAMPING)


def reads_shape(params: BlurParams, arrays: Arrays, y_shape: Shape) -> Shape | None:
    """Return the image's shape: the measurement's, larger by the kernel with the boundary "valid"."""
    if params.boundary != "valid":
        return y_shape
    kernel = np.shape(arrays["kernel"]) if "kernel" in arrays else (params.size, params.size)
    return (*y_shape[:-2], y_shape[-2] + kernel[0] - 1, y_shape[-1] + kernel[1] - 1) if len(kernel) == 2 else None


def gaussian_kernel(size: int, sigma: float) -> np.ndarray:
    """Return the Gaussian exp(-|t|^2 / (2 sigma^2)) on (size, size), zero beyond 4 sigma along an axis, with sum 1.

    Source: DPS blurs a unit impulse with scipy's `gaussian_filter`, which cuts at 4 sigma; where the size cuts more,
    scipy folds the tails back and this drops them.
    """
    t = np.arange(size) - size // 2
    profile = np.exp(-0.5 * (t / sigma) ** 2) * (np.abs(t) <= int(4 * sigma + 0.5))
    profile /= profile.sum()
    return np.outer(profile, profile)


def _checked_kernel(kernel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    kernel = numeric("kernel", kernel)
    if kernel.ndim != 2 or not kernel.any():
        raise InputError(
            f"blur kernel of shape {kernel.shape} is no (k, k) array of weights that are not all zero",
            "give one kernel for all channels",
        )
    _check_fits(kernel.shape, size)
    return kernel.astype(np.float64)


def _check_fits(kernel: Shape, size: tuple[int, int]) -> None:
    if kernel[0] > size[0] or kernel[1] > size[1]:
        raise ConfigError(
            f"a blur kernel of {kernel[0]} x {kernel[1]} is larger than the image of {size[0]} x {size[1]}",
            f"lower operator.size to at most {min(size) - 1 + min(size) % 2}, or crop the kernel",
        )


def _factors(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return (a, b) with kernel = outer(a, b), or None where it is not of rank one."""
    left, values, right = np.linalg.svd(kernel, full_matrices=False)
    if len(values) > 1 and values[1] > RANK_ONE * values[0]:
        return None
    return left[:, 0] * np.sqrt(values[0]), right[0] * np.sqrt(values[0])


def _normalised(kernel: np.ndarray) -> np.ndarray:
    total = kernel.sum()
    if total <= 0:
        raise InputError("blur kernel has a sum that is not positive", "set normalise = false for such a kernel")
    return np.asarray(kernel / total)


def _fold(padded: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Return the transpose of reflection padding along an axis: the borders added back to where they came from."""
    n = padded.shape[axis] - before - after
    inside = padded.narrow(axis, before, n).clone()
    if before:
        inside.narrow(axis, 1, before).add_(padded.narrow(axis, 0, before).flip(axis))
    if after:
        inside.narrow(axis, n - 1 - after, after).add_(padded.narrow(axis, before + n, after).flip(axis))
    return inside


def never_invented(params: BlurParams) -> frozenset[str]:
    """Return the kernel's name unless the parameters determine it."""
    return frozenset() if params.kernel == "gaussian" else frozenset({"kernel"})


FAMILY = Family(
    "blur",
    BlurParams,
    draw,
    build,
    {"kernel": "(k, k), true convolution kernel, centre at k // 2"},
    reads_shape,
    never_invented,
)
