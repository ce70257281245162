"""F^H D F of a Fourier transform off the grid as a circular convolution on twice the grid.

    (F^H D F x)_n = sum_m p_(n - m) x_m,     p_l = sum_j d_j exp(2 pi i k_j l),  |l| < N

so that it is crop ifft(q fft(pad x)) with q = fft(p) on 2 N points, real because p_(-l) = conj p_l. Exact up to the
accuracy of q, which one transform of the weights d gives; no interpolation is left in the loop.
Source: Fessler, Lee, Olafsson, Shi, Noll, IEEE Trans. Signal Process. 53, 2005.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from recon.operators.nufft import Gridding

# of the transform that gives q: its error is far below that of the operator's own
OVERSAMPLING, WIDTH = 1.5, 8


def toeplitz_symbol(path: np.ndarray, shape: tuple[int, ...], weights: np.ndarray | None = None) -> Tensor:
    """Return q / prod(2 N), real, (*2 shape), float64, zero frequency first.

    path: frequencies (M, d), cycles per pixel.  weights: d >= 0 (M,), or None for ones.
    """
    double = tuple(2 * n for n in shape)
    whole = Gridding(path, double, OVERSAMPLING, WIDTH, dtype=torch.float64)
    samples = torch.ones(1, len(path), dtype=torch.complex128)
    if weights is not None:
        samples = samples * torch.from_numpy(weights)
    kernel = whole.adjoint(samples)[0] * whole.weights
    # the entry at -N, which no crop sees, may be anything that keeps the symmetry
    return torch.fft.fftn(torch.fft.ifftshift(kernel)).real / math.prod(double)


def convolved(images: Tensor, symbol: Tensor) -> Tensor:
    """Return crop(ifft(q fft(pad x))) of images (B, *shape), complex; symbol: q / prod(2 N).

    One axis after another, so that rows of zeros are neither transformed nor, where they are cut off, transformed back.
    """
    shape = images.shape[1:]
    k = images
    for axis in range(len(shape), 0, -1):
        k = torch.fft.fft(k, n=symbol.shape[axis - 1], dim=axis)
    k = k * symbol
    for axis, n in enumerate(shape, start=1):
        k = torch.fft.ifft(k, dim=axis, norm="forward").narrow(axis, 0, n)
    return k
