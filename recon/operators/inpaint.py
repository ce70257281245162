"""Inpainting: some pixels are measured, the others are missing.

Published settings, on 256 x 256 images:
    DPS box        mask="box", size=128, margin=16 (DAPS: 32)      DPS random    mask="random", missing=(0.3, 0.7)
    InverseBench   mask="box", size=105, size_max=179, margin=32
Lengths are pixels where they are integers (size = 128) and fractions of the side where not (size = 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from recon.errors import ConfigError, InputError
from recon.operators.base import LinearOperator, Shape
from recon.operators.checks import image_size, numeric, required
from recon.operators.family import Arrays, Family
from recon.operators.spectral import Spectrum

Length = int | float
Lengths = Length | tuple[Length, Length]
Range = float | tuple[float, float]


@final
@dataclass(frozen=True)
class InpaintParams:
    """Which pixels are missing; an array "mask" from a file overrides all of this.

    mask: "box" (one missing rectangle), "random" (missing pixels, shared by the channels) or "array" (from a file).
    size, size_max: sides (height, width) of the box, or one number for both: integers in pixels, fractions (0, 1) of
        the side of the image. With `size_max` each side is drawn uniformly from size..size_max.
    margin: least distance (vertical, horizontal) of the box from the border, in the same units; 0 for none.
    position: "random" (uniform) or "centre".
    missing, kept: fraction of the pixels, or a range (low, high) to draw it from; one of the two, and
        missing = (0.3, 0.7) if neither is given. The count is rounded down.
    """

    mask: Literal["box", "random", "array"] = "box"
    size: Lengths = 0.5
    size_max: Lengths | None = None
    margin: Lengths = 0.0625
    position: Literal["random", "centre"] = "random"
    missing: Range | None = None
    kept: Range | None = None

    def __post_init__(self) -> None:
        for name, value in (("size", self.size), ("size_max", self.size_max), ("margin", self.margin)):
            for length in _pair(value) if value is not None else ():
                _check_length(name, length)
        if self.missing is not None and self.kept is not None:
            raise ConfigError("operator 'inpaint' takes 'missing' or 'kept', not both", "kept = 1 - missing")
        for name, fraction in (("missing", self.missing), ("kept", self.kept)):
            low, high = _range(fraction) if fraction is not None else (0.0, 1.0)
            if not 0 <= low <= high <= 1:
                raise ConfigError(
                    f"operator 'inpaint': {name} = {fraction} is no fraction", "give a number or (low, high) in 0..1"
                )


@final
class Inpaint(LinearOperator):
    """y = m x with a mask m of zeros and ones; y has the shape of x (B, C, [Z,] Y, X) and is 0 where m is.

    mask: broadcastable to in_shape; it is also the `support`.
    prox(z, rho, y) = (m y + rho z) / (m + rho), rho > 0; pinv(y) = m y.
    """

    def __init__(self, in_shape: Shape, mask: Tensor) -> None:
        self.in_shape = self.out_shape = in_shape
        self.support = self.mask = mask

    def _forward(self, x: Tensor) -> Tensor:
        return self.mask * x

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.mask * y

    def normal(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def svd(self) -> Spectrum:
        """Return the pixels themselves as the basis, with the mask as singular values."""
        return Spectrum(self.mask, lambda x: x, lambda c: c, self._adjoint, self._forward)

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y)

    def prox(self, z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor:
        return (self.mask * y + rho * z) / (self.mask + rho)


def draw(params: InpaintParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    """Return {"mask": (Y, X) or as given, uint8, 1 where measured}.

    Raises ConfigError where the box does not fit or no pixel is left, InputError where the given mask does not fit.
    """
    size = image_size("inpaint", in_shape)
    if "mask" in given:
        return {"mask": _checked_mask(given["mask"], in_shape)}
    if params.mask == "array":
        raise ConfigError(
            "operator 'inpaint' with mask = 'array' came without the array 'mask'",
            "name it in an operator file (--operator FILE), or choose mask = 'box' or 'random'",
        )
    mask = _box_mask(params, size, rng) if params.mask == "box" else _random_mask(params, size, rng)
    if not mask.any():
        raise ConfigError(f"the inpainting mask leaves no pixel of {size[0]} x {size[1]}", "lower size or missing")
    return {"mask": mask}


def build(params: InpaintParams, in_shape: Shape, arrays: Arrays) -> Inpaint:
    """Return the masking operator of the array "mask"."""
    image_size("inpaint", in_shape)
    mask = _checked_mask(required("inpaint", "mask", arrays), in_shape)
    leading = mask.reshape(*mask.shape[:-2], *(1 for _ in range(len(in_shape) - mask.ndim)), *mask.shape[-2:])
    return Inpaint(in_shape, torch.from_numpy(leading.astype(np.float32)))


def reads_shape(params: InpaintParams, arrays: Arrays, y_shape: Shape) -> Shape:
    """Return the image's shape, which is the measurement's."""
    return y_shape


def never_invented(params: InpaintParams) -> frozenset[str]:
    """Return the mask's name unless the parameters determine it."""
    fixed = params.mask == "box" and params.position == "centre" and params.size_max is None
    return frozenset() if fixed else frozenset({"mask"})


