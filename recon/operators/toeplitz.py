"""F^H D F of a Fourier transform off the grid as a circular convolution on twice the grid.

    (F^H D F x)_n = sum_m p_(n - m) x_m,     p_l = sum_j d_j exp(2 pi i k_j l),  |l| < N

so that it is crop ifft(q fft(pad x)) with q = fft(p) on 2 N points, real because p_(-l) = conj p_l. Exact up to the
accuracy of q, which one transform of the weights d gives; no interpolation is left in the loop.
Source: Fessler, Lee, Olafsson, Shi, Noll, IEEE Trans. Signal Process. 53, 2005.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from recon.kernels import fused
from recon.kernels.sense import CompiledGram, fits
from recon.operators.groups import add_combined, coil_groups
from recon.operators.nufft import Gridding

# of the transform that gives q: its error is far below that of the operator's own
OVERSAMPLING, WIDTH = 1.5, 8


@final
@dataclass(frozen=True)
class Toeplitz:
    """F^H D F on images of `shape`.

    The circular convolution on 2 N points is done in its even and odd frequencies along each axis: 2^d transforms of N
    points of the image times exp(-i pi n/N) or 1: no zeros are transformed or cut off, and images stay in the cache.

    symbols: q / (2 N)^d (2^d, *shape); real, and stored as complex, which multiplies faster.
    turns: the factors (2^d, *shape), complex.
    """

    symbols: Tensor
    turns: Tensor

    def sandwiched(self, x: Tensor, maps: Tensor, maps_conj: Tensor) -> Tensor:
        """Return sum_c conj(S_c) F^H D F S_c x for x (B, 1, *shape) and maps (coils or 1, *shape): complex, as x."""
        total = torch.zeros_like(x, dtype=maps.dtype)
        axes = tuple(range(2, x.ndim))
        for symbol, turn in zip(self.symbols, self.turns, strict=True):
            turned, part = x * turn, torch.zeros_like(total)
            for first, last in coil_groups(maps.shape[0], turned):
                k = torch.fft.fftn(turned * maps[first:last], dim=axes).mul_(symbol)
                add_combined(part, torch.fft.ifftn(k, dim=axes, norm="forward"), maps_conj[first:last])
            total += part.mul_(turn.conj())
        return total

    def compiled(self, maps: Tensor, complex_image: bool) -> CompiledGram | None:
        """Return the compiled kernel of sum_c conj(S_c) F^H D F S_c / N, or None where it does not serve."""
        shape, real = tuple(self.symbols.shape[1:]), self.symbols.dtype.to_real()
        if len(shape) != 2 or fused.backend(maps.device) != "compiled" or not fits(maps.shape[0], shape, real):
            return None
        # even and odd frequencies along x, and within them along y: a row is transformed once for both of the latter
        symbols = self.symbols.real.unflatten(0, (2, 2)).transpose(0, 1) / math.prod(shape)
        return CompiledGram(maps, self.turns[:2], self.turns[2, :, 0].contiguous(), symbols, complex_image)

    def to(self, like: Tensor) -> Toeplitz:
        """Return it on the device and in the real type of a tensor."""
        kind = like.dtype.to_complex()
        return Toeplitz(self.symbols.to(like.device, kind), self.turns.to(like.device, kind))


def toeplitz(path: np.ndarray, shape: tuple[int, ...], weights: np.ndarray | None = None) -> Toeplitz:
    """Return F^H D F, in float64.

    path: frequencies (M, d), cycles per pixel.  weights: D >= 0 (M,), or None for ones.
    """
    double = tuple(2 * n for n in shape)
    whole = Gridding(path, double, OVERSAMPLING, WIDTH, dtype=torch.float64)
    samples = torch.ones(1, len(path), dtype=torch.complex128)
    if weights is not None:
        samples = samples * torch.from_numpy(weights)
    kernel = whole.adjoint(samples)[0] * whole.weights
    # the entry at -N, which no image sees, may be anything that keeps the symmetry
    whole_symbol = torch.fft.fftn(torch.fft.ifftshift(kernel)).real / math.prod(double)
    odd = list(itertools.product((0, 1), repeat=len(shape)))
    symbols = [whole_symbol[tuple(slice(o, None, 2) for o in odds)] for odds in odd]
    return Toeplitz(torch.stack(symbols).to(torch.complex128), torch.stack([_turn(odds, shape) for odds in odd]))


def _turn(odds: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Return exp(-i pi n/N) along the axes that are odd."""
    turn = torch.ones((), dtype=torch.complex128)
    for odd, n in zip(odds, shape, strict=True):
        angles = -math.pi * odd / n * torch.arange(n, dtype=torch.float64)
        turn = turn[..., None] * torch.polar(torch.ones_like(angles), angles)
    return turn
