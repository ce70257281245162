"""Convolution of every plane of an image with one kernel by summation, without transforms: for small kernels.

y = h * x,   y[i] = sum_j h[j] x[i + c - j],   c = k // 2
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d, pad

from recon.operators.base import LinearOperator, Shape
from recon.operators.convolution import fold


@final
class DirectBlur(LinearOperator):
    """y = h * P x: extend by reflection or periodically (P; the identity for "valid"), and sum.

    x (B, C, [Z,] Y, X); y has the same shape, with "valid" sides n - k + 1.  kernel: h (k_y, k_x).
    """

    def __init__(self, in_shape: Shape, kernel: Tensor, boundary: str) -> None:
        self.in_shape, self.kernel, self.boundary = in_shape, kernel, boundary
        sides, (ky, kx) = in_shape[-2:], kernel.shape
        # pixels added before and after each axis, X first as torch.nn.functional.pad wants them
        self.border = (0, 0, 0, 0) if boundary == "valid" else (kx - 1 - kx // 2, kx // 2, ky - 1 - ky // 2, ky // 2)
        out = (sides[0] - ky + 1, sides[1] - kx + 1) if boundary == "valid" else sides
        self.out_shape = (*in_shape[:-2], *out)

    def _forward(self, x: Tensor) -> Tensor:
        planes = x.reshape(-1, 1, *self.in_shape[-2:])
        if any(self.border):
            planes = pad(planes, self.border, mode="circular" if self.boundary == "circular" else "reflect")
        return conv2d(planes, self._mirrored).reshape(-1, *self.out_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        planes = conv_transpose2d(y.reshape(-1, 1, *self.out_shape[-2:]), self._mirrored)
        left, right, top, bottom = self.border
        wraps = self.boundary == "circular"
        planes = fold(fold(planes, -2, top, bottom, wraps), -1, left, right, wraps)
        return planes.reshape(-1, *self.in_shape)

    @property
    def _mirrored(self) -> Tensor:
        """The kernel as torch wants it, which correlates: (1, 1, k_y, k_x)."""
        return torch.flip(self.kernel, (0, 1))[None, None]
