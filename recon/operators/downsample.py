"""Downsampling: the low-resolution image of super-resolution, by antialiased bicubic reduction, box averages, or a
kernel of its own before every f-th pixel is kept.

Published settings:
    DPS, DAPS       filter="bicubic", factor=4
    InverseBench    filter="bicubic", factor=2, border="cut"
    DPIR, DiffPIR   filter="array", the array `kernel` from the authors' file
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.operators.base import LinearOperator, Shape
from recon.operators.blur import checked_kernel, gaussian_kernel
from recon.operators.checks import image_size, required
from recon.operators.decimation import Decimated
from recon.operators.family import Arrays, Family
from recon.operators.separable import Separable, cubic, reduction_matrix
from recon.operators.spectral import Spectrum


@final
@dataclass(frozen=True)
class DownsampleParams:
    """factor: integer reduction of both sides (DPS: 4, InverseBench: 2).

    filter: "bicubic" (a = -1/2, stretched by the factor; sides become ceil(n / factor)), "box" (mean of factor x factor
        pixels), or a kernel's circular convolution of which every factor-th pixel is kept, from the first on:
        "gaussian" or "array" (from a file). The factor must divide the sides unless the filter is bicubic.
    border: of "bicubic", "mirror" (as DPS) or "cut" (weights beyond it are left out, as torchvision and Pillow do).
    size: side of the Gaussian in pixels, odd.  sigma: its width in pixels.
    """

    factor: int = 4
    filter: Literal["bicubic", "box", "gaussian", "array"] = "bicubic"
    border: Literal["mirror", "cut"] = "mirror"
    size: int = 7
    sigma: float = 1.6

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ConfigError(f"operator 'downsample': factor = {self.factor}", "give an integer of at least 1")
        if self.size < 1 or self.size % 2 == 0:
            raise ConfigError(f"operator 'downsample': size = {self.size}", "give an odd size")
        if not 0 < self.sigma < float("inf"):
            raise ConfigError(f"operator 'downsample': sigma = {self.sigma}", "give a positive width in pixels")


@final
class BoxAverage(LinearOperator):
    """y = mean over factor x factor pixels: (B, C, [Z,] Y, X) -> (B, C, [Z,] Y/f, X/f).

    As A A^T = I / f^2:  pinv(y) repeats each pixel;  prox(z, rho, y) = z + A^T (y - A z) / (1/f^2 + rho).
    Singular values: 1/f for one coefficient of each block, its sum over f; 0 for the f^2 - 1 others.
    """

    def __init__(self, in_shape: Shape, factor: int) -> None:
        self.in_shape = in_shape
        self.out_shape = (*in_shape[:-2], in_shape[-2] // factor, in_shape[-1] // factor)
        self.factor = factor
        self.corner = torch.zeros(factor, factor)  # a block's first pixel
        self.corner[0, 0] = 1

    def _forward(self, x: Tensor) -> Tensor:
        f = self.factor
        return x.unflatten(-1, (-1, f)).unflatten(-3, (-1, f)).mean((-3, -1))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.pinv(y) / self.factor**2

    def svd(self) -> Spectrum:
        """Return the reflection of each block that swaps its first pixel's axis with the constant 1/f."""
        f = self.factor
        normal = self.corner - 1 / f
        normal = normal / normal.norm().clamp_min(1e-30)
        mirror, values = normal.repeat(*self.out_shape[-2:]), self.corner.repeat(*self.out_shape[-2:]) / f

        def reflect(x: Tensor) -> Tensor:
            return x - 2 * f**2 * mirror * self.pinv(self._forward(mirror * x))

        def to_u(y: Tensor) -> Tensor:
            c = y.new_zeros(*y.shape[:-2], *self.in_shape[-2:])
            c[..., ::f, ::f] = y
            return c

        return Spectrum(values, reflect, reflect, to_u, lambda c: c[..., ::f, ::f].clone())

    def pinv(self, y: Tensor) -> Tensor:
        f = self.factor
        spread = y[..., :, None, :, None].expand(*y.shape[:-1], f, y.shape[-1], f)
        return spread.reshape(*y.shape[:-2], *self.in_shape[-2:]).clone()

    def prox(self, z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor:
        return z + self.adjoint((y - self.forward(z)) / (1 / self.factor**2 + rho))


def draw(params: DownsampleParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    """Return {"kernel": (k_y, k_x)} for the filters that have one, else no arrays: nothing is random.

    Raises ConfigError where the factor or the kernel does not fit the image, InputError where a given one is no kernel.
    """
    size = _check_size(params, in_shape)
    if params.filter in ("bicubic", "box"):
        if "kernel" in given:
            raise ConfigError(
                f"operator 'downsample' with filter = '{params.filter}' takes no array 'kernel'", "set filter = 'array'"
            )
        return {}
    if "kernel" not in given and params.filter == "gaussian":
        return {"kernel": checked_kernel("downsample", gaussian_kernel(params.size, params.sigma), size)}
    if "kernel" not in given:
        raise ConfigError(
            "operator 'downsample' with filter = 'array' came without the array 'kernel'",
            "name it in an operator file (--operator FILE), or choose another filter",
        )
    return {"kernel": checked_kernel("downsample", given["kernel"], size)}


def build(params: DownsampleParams, in_shape: Shape, arrays: Arrays) -> LinearOperator:
    """Return the reduction; for "bicubic" as one matrix per axis.

    Source: the `Resizer` of the DPS code (Chung et al., ICLR 2023), of which this keeps kernel, geometry and border.
    """
    size = _check_size(params, in_shape)
    if params.filter == "box":
        return BoxAverage(in_shape, params.factor)
    if params.filter != "bicubic":
        kernel = checked_kernel("downsample", required("downsample", "kernel", arrays), size)
        return Decimated(in_shape, torch.from_numpy(kernel.astype(np.float32)), params.factor)
    mirrored = params.border == "mirror"
    rows, columns = (reduction_matrix(n, params.factor, cubic, 2, mirrored).astype(np.float32) for n in size)
    return Separable(in_shape, torch.from_numpy(rows), torch.from_numpy(columns))


def reads_shape(params: DownsampleParams, arrays: Arrays, y_shape: Shape) -> Shape:
    """Return the image's shape, taken as a multiple of the factor (a bicubic measurement could also come from less)."""
    return (*y_shape[:-2], y_shape[-2] * params.factor, y_shape[-1] * params.factor)


def _check_size(params: DownsampleParams, in_shape: Shape) -> tuple[int, int]:
    size = image_size("downsample", in_shape)
    f = params.factor
    if f > min(size):
        raise ConfigError(f"downsampling by {f} leaves nothing of an image of {size[0]} x {size[1]}", "lower factor")
    if params.filter != "bicubic" and (size[0] % f or size[1] % f):
        raise ConfigError(
            f"filter '{params.filter}' by {f} needs sides that {f} divides, the image has {size[0]} x {size[1]}",
            f"crop to {size[0] // f * f} x {size[1] // f * f}, choose another factor, or set filter = 'bicubic'",
        )
    return size


def never_invented(params: DownsampleParams) -> frozenset[str]:
    """Return the kernel's name where the parameters do not determine it."""
    return frozenset({"kernel"}) if params.filter == "array" else frozenset()


FAMILY = Family(
    "downsample",
    DownsampleParams,
    draw,
    build,
    {"kernel": "(k_y, k_x), true convolution kernel, centre at k // 2, of the filters that have one"},
    reads_shape,
    never_invented,
)
