"""A prior of images for volumes: it sees the slices of a volume, a few at a time.

    D(x)_k = D_2(x_k) for the slices x_k across one axis of x (B, C, Z, Y, X)

The slices go through the network `chunk` at a time, so that memory does not grow with their number. An image
(B, C, Y, X) passes as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from recon.priors.base import Denoiser, Prediction
from recon.priors.wrapper import Wrapper

Z_AXIS = 2
AXES = {"z": 2, "y": 3, "x": 4}


@final
class Slices(Wrapper):
    """A denoiser of the slices of volumes.

    inner: of images.  chunk: slices that are evaluated together.  axis: of x (B, C, Z, Y, X), the one that is cut
    across.  auxiliary: another denoiser, for slices across another axis; None for the same.
    """

    def __init__(self, inner: Denoiser, chunk: int = 1, axis: int = Z_AXIS, auxiliary: Denoiser | None = None) -> None:
        self.inner, self.chunk, self.axis, self.auxiliary = inner, chunk, axis, auxiliary
        # any number of slices; the size of one is checked by itself
        self.info = replace(inner.info, sizes=None)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        plane = shape if len(shape) < 4 else shape[: self.axis - 1] + shape[self.axis :]
        self.inner.check_shape(plane)

    def _denoise(self, x: Tensor, sigma: Tensor, cond: Tensor | None) -> Prediction:
        if x.ndim < 5:
            return self.inner(x, sigma, cond)
        found: list[Tensor | None] = [None, None, None]
        for item in range(len(x)):
            # a view with the slices in front: (slices, C, rows, columns)
            slices = x[item].movedim(self.axis - 1, 0)
            for first in range(0, len(slices), self.chunk):
                part = slices[first : first + self.chunk].contiguous()
                classes = None if cond is None else cond[item : item + 1].expand(len(part))
                seen = self.inner(part, sigma[item].expand(len(part)), classes)
                for k, value in enumerate((seen.x0, seen.variance_mix, seen.x0_uncond)):
                    if value is not None:
                        whole = found[k] = torch.empty_like(x, dtype=value.dtype) if found[k] is None else found[k]
                        assert whole is not None
                        whole[item].movedim(self.axis - 1, 0)[first : first + self.chunk] = value
        x0, mix, uncond = found
        assert x0 is not None
        return Prediction(x0, mix, uncond)

    def along(self, axis: int) -> Slices:
        """Return the denoiser of slices across another axis: the auxiliary one, where there is one."""
        return Slices(self.inner if self.auxiliary is None else self.auxiliary, self.chunk, axis)

    def with_chunk(self, chunk: int) -> Slices:
        """Return the same denoiser with other chunks."""
        return Slices(self.inner, chunk, self.axis, self.auxiliary)

    def around(self, inner: Denoiser) -> Slices:
        return Slices(inner, self.chunk, self.axis, self.auxiliary)

    def to(self, device: str | torch.device) -> Slices:
        auxiliary = None if self.auxiliary is None else self.auxiliary.to(device)
        return Slices(self.inner.to(device), self.chunk, self.axis, auxiliary)
