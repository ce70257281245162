"""Spectral bands of an image: shells of spatial frequency that sum to the image."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

# shares of the Nyquist frequency at which bands begin; the last one holds the corners of the spectrum
EDGES = {"0": 0.0, "1/8": 1 / 8, "1/4": 1 / 4, "1/2": 1 / 2, "1": 2.0}
LOWEST = 2  # cycles over the longer side that the lowest band holds: the spread of a single mode is too uncertain


@final
@dataclass(frozen=True)
class Bands:
    """Projections P_b = F^H 1_b F on the shells e_b <= |f| < e_(b+1), or the identity alone.

    names: of the bands.  masks: (bands, Y, X), 0 or 1 in the order of `torch.fft.fft2`; None is the identity.
    complex_image: whether a row is a complex image with its parts interleaved.
    """

    names: tuple[str, ...] = ("all",)
    masks: Tensor | None = None
    complex_image: bool = False

    def split(self, rows: Tensor) -> Tensor:
        """Return the projections (bands, B, D) of images given as real rows (B, D), one channel."""
        if self.masks is None:
            return rows[None]
        size = self.masks.shape[1:]
        if self.complex_image:
            seen = torch.fft.fft2(torch.view_as_complex(rows.reshape(len(rows), *size, 2).contiguous()))
            parts = torch.fft.ifft2(self.masks[:, None] * seen)
            return torch.view_as_real(parts).reshape(len(self.names), *rows.shape)
        seen = torch.fft.rfft2(rows.reshape(len(rows), *size))
        kept = self.masks[:, None, :, : seen.shape[-1]] * seen
        return torch.fft.irfft2(kept, s=size).reshape(len(self.names), *rows.shape)


def shells(size: tuple[int, int], complex_image: bool = False) -> Bands:
    """Return the bands of images (1, Y, X) between 0, 1/8, 1/4, 1/2 and 1 of the Nyquist frequency.

    |f| is in cycles per pixel over 1/2. Edges below two cycles over the longer side are left out: 32 pixels have four
    bands, 16 three.
    """
    rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64) for n in size)
    radius = 2 * (rows[:, None] ** 2 + columns**2).sqrt()
    kept = [name for name, edge in EDGES.items() if edge == 0 or edge >= 2 * LOWEST / max(size)]
    masks = [(radius >= EDGES[low]) & (radius < EDGES[high]) for low, high in pairwise(kept)]
    return Bands(tuple(f"{low}-{high}" for low, high in pairwise(kept)), torch.stack(masks).double(), complex_image)
