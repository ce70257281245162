"""Phase retrieval: the amplitude of the oversampled Fourier transform of every channel.

    y = |F P (x - zero)|,     P: zeros around the image,  F: centred orthonormal Fourier transform over (Y, X)

Each side n is padded by floor(oversample n/8) zeros at both ends, so that oversample = 2 takes 256 to 384. The centre
of y is the frequency 0. With zero = the mid-grey of the image ("symmetric") this is the operator of DPS and
InverseBench, whose images are in [-1, 1]; with zero = black ("unit") that of DAPS, whose operator maps to [0, 1] first.
y is in the image's units: a tenth of the data range is the same in both. Shifts and point reflections of the image
within the frame, and its sign for "symmetric", leave y as it is.

Sources: Chung et al. 2023 (DPS), Zheng et al. 2025 (InverseBench), Zhang et al. 2025 (DAPS), the authors' code.
Departure: their padding is that of 256 pixels whatever the side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.operators.base import Operator, Shape
from recon.operators.checks import black_and_white, image_size
from recon.operators.family import Arrays, Family


@final
@dataclass(frozen=True)
class PhaseParams:
    """How the image is padded, and which of its values is zero.

    oversample: >= 0, in eighths of a side at each end; 8 pads by a whole side.
    input: "symmetric" (mid-grey is zero, as in DPS) or "unit" (black is zero, as in DAPS).
    low, high: image values of black and white; simulations take them from the image where they are not given.
    """

    oversample: float = 2.0
    input: Literal["symmetric", "unit"] = "symmetric"
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.oversample < math.inf:
            raise ConfigError(
                f"operator 'phase-retrieval': oversample = {self.oversample}", "give a number >= 0, such as 2"
            )
        black_and_white("phase-retrieval", self.low, self.high)


@final
class PhaseRetrieval(Operator):
    """y = |F P (x - zero)| for real x (B, C, [Z,] Y, X); y real, (B, C, [Z,] Y + 2 p_y, X + 2 p_x).

    padding: (p_y, p_x).  zero: the image value of amplitude 0.  value_range: of the images.
    The slope where the amplitude is 0 counts as 0.
    """

    def __init__(
        self, in_shape: Shape, padding: tuple[int, int], zero: float, value_range: tuple[float, float]
    ) -> None:
        self.in_shape, self.zero, self.value_range = in_shape, zero, value_range
        self.frame = (in_shape[-2] + 2 * padding[0], in_shape[-1] + 2 * padding[1])
        self.out_shape = (*in_shape[:-2], *self.frame)

    def _forward(self, x: Tensor) -> Tensor:
        # where the image lies in the frame changes the phase alone, so that it may lie in a corner
        spectrum = torch.fft.fft2(x - self.zero, s=self.frame, norm="ortho")
        return torch.fft.fftshift(spectrum.abs(), dim=(-2, -1))


def padding(oversample: float, side: int) -> int:
    """Return the zeros at each end of a side."""
    return int(oversample / 8 * side)


def draw(params: PhaseParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    """Return no arrays: nothing is random."""
    image_size("phase-retrieval", in_shape)
    return {}


def build(params: PhaseParams, in_shape: Shape, arrays: Arrays) -> PhaseRetrieval:
    """Return the operator on `in_shape`."""
    rows, columns = image_size("phase-retrieval", in_shape)
    around = (padding(params.oversample, rows), padding(params.oversample, columns))
    zero = (params.low + params.high) / 2 if params.input == "symmetric" else params.low
    return PhaseRetrieval(in_shape, around, zero, (params.low, params.high))


def reads_shape(params: PhaseParams, arrays: Arrays, y_shape: Shape) -> Shape | None:
    """Return the image's shape, or None where no image has a measurement of that shape."""
    sides = [_side(params.oversample, n) for n in y_shape[-2:]]
    return None if None in sides else (*y_shape[:-2], *(n for n in sides if n is not None))


def _side(oversample: float, padded: int) -> int | None:
    """Return the side that is padded to `padded`; there is at most one, for longer sides are padded to more."""
    return next((n for n in range(1, padded + 1) if n + 2 * padding(oversample, n) == padded), None)


FAMILY = Family("phase-retrieval", PhaseParams, draw, build, {}, reads_shape)
