"""Non-linear blur: light is blurred, and the camera's response makes values of it.

    y = low + (high - low) g(min(exposure (h * g^-1(w)), 1)),     w = (x - low)/(high - low)

    g(l) = 12.92 l for l <= 0.0031308, else 1.055 l^(1/2.4) - 0.055       (sRGB, IEC 61966-2-1)

Bright points spread further than a blur of the values would have them, and an exposure above 1 saturates them. g is
continued below black by its straight piece and above white by its power, so that every real image has a value and a
slope. A fixed, analytic model, not the learned blur that DPS and DAPS use under this name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.operators import blur
from recon.operators.base import LinearOperator, Operator, Shape
from recon.operators.checks import black_and_white
from recon.operators.family import Arrays, Family

KNEE = 0.0031308  # of the straight piece, in light


@final
@dataclass(frozen=True)
class ResponseBlurParams:
    """The kernel, as of operator 'blur', and the exposure.

    kernel: "gaussian", "motion" (a random camera path) or "array" (from a file).
    size: side of the kernel in pixels, odd.  sigma: of the Gaussian, in pixels.  intensity: of the motion, in [0, 1].
    boundary: "reflect" (mirrored without repeating the edge) or "circular".  by: as of operator 'blur'.
    exposure: > 0, the light of white after the blur; above 1 highlights saturate.
    low, high: image values of black and white; simulations and pictures bring their own.
    """

    kernel: Literal["gaussian", "motion", "array"] = "motion"
    size: int = 61
    sigma: float = 3.0
    intensity: float = 0.5
    boundary: Literal["reflect", "circular"] = "reflect"
    exposure: float = 1.0
    low: float = 0.0
    high: float = 1.0
    by: Literal["auto", "fft", "direct"] = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.exposure < math.inf:
            raise ConfigError(f"operator 'nonlinear-blur': exposure = {self.exposure}", "give a number above 0")
        black_and_white("nonlinear-blur", self.low, self.high)
        _linear(self)


@final
class ResponseBlur(Operator):
    """The blur of light, for x (B, C, [Z,] Y, X); y of the same shape.

    base: the linear blur h.  exposure, value_range: as above.
    """

    def __init__(self, base: LinearOperator, exposure: float, value_range: tuple[float, float]) -> None:
        self.in_shape, self.out_shape = base.in_shape, base.out_shape
        self.base, self.exposure, self.value_range = base, exposure, value_range
        self.low, self.width = value_range[0], value_range[1] - value_range[0]

    def _forward(self, x: Tensor) -> Tensor:
        light = self.base.forward(light_of((x - self.low) / self.width))
        return self.low + self.width * response((self.exposure * light).clamp_max(1))


def response(light: Tensor) -> Tensor:
    """Return g, the value that a camera gives to light."""
    # the power is kept from where its slope is infinite
    curve = 1.055 * light.clamp_min(KNEE) ** (1 / 2.4) - 0.055
    return torch.where(light > KNEE, curve, 12.92 * light)


def light_of(value: Tensor) -> Tensor:
    """Return g^-1, the light that a value stands for."""
    knee = 12.92 * KNEE
    curve = ((value.clamp_min(knee) + 0.055) / 1.055) ** 2.4
    return torch.where(value > knee, curve, value / 12.92)


def draw(params: ResponseBlurParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    """Return {"kernel": (k_y, k_x)}, drawn or checked as operator 'blur' does."""
    return blur.draw(_linear(params), in_shape, rng, given)


def build(params: ResponseBlurParams, in_shape: Shape, arrays: Arrays) -> ResponseBlur:
    """Return the operator of the array "kernel"."""
    return ResponseBlur(blur.build(_linear(params), in_shape, arrays), params.exposure, (params.low, params.high))


def reads_shape(params: ResponseBlurParams, arrays: Arrays, y_shape: Shape) -> Shape:
    """Return the image's shape, which is the measurement's."""
    return y_shape


def _linear(params: ResponseBlurParams) -> blur.BlurParams:
    return blur.BlurParams(params.kernel, params.size, params.sigma, params.intensity, params.boundary, by=params.by)


def never_invented(params: ResponseBlurParams) -> frozenset[str]:
    """Return the kernel's name unless the parameters determine it."""
    return blur.never_invented(_linear(params))


FAMILY = Family(
    "nonlinear-blur", ResponseBlurParams, draw, build, dict(blur.FAMILY.arrays), reads_shape, never_invented
)
