"""Demosaicing: one colour at every pixel, as a sensor under a Bayer filter sees it.

    y[p] = sum_c m_c[p] x_c[p],     sum_c m_c = 1,  m_c in {0, 1}

The pattern is that of the 2 x 2 pixels at the top left; A A^T = I.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.operators.base import LinearOperator, Shape
from recon.operators.checks import image_size
from recon.operators.family import Arrays, Family
from recon.operators.spectral import Spectrum


@final
@dataclass(frozen=True)
class DemosaicParams:
    """The colours of the filter: top left, top right, bottom left, bottom right."""

    pattern: Literal["rggb", "bggr", "grbg", "gbrg"] = "rggb"


@final
class Demosaic(LinearOperator):
    """y = sum_c m_c x_c: (B, 3, [Z,] Y, X) -> (B, 1, [Z,] Y, X).

    pinv(y) = A^T y;  prox(z, rho, y) = z + A^T (y - A z)/(1 + rho).
    """

    def __init__(self, in_shape: Shape, pattern: str) -> None:
        self.in_shape, self.out_shape = in_shape, (1, *in_shape[1:])
        colours = torch.tensor(["rgb".index(colour) for colour in pattern]).reshape(2, 2)
        rows, columns = in_shape[-2:]
        whole = colours.repeat((rows + 1) // 2, (columns + 1) // 2)[:rows, :columns]
        masks = torch.stack([whole == colour for colour in range(3)]).float()
        self.masks = masks.reshape(3, *(1 for _ in in_shape[1:-2]), rows, columns)

    def _forward(self, x: Tensor) -> Tensor:
        return (self.masks * x).sum(1, keepdim=True)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.masks * y

    def normal(self, x: Tensor) -> Tensor:
        return self.masks * x

    def svd(self) -> Spectrum:
        """Return the pixels of the colours as the basis, with the masks as singular values."""
        return Spectrum(self.masks, lambda x: x, lambda c: c, lambda y: self.masks * y, self._forward)

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y)

    def prox(self, z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor:
        return z + self.adjoint((y - self.forward(z)) / (1 + rho))


def draw(params: DemosaicParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    """Return no arrays: nothing is random."""
    _check(in_shape)
    return {}


def build(params: DemosaicParams, in_shape: Shape, arrays: Arrays) -> Demosaic:
    """Return the operator on `in_shape`, (3, [Z,] Y, X)."""
    _check(in_shape)
    return Demosaic(in_shape, params.pattern)


def reads_shape(params: DemosaicParams, arrays: Arrays, y_shape: Shape) -> Shape | None:
    """Return the image's shape: three colours of the measurement's one."""
    return (3, *y_shape[1:]) if y_shape[0] == 1 else None


def _check(in_shape: Shape) -> None:
    image_size("demosaic", in_shape)
    if in_shape[0] != 3:
        raise ConfigError(f"operator 'demosaic' needs 3 channels, the image has {in_shape[0]}", "give a colour image")


FAMILY = Family("demosaic", DemosaicParams, draw, build, {}, reads_shape)
