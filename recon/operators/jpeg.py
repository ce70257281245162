"""JPEG's loss: blocks of 8 x 8 pixels whose cosine coefficients are rounded to multiples of a table.

    y = clip(D^T q round(D v / q) D),     v = 255 (x - low)/(high - low) - 128,  D: orthonormal DCT-II of each block

Colour images are coded in YCbCr without subsampling (4:4:4); sides that 8 does not divide are continued by their edge.
Files also round the decoded pixels to whole numbers, which is left out. Rounding has no slope: "straight-through" lets
gradients pass as if it were the identity, "none" makes the operator a black box, which EnKG and others can do with.
Source: ITU-T T.81, Annex K (tables) and JFIF 1.02 (colours); scaling of the tables by quality as in libjpeg.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import scipy.fft
import torch
from torch import Tensor
from torch.nn.functional import pad

from recon.errors import ConfigError
from recon.operators.base import Operator, Shape
from recon.operators.checks import black_and_white, image_size
from recon.operators.family import Arrays, Family

BLOCK = 8
LUMINANCE = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
CHROMINANCE = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""
# rows Y, Cb, Cr
COLOURS = [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]]


@final
@dataclass(frozen=True)
class JPEGParams:
    """quality: 1 to 100, as of libjpeg.  gradient: "straight-through", or "none" for a black box.

    low, high: image values of black and white; simulations and pictures bring their own.
    """

    quality: int = 10
    gradient: Literal["straight-through", "none"] = "straight-through"
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"operator 'jpeg': quality = {self.quality}", "give a whole number from 1 to 100")
        black_and_white("jpeg", self.low, self.high)


@final
class JPEG(Operator):
    """y: x (B, C, [Z,] Y, X) after coding and decoding; three channels are colours, others are coded as they are."""

    def __init__(self, in_shape: Shape, quality: int, value_range: tuple[float, float], through: bool = True) -> None:
        self.in_shape = self.out_shape = in_shape
        self.value_range, self.differentiable = value_range, through
        self.low, self.width = value_range[0], value_range[1] - value_range[0]
        self.cosines = torch.from_numpy(scipy.fft.dct(np.eye(BLOCK), axis=0, norm="ortho")).float()
        tables = [LUMINANCE, CHROMINANCE, CHROMINANCE] if in_shape[0] == 3 else [LUMINANCE] * in_shape[0]
        self.steps = torch.stack([quantisation(table, quality) for table in tables])
        self.colours = torch.tensor(COLOURS, dtype=torch.float64) if in_shape[0] == 3 else None
        self.back = None if self.colours is None else torch.linalg.inv(self.colours).float()
        self.colours = None if self.colours is None else self.colours.float()

    def _forward(self, x: Tensor) -> Tensor:
        if not self.differentiable:
            x = x.detach()
        v = 255 / self.width * (x - self.low)
        if self.colours is not None:
            v = torch.einsum("oc,bc...->bo...", self.colours, v)
            v = v - v.new_tensor([128.0, 0.0, 0.0]).reshape(3, *(1 for _ in x.shape[2:]))
        else:
            v = v - 128
        v = self._coded(v)
        if self.back is not None:
            v = v + v.new_tensor([128.0, 0.0, 0.0]).reshape(3, *(1 for _ in x.shape[2:]))
            v = torch.einsum("oc,bc...->bo...", self.back, v)
        else:
            v = v + 128
        return self.low + self.width / 255 * v.clamp(0, 255)

    def _coded(self, v: Tensor) -> Tensor:
        """Return (B, C, [Z,] Y, X) with the coefficients of its blocks rounded."""
        rows, columns = v.shape[-2:]
        planes = pad(v.flatten(0, -3)[None], (0, -columns % BLOCK, 0, -rows % BLOCK), mode="replicate")[0]
        blocks = planes.unflatten(-1, (-1, BLOCK)).unflatten(-3, (-1, BLOCK)).transpose(-3, -2)
        scaled = self.cosines @ blocks @ self.cosines.T
        steps = self.steps.reshape(1, -1, *(1 for _ in v.shape[2:-2]), 1, 1, BLOCK, BLOCK)
        steps = steps.expand(*v.shape[:-2], 1, 1, BLOCK, BLOCK).flatten(0, -5)
        rounded = scaled + ((scaled / steps).round() * steps - scaled).detach()
        blocks = self.cosines.T @ rounded @ self.cosines
        planes = blocks.transpose(-3, -2).flatten(-2).flatten(-3, -2)
        return planes[..., :rows, :columns].reshape(v.shape)


def quantisation(table: str, quality: int) -> Tensor:
    """Return the steps (8, 8) of a table of Annex K at a quality, float32."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    base = np.array([int(n) for n in table.split()]).reshape(BLOCK, BLOCK)
    return torch.from_numpy(np.clip((base * percent + 50) // 100, 1, 255)).float()


def draw(params: JPEGParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    """Return no arrays: nothing is random."""
    image_size("jpeg", in_shape)
    return {}


def build(params: JPEGParams, in_shape: Shape, arrays: Arrays) -> JPEG:
    """Return the operator on `in_shape`."""
    image_size("jpeg", in_shape)
    return JPEG(in_shape, params.quality, (params.low, params.high), params.gradient == "straight-through")


def reads_shape(params: JPEGParams, arrays: Arrays, y_shape: Shape) -> Shape:
    """Return the image's shape, which is the measurement's."""
    return y_shape


FAMILY = Family("jpeg", JPEGParams, draw, build, {}, reads_shape)
