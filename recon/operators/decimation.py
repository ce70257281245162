"""Blur and decimation: a periodic image is convolved with a kernel, and every f-th pixel is kept from the first on.

    y = S (h * x),   (h * x)[i] = sum_j h[j] x[i + c - j],   c = k // 2

A A^T is a circular convolution on the coarse grid, with the mean over aliases of |H|^2 as its transfer function, so
that the proximal map and the pseudo-inverse are exact.
Source: Zhao, Wei, Basarab, Dobigeon, Kouame, Tourneret, IEEE Trans. Image Process. 25, 2016, eq. 17.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from recon.operators.base import LinearOperator, Shape
from recon.operators.convolution import PINV_DAMPING, CircularBlur


@final
class Decimated(LinearOperator):
    """y = (h * x)[::f, ::f]: (B, C, [Z,] Y, X) -> (B, C, [Z,] Y/f, X/f).

    kernel: h (k_y, k_x).  With G = A A^T:
        prox(z, rho, y) = z + A^T (G + rho)^-1 (y - A z),   pinv(y) = A^T (G + d max G)^-1 y,  d = 0.01
    """

    def __init__(self, in_shape: Shape, kernel: Tensor, factor: int) -> None:
        self.in_shape, self.factor = in_shape, factor
        self.out_shape = (*in_shape[:-2], in_shape[-2] // factor, in_shape[-1] // factor)
        self.blur = CircularBlur(in_shape, kernel)
        self._transform()

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Decimated:
        moved = super().to(device, dtype)
        assert isinstance(moved, Decimated)
        moved._transform()
        return moved

    def _transform(self) -> None:
        """Set the transfer function of A A^T, on the coarse grid."""
        point = torch.zeros(1, *self.in_shape, dtype=self.in_dtype, device=self.blur.kernel.device)
        point[..., 0, 0] = 1
        seen = self.blur.normal(point)[(0,) * (point.ndim - 2)]
        self.gram = torch.fft.rfft2(seen[:: self.factor, :: self.factor]).real.clamp_min(0)

    def _forward(self, x: Tensor) -> Tensor:
        return self.blur.forward(x)[..., :: self.factor, :: self.factor].contiguous()

    def _adjoint(self, y: Tensor) -> Tensor:
        spread = y.new_zeros(y.shape[0], *self.in_shape)
        spread[..., :: self.factor, :: self.factor] = y
        return self.blur.adjoint(spread)

    def pinv(self, y: Tensor) -> Tensor:
        return self._adjoint(self._divided(y, PINV_DAMPING * self.gram.max()))

    def prox(self, z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor:
        return z + self._adjoint(self._divided(y - self._forward(z), rho))

    def _divided(self, y: Tensor, shift: float | Tensor) -> Tensor:
        """Return (A A^T + shift)^-1 y."""
        return torch.fft.irfft2(torch.fft.rfft2(y) / (self.gram + shift), s=self.out_shape[-2:])