def _checked_mask(mask: np.ndarray, in_shape: Shape) -> np.ndarray:
    """Return a user's mask, (Y, X), (1, Y, X) or (C, Y, X) with the values 0 and one other, as uint8 0 and 1."""
    mask = numeric("mask", mask)
    size, channels = in_shape[-2:], in_shape[0]
    if mask.shape not in (size, (1, *size), (channels, *size)):
        raise InputError(
            f"mask has shape {mask.shape}, expected {size} or {(channels, *size)}", "crop or resample the mask"
        )
    values = np.unique(mask)
    if len(values) > 2 or values[0] < 0 or (len(values) == 2 and values[0] != 0):
        raise InputError(
            f"mask has {len(values)} different values, expected 0 (missing) and 1 (measured)", "threshold the mask"
        )
    if values[-1] == 0:
        raise InputError("mask has no measured pixel", "the mask is 1 where a pixel is measured; invert it?")
    return (mask != 0).astype(np.uint8)


def _box_mask(params: InpaintParams, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    mask = np.ones(size, np.uint8)
    box = []
    for side, low, high, margin in zip(
        size,
        _pair(params.size),
        _pair(params.size if params.size_max is None else params.size_max),
        _pair(params.margin),
        strict=True,
    ):
        least, most, gap = max(1, _pixels(low, side)), max(1, _pixels(high, side)), _pixels(margin, side)
        if most < least or most + 2 * gap > side:
            raise ConfigError(
                f"a box side of {least}..{most} pixels with margin {gap} does not fit a side of {side} pixels",
                "lower operator.size or operator.margin, or give fractions of the side such as size = 0.5",
            )
        length = int(rng.integers(least, most, endpoint=True))
        free = side - length - 2 * gap
        offset = free // 2 if params.position == "centre" else int(rng.integers(0, free, endpoint=True))
        box.append(slice(gap + offset, gap + offset + length))
    mask[box[0], box[1]] = 0
    return mask


def _random_mask(params: InpaintParams, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    total = size[0] * size[1]
    chosen = params.kept if params.kept is not None else params.missing
    low, high = _range(chosen if chosen is not None else (0.3, 0.7))
    fraction = low if low == high else rng.uniform(low, high)
    count = int(total * fraction + 1e-9)  # 0.29 * 100 is just below 29 in floating point
    picked = np.zeros(total, np.uint8)
    picked[rng.choice(total, count, replace=False)] = 1
    return (picked if params.kept is not None else 1 - picked).reshape(size)


def _pixels(length: Length, side: int) -> int:
    return length if isinstance(length, int) else round(length * side)


def _pair(value: Lengths) -> tuple[Length, Length]:
    return value if isinstance(value, tuple) else (value, value)


def _range(value: Range) -> tuple[float, float]:
    return value if isinstance(value, tuple) else (value, value)


def _check_length(name: str, length: Length) -> None:
    least = 0 if name == "margin" else 1
    if isinstance(length, int) and length >= least:
        return
    if isinstance(length, float) and (0 < length < 1 or length == least == 0):
        return
    raise ConfigError(
        f"operator 'inpaint': {name} = {length} is no length", "give pixels as an integer, or a fraction in (0, 1)"
    )


FAMILY = Family(
    "inpaint",
    InpaintParams,
    draw,
    build,
    {"mask": "(Y, X) or (C, Y, X), 1 where a pixel is measured and 0 where it is missing"},
    reads_shape,
    never_invented,
)
