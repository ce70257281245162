"""Blur that varies over the image: kernels at the points of a grid, interpolated between them.

    y = sum_k h_k * (w_k x),     w_k >= 0 bilinear between the points of the grid,  sum_k w_k = 1

Each point of the image is spread by the kernels around it. Borders are mirrored, as of operator 'blur'.
Source: Nagy and O'Leary, SIAM J. Sci. Comput. 19, 1998.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from recon.errors import ConfigError, InputError
from recon.operators.base import LinearOperator, Shape
from recon.operators.blur import gaussian_kernel, trimmed
from recon.operators.checks import image_size, numeric, required
from recon.operators.convolution import PaddedBlur
from recon.operators.direct_blur import DirectBlur
from recon.operators.family import Arrays, Family
from recon.operators.motion import motion_kernel


@final
@dataclass(frozen=True)
class VaryingParams:
    """The kernels of a grid of points, spread evenly from border to border.

    kernel: "gaussian" (sigma at the centre, growing with the distance to sigma_edge in the corners), "motion" (a camera
        path of its own at each point), or "array" (from a file).
    grid: points along (Y, X).  size: side of the kernels in pixels, odd.
    sigma, sigma_edge: of the Gaussian, in pixels.
    intensity: of the motion, in [0, 1].
    by: "fft", or "direct" (summation, for small kernels).
    """

    kernel: Literal["gaussian", "motion", "array"] = "gaussian"
    grid: tuple[int, int] = (3, 3)
    size: int = 31
    sigma: float = 1.0
    sigma_edge: float = 4.0
    intensity: float = 0.5
    by: Literal["fft", "direct"] = "fft"

    def __post_init__(self) -> None:
        if self.size < 1 or self.size % 2 == 0:
            raise ConfigError(f"operator 'blur-varying': size = {self.size}", "give an odd size")
        if min(self.grid) < 1:
            raise ConfigError(f"operator 'blur-varying': grid = {self.grid}", "give at least one point along each axis")
        for name, value in (("sigma", self.sigma), ("sigma_edge", self.sigma_edge)):
            if not 0 < value < math.inf:
                raise ConfigError(f"operator 'blur-varying': {name} = {value}", "give a positive width in pixels")
        if not 0 <= self.intensity <= 1:
            raise ConfigError(f"operator 'blur-varying': intensity = {self.intensity}", "give a number from 0 to 1")


@final
class VaryingBlur(LinearOperator):
    """y = sum_k h_k * (w_k x): (B, C, [Z,] Y, X) -> the same shape.

    blurs: h_k, one operator each.  weights: w_k, (k, Y, X).
    """

    def __init__(self, blurs: tuple[LinearOperator, ...], weights: Tensor) -> None:
        self.blurs, self.weights = blurs, weights
        self.in_shape, self.out_shape = blurs[0].in_shape, blurs[0].out_shape

    def _forward(self, x: Tensor) -> Tensor:
        parts = [blur.forward(w * x) for blur, w in zip(self.blurs, self.weights, strict=True)]
        return torch.stack(parts).sum(0)

    def _adjoint(self, y: Tensor) -> Tensor:
        parts = [w * blur.adjoint(y) for blur, w in zip(self.blurs, self.weights, strict=True)]
        return torch.stack(parts).sum(0)


def interpolation_weights(grid: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Return w (points of the grid, Y, X), float64, bilinear between points spread from border to border."""
    axes = []
    for points, side in zip(grid, size, strict=True):
        place = np.linspace(0, points - 1, side) if side > 1 else np.full(1, (points - 1) / 2)
        axes.append(np.maximum(1 - np.abs(place - np.arange(points)[:, None]), 0))
    return np.einsum("iy,jx->ijyx", *axes).reshape(-1, *size)


def draw(params: VaryingParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    """Return {"kernels": (grid_y, grid_x, k_y, k_x)}, float64, each of sum 1 unless given."""
    size = image_size("blur-varying", in_shape)
    if "kernels" in given:
        return {"kernels": _checked_kernels(given["kernels"], size)}
    if params.kernel == "array":
        raise ConfigError(
            "operator 'blur-varying' with kernel = 'array' came without the array 'kernels'",
            "name it in an operator file (--operator FILE), or choose 'gaussian' or 'motion'",
        )
    places = [np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in params.grid]
    distance = np.hypot(*np.meshgrid(*places, indexing="ij")) / math.sqrt(2)
    widths = params.sigma + (params.sigma_edge - params.sigma) * distance
    kernels = [
        motion_kernel(params.size, params.intensity, rng)
        if params.kernel == "motion"
        else gaussian_kernel(params.size, float(width))
        for width in widths.ravel()
    ]
    return {"kernels": _checked_kernels(np.stack(kernels).reshape(*params.grid, params.size, params.size), size)}


def build(params: VaryingParams, in_shape: Shape, arrays: Arrays) -> VaryingBlur:
    """Return the operator of the array "kernels"."""
    size = image_size("blur-varying", in_shape)
    kernels = _checked_kernels(required("blur-varying", "kernels", arrays), size)
    weights = interpolation_weights((kernels.shape[0], kernels.shape[1]), size).astype(np.float32)
    one = DirectBlur if params.by == "direct" else PaddedBlur
    blurs = tuple(
        one(in_shape, torch.from_numpy(trimmed(kernel).astype(np.float32)), "reflect")
        for kernel in kernels.reshape(-1, *kernels.shape[2:])
    )
    return VaryingBlur(blurs, torch.from_numpy(weights))


def reads_shape(params: VaryingParams, arrays: Arrays, y_shape: Shape) -> Shape:
    """Return the image's shape, which is the measurement's."""
    return y_shape


def never_invented(params: VaryingParams) -> frozenset[str]:
    """Return the kernels' name unless the parameters determine them."""
    return frozenset() if params.kernel == "gaussian" else frozenset({"kernels"})


def _checked_kernels(kernels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    kernels = numeric("kernels", kernels).astype(np.float64)
    if kernels.ndim != 4 or not kernels.any(axis=(2, 3)).all():
        raise InputError(
            f"blur kernels of shape {kernels.shape} are not (grid_y, grid_x, k_y, k_x), each with a weight",
            "give one kernel for each point of the grid",
        )
    if kernels.shape[2] > size[0] or kernels.shape[3] > size[1]:
        raise ConfigError(
            f"blur kernels of {kernels.shape[2:]} pixels are larger than the image of {size}",
            "lower operator.size, or crop the kernels",
        )
    return kernels


FAMILY = Family(
    "blur-varying",
    VaryingParams,
    draw,
    build,
    {"kernels": "(grid_y, grid_x, k_y, k_x), true convolution kernels with centre k // 2, from border to border"},
    reads_shape,
    never_invented,
)
