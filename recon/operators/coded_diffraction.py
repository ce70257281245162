"""Coded diffraction: amplitudes of the Fourier transform behind several random masks.

    y_l = |F (d_l o(x))|,     F centred and orthonormal over (Y, X),  |d_l| = 1 for drawn masks

The masks take away the ambiguities of plain phase retrieval but the global phase.
Source: Candes, Li, Soltanolkotabi, IEEE Trans. Inf. Theory 61, 2015 (their masks, of phases 1, i, -1, -i, without the
random magnitudes that they multiply them by).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from recon.errors import ConfigError, InputError
from recon.operators.base import Operator, Shape
from recon.operators.checks import black_and_white, image_size, numeric, required
from recon.operators.family import Arrays, Family
from recon.operators.object_field import Kind, ObjectField, check_depth


@final
@dataclass(frozen=True)
class CodedParams:
    """The masks, and what the image is.

    masks: their number.  phases: "quarter" (1, i, -1, -i) or "uniform" on the circle.
    object: "symmetric" (mid-grey is dark), "unit" (black is dark) or "phase".  depth: radians from black to white.
    low, high: image values of black and white; simulations and pictures bring their own.
    """

    masks: int = 4
    phases: Literal["quarter", "uniform"] = "quarter"
    object: Kind = "unit"
    depth: float = math.pi
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.masks < 1:
            raise ConfigError(f"operator 'coded-diffraction': masks = {self.masks}", "give at least 1, such as 4")
        check_depth("coded-diffraction", self.depth)
        black_and_white("coded-diffraction", self.low, self.high)


@final
class CodedDiffraction(Operator):
    """y_l = |F (d_l o(x))| for real x (B, C, [Z,] Y, X); y real, (B, C, L, [Z,] Y, X).

    masks: d (L, Y, X), complex.  The slope where an amplitude is 0 counts as 0.
    """

    def __init__(self, in_shape: Shape, masks: Tensor, field: ObjectField) -> None:
        self.in_shape, self.field, self.value_range = in_shape, field, (field.low, field.high)
        self.out_shape = (in_shape[0], masks.shape[0], *in_shape[1:])
        self.masks = masks.reshape(masks.shape[0], *(1 for _ in in_shape[1:-2]), *masks.shape[1:])

    def _forward(self, x: Tensor) -> Tensor:
        # where the image lies changes the phase alone
        spectrum = torch.fft.fft2(self.field(x).unsqueeze(2) * self.masks, norm="ortho")
        return torch.fft.fftshift(spectrum.abs(), dim=(-2, -1))


def draw(params: CodedParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    """Return {"masks": (L, Y, X)}, complex64."""
    size = image_size("coded-diffraction", in_shape)
    if "masks" in given:
        return {"masks": _checked_masks(given["masks"], size)}
    shape = (params.masks, *size)
    turns = rng.integers(0, 4, shape) / 4 if params.phases == "quarter" else rng.random(shape)
    return {"masks": np.exp(2j * np.pi * turns).astype(np.complex64)}


def build(params: CodedParams, in_shape: Shape, arrays: Arrays) -> CodedDiffraction:
    """Return the operator of the array "masks"."""
    size = image_size("coded-diffraction", in_shape)
    masks = _checked_masks(required("coded-diffraction", "masks", arrays), size)
    field = ObjectField(params.object, params.low, params.high, params.depth)
    return CodedDiffraction(in_shape, torch.from_numpy(masks), field)


def reads_shape(params: CodedParams, arrays: Arrays, y_shape: Shape) -> Shape | None:
    """Return the image's shape: the measurement's without the axis of the masks."""
    return (y_shape[0], *y_shape[2:]) if len(y_shape) >= 4 else None


def _checked_masks(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    masks = numeric("masks", masks, real=False)
    if masks.ndim != 3 or masks.shape[1:] != size:
        raise InputError(f"masks have shape {masks.shape}, expected (masks, {size[0]}, {size[1]})")
    return masks.astype(np.complex64)


FAMILY = Family(
    "coded-diffraction",
    CodedParams,
    draw,
    build,
    {"masks": "(masks, Y, X), complex, what the light is multiplied by before it is diffracted"},
    reads_shape,
    lambda params: frozenset({"masks"}),
)
