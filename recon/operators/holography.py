"""Off-axis holography: the interference of an object's light with a tilted plane wave.

    y = w |T o(x)/w + r exp(2 pi i (k_y n_y + k_x n_x))|^2,     w = high - low

T propagates the light by Fresnel's transfer function exp(-i pi d (f_y^2 + f_x^2)), f in cycles per pixel, periodic at
the borders; d = wavelength distance/pixel^2, 0 in focus. y is in the image's units.
Source: Leith and Upatnieks, J. Opt. Soc. Am. 52, 1962; Goodman, Introduction to Fourier Optics, chapters 4 and 11.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.operators.base import Operator, Shape
from recon.operators.checks import black_and_white, image_size
from recon.operators.family import Arrays, Family
from recon.operators.object_field import Kind, ObjectField, check_depth


@final
@dataclass(frozen=True)
class HolographyParams:
    """The reference wave, the distance, and what the image is.

    carrier: frequency of the fringes along (Y, X), in cycles per pixel, within [-1/2, 1/2].
    reference: amplitude of the plane wave, that of white being 1.  distance: d above.
    object: "symmetric" (mid-grey is dark), "unit" (black is dark) or "phase".  depth: radians from black to white.
    low, high: image values of black and white; simulations and pictures bring their own.
    """

    carrier: tuple[float, float] = (0.25, 0.25)
    reference: float = 1.0
    distance: float = 0.0
    object: Kind = "phase"
    depth: float = math.pi
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if max(abs(k) for k in self.carrier) > 0.5:
            raise ConfigError(
                f"operator 'holography': carrier = {self.carrier} lies outside [-1/2, 1/2] cycles per pixel",
                "the sensor cannot see such fringes; divide radians by 2 pi",
            )
        if not 0 < self.reference < math.inf or not math.isfinite(self.distance):
            raise ConfigError(
                f"operator 'holography': reference = {self.reference}, distance = {self.distance}",
                "give a positive amplitude and a finite distance",
            )
        check_depth("holography", self.depth)
        black_and_white("holography", self.low, self.high)


@final
class Holography(Operator):
    """y = w |T o(x)/w + r|^2 for real x (B, C, [Z,] Y, X); y real, of the same shape."""

    def __init__(
        self, in_shape: Shape, field: ObjectField, carrier: tuple[float, float], reference: float, distance: float
    ) -> None:
        self.in_shape = self.out_shape = in_shape
        self.field, self.value_range = field, (field.low, field.high)
        self.width = field.high - field.low
        fringes, squares = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for n, k in zip(in_shape[-2:], carrier, strict=True):
            fringes = fringes[..., None] + k * torch.arange(n, dtype=torch.float64)
            squares = squares[..., None] + torch.fft.fftfreq(n, dtype=torch.float64) ** 2
        self.wave = torch.polar(torch.full_like(fringes, reference), 2 * math.pi * fringes)
        self.transfer = torch.polar(torch.ones_like(squares), -math.pi * distance * squares)
        self.wave, self.transfer = self.wave.to(torch.complex64), self.transfer.to(torch.complex64)
        self.propagates = distance != 0

    def _forward(self, x: Tensor) -> Tensor:
        light = self.field(x) / self.width
        if self.propagates:
            light = torch.fft.ifft2(torch.fft.fft2(light) * self.transfer)
        seen = light + self.wave
        return self.width * (seen.real**2 + seen.imag**2)


def draw(params: HolographyParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    """Return no arrays: nothing is random."""
    image_size("holography", in_shape)
    return {}


def build(params: HolographyParams, in_shape: Shape, arrays: Arrays) -> Holography:
    """Return the operator on `in_shape`."""
    image_size("holography", in_shape)
    field = ObjectField(params.object, params.low, params.high, params.depth)
    return Holography(in_shape, field, params.carrier, params.reference, params.distance)


def reads_shape(params: HolographyParams, arrays: Arrays, y_shape: Shape) -> Shape:
    """Return the image's shape, which is the measurement's."""
    return y_shape


FAMILY = Family("holography", HolographyParams, draw, build, {}, reads_shape)
