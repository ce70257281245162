"""Denoising: the image itself is measured, with noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from recon.operators.base import LinearOperator, Shape
from recon.operators.checks import image_size
from recon.operators.family import Arrays, Family
from recon.operators.spectral import Spectrum


@final
@dataclass(frozen=True)
class DenoiseParams:
    """The identity has no parameters."""


@final
class Identity(LinearOperator):
    """y = x, for x (B, C, [Z,] Y, X).

    prox(z, rho, y) = (y + rho z) / (1 + rho); pinv(y) = y; all singular values are 1.
    """

    def __init__(self, in_shape: Shape) -> None:
        self.in_shape = self.out_shape = in_shape
        self.values = torch.ones(())  # the singular values, on the operator's device

    def _forward(self, x: Tensor) -> Tensor:
        return x.clone()

    def _adjoint(self, y: Tensor) -> Tensor:
        return y.clone()

    def svd(self) -> Spectrum:
        return Spectrum(self.values, _same, _same, _same, _same)

    def pinv(self, y: Tensor) -> Tensor:
        return y.clone()

    def prox(self, z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor:
        return (y + rho * z) / (1 + rho)


def _same(x: Tensor) -> Tensor:
    return x


def draw(params: DenoiseParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    """Return no arrays: nothing is random."""
    image_size("denoise", in_shape)
    return {}


def build(params: DenoiseParams, in_shape: Shape, arrays: Arrays) -> Identity:
    """Return the identity on `in_shape`."""
    image_size("denoise", in_shape)
    return Identity(in_shape)


def reads_shape(params: DenoiseParams, arrays: Arrays, y_shape: Shape) -> Shape:
    """Return the image's shape, which is the measurement's."""
    return y_shape


FAMILY = Family("denoise", DenoiseParams, draw, build, {}, reads_shape)
