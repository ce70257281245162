"""Parallel-beam projection by rotation: the image is turned, view by view, and its columns are summed.

    y[a, j] = pixel_size sum_i (P x)(u_j cos(theta_a) + v_i sin(theta_a), v_i cos(theta_a) - u_j sin(theta_a))

P puts the n x n image into a frame of side m = ceil(sqrt(2) n), its pixel n // 2 on the frame's pixel m // 2; u and v
count from the frame's centre, and values between pixels are interpolated bilinearly. This is the projector of
DiffusionMBIR and DDS; their adjoint has other weights, here it is the transpose. Where one of m and n is even, as for
n = 256, the axis of rotation is half a pixel beside the image's centre along both axes.
Source: Chung et al., CVPR 2023 and ICLR 2024, the authors' code.
"""

from __future__ import annotations

import math
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from recon.kernels.fbp import filtered_backprojection
from recon.kernels.parallel import ParallelGeometry, directions
from recon.operators.base import LinearOperator
from recon.operators.linear_map import linear_map


@final
class RotatedSums(LinearOperator):
    """y of x: (B, 1, [Z,] n, n) -> (B, 1, [Z,] views, frame).  angles: theta in degrees, (views,)."""

    def __init__(self, in_shape: tuple[int, ...], angles: np.ndarray, pixel_size: float) -> None:
        self.in_shape, self.angles, self.pixel_size = in_shape, angles, pixel_size
        n = in_shape[-1]
        self.frame = frame_side(n)
        self.before = self.frame // 2 - n // 2
        self.out_shape = (*in_shape[:-2], len(angles), self.frame)
        self.turns = _turns(angles).float()

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> RotatedSums:
        """Return a copy on another device and/or in float32 or float64, its angles exact to that precision."""
        moved = super().to(device, dtype)
        assert isinstance(moved, RotatedSums)
        moved.turns = _turns(self.angles).to(moved.turns)
        return moved

    def _forward(self, x: Tensor) -> Tensor:
        return linear_map(x, self._sums, self._spread)

    def _adjoint(self, y: Tensor) -> Tensor:
        return linear_map(y, self._spread, self._sums)

    def pinv(self, y: Tensor) -> Tensor:
        """Return the filtered backprojection: an image, not the exact pseudo-inverse."""
        geometry = ParallelGeometry((self.frame, self.frame), self.angles, self.frame, pixel_size=self.pixel_size)
        framed = filtered_backprojection(y.reshape(-1, *self.out_shape[-2:]), geometry)
        return self._cropped(framed).reshape(-1, *self.in_shape).contiguous()

    def _sums(self, x: Tensor) -> Tensor:
        if x.is_complex():
            return torch.complex(self._sums(x.real), self._sums(x.imag))
        after = self.frame - self.in_shape[-1] - self.before
        planes = pad(x.reshape(-1, 1, *self.in_shape[-2:]), (self.before, after, self.before, after))
        views = [self._seen(planes, turn) for turn in self.turns]
        return self.pixel_size * torch.cat(views, 1).reshape(-1, *self.out_shape)

    def _spread(self, y: Tensor) -> Tensor:
        if y.is_complex():
            return torch.complex(self._spread(y.real), self._spread(y.imag))
        views = y.reshape(-1, *self.out_shape[-2:])
        total = y.new_zeros(len(views), 1, self.frame, self.frame)
        for turn, view in zip(self.turns, views.unbind(1), strict=True):
            with torch.enable_grad():
                planes = torch.zeros_like(total, requires_grad=True)
                (part,) = torch.autograd.grad(self._seen(planes, turn), planes, view[:, None])
            total += part
        return self.pixel_size * self._cropped(total).reshape(-1, *self.in_shape)

    def _seen(self, planes: Tensor, turn: Tensor) -> Tensor:
        """Return one view (P, 1, frame) of framed planes (P, 1, frame, frame)."""
        grid = affine_grid(turn[None], [1, 1, self.frame, self.frame], align_corners=True)
        return grid_sample(planes, grid.expand(len(planes), -1, -1, -1), align_corners=True).sum(2)

    def _cropped(self, framed: Tensor) -> Tensor:
        inside = slice(self.before, self.before + self.in_shape[-1])
        return framed[..., inside, inside]


def frame_side(n: int) -> int:
    """Return the side of the frame, which is the number of detectors."""
    return n + math.ceil(math.sqrt(2) * n - n)


def _turns(angles: np.ndarray) -> Tensor:
    """Return [[cos, sin, 0], [-sin, cos, 0]] of each angle, where a turned pixel comes from: (views, 2, 3), float64."""
    cos, sin = directions(angles)
    zero = np.zeros_like(cos)
    return torch.from_numpy(np.stack([np.stack([cos, sin, zero], -1), np.stack([-sin, cos, zero], -1)], 1))
