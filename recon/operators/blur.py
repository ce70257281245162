"""Blur: convolution of every channel with one kernel.

    y = h * x,   y[i] = sum_j h[j] x[i + c - j],   c = k // 2

True convolution: the image of a point is the kernel itself. DPS and DAPS compute the correlation, which mirrors it:
correlation = true.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch

from recon.errors import ConfigError, InputError
from recon.operators.base import LinearOperator, Shape
from recon.operators.checks import image_size, numeric, required
from recon.operators.convolution import PINV_DAMPING, CircularBlur, PaddedBlur
from recon.operators.direct_blur import DirectBlur
from recon.operators.family import Arrays, Family
from recon.operators.motion import motion_kernel
from recon.operators.separable import Separable, convolution_matrix

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
    correlation: mirror the kernel, as libraries of networks do.
    by: "fft", "direct" (summation, for small kernels), or "auto": one matrix per axis for a kernel of rank one, such as
        a Gaussian, on an image of up to 1024 x 1024 that is not circular, and FFT otherwise.
    The defaults are those of DPS on 256 x 256 images.
    """

    kernel: Literal["gaussian", "motion", "array"] = "gaussian"
    size: int = 61
    sigma: float = 3.0
    intensity: float = 0.5
    boundary: Literal["reflect", "circular", "valid"] = "reflect"
    normalise: bool = False
    correlation: bool = False
    by: Literal["auto", "fft", "direct"] = "auto"

    def __post_init__(self) -> None:
        if self.size < 1 or self.size % 2 == 0:
            raise ConfigError(f"operator 'blur': size = {self.size}", "give an odd size, so that the kernel is centred")
        if not 0 < self.sigma < float("inf"):
            raise ConfigError(f"operator 'blur': sigma = {self.sigma}", "give a positive width in pixels")
        if not 0 <= self.intensity <= 1:
            raise ConfigError(f"operator 'blur': intensity = {self.intensity}", "give a number from 0 to 1")


def draw(params: BlurParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    """Return {"kernel": (k, k)}, float64.

    Raises ConfigError where the kernel is larger than the image, InputError where a given one is no kernel.
    """
    size = image_size("blur", in_shape)
    if "kernel" in given:
        kernel = checked_kernel("blur", given["kernel"], size)
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
    """Return the convolution with the array "kernel"."""
    size = image_size("blur", in_shape)
    kernel = checked_kernel("blur", required("blur", "kernel", arrays), size)
    if params.correlation:
        kernel = kernel[::-1, ::-1].copy()
    if params.by == "direct":
        return DirectBlur(in_shape, torch.from_numpy(kernel.astype(np.float32)), params.boundary)
    if params.boundary == "circular":
        return CircularBlur(in_shape, torch.from_numpy(kernel.astype(np.float32)))
    factors = _factors(kernel) if params.by == "auto" and max(size) <= SEPARABLE_SIDE else None
    if factors is None:
        kernel = trimmed(kernel) if params.boundary == "reflect" else kernel
        return PaddedBlur(in_shape, torch.from_numpy(kernel.astype(np.float32)), params.boundary)
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


def checked_kernel(kind: str, kernel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a kernel (k_y, k_x) that fits an image of `size`, in float64.

    Raises InputError where it is none, ConfigError where it is larger than the image.
    """
    kernel = numeric("kernel", kernel)
    if kernel.ndim != 2 or not kernel.any():
        raise InputError(
            f"{kind} kernel of shape {kernel.shape} is no (k, k) array of weights that are not all zero",
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


def trimmed(kernel: np.ndarray) -> np.ndarray:
    """Return the kernel without borders of zeros, as far as its centre stays k // 2: the same blur by less work."""
    for axis in (0, 1):
        side = kernel.shape[axis]
        held = np.flatnonzero(kernel.any(axis=1 - axis))
        half = int(np.abs(held - side // 2).max())
        if 2 * half + 1 < side:
            kernel = kernel.take(np.arange(side // 2 - half, side // 2 + half + 1), axis=axis)
    return kernel


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
