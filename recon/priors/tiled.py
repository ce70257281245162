"""Large images in overlapping tiles: bounded memory, and networks of one size on larger images.

    D(x) = sum_k w_k D_k(x),     sum_k w_k = 1,     D_k the inner denoiser on tile k

Along each axis a tile's weight is 0 in a margin at its inner edges, rises as sin^2 over the blended part of the
overlap, and is 1 beyond. Tiles start at multiples of what the network divides sizes by, so that its subsampling
grids agree. Then a denoiser that commutes with shifts and sees pixels up to `margin` away is reproduced exactly;
normalisation and attention over the whole image are not of that kind: `tiling_error` measures what they change.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.priors.base import Denoiser, Prediction
from recon.priors.padding import on_padded
from recon.priors.wrapper import Wrapper

# windows along one axis: (first pixel, weights of the tile's pixels)
Windows = list[tuple[int, Tensor]]


@final
class Tiled(Wrapper):
    """A denoiser of images (B, C, Y, X) of any size by tiles.

    inner: of the tiles.  size: of their sides, in pixels, rounded up to what the network divides; for an inner
    denoiser of one square size, that.  overlap: least overlap of neighbours, in pixels.  blend: share of the overlap,
    in (0, 1], over which neighbours are blended; the rest is margin.  batch: tiles that are evaluated together.
    Raises ConfigError for sizes and overlaps that leave no step.
    """

    def __init__(self, inner: Denoiser, size: int, overlap: int, blend: float = 0.5, batch: int = 1) -> None:
        self.inner, self.overlap, self.blend, self.batch = inner, overlap, blend, batch
        self.size = -(-size // inner.info.multiple) * inner.info.multiple
        self.info = replace(inner.info, sizes=None)
        fixed = inner.info.sizes
        if fixed is not None and fixed != (self.size, self.size):
            raise ConfigError(f"prior '{inner.info.name}' takes images of {fixed} alone, not tiles of {self.size}")
        if size < 1 or batch < 1 or not 0 < blend <= 1 or not 0 <= overlap <= self.size - inner.info.multiple:
            raise ConfigError(
                f"tiles of {size} pixels cannot overlap by {overlap}, blended over {blend:g} of it",
                f"give an overlap of 0 to {max(self.size - inner.info.multiple, 0)} pixels",
            )

    @property
    def margin(self) -> int:
        """How far a denoiser may see, in pixels, to be reproduced exactly."""
        return int((1 - self.blend) / 2 * self.overlap)

    def _denoise(self, x: Tensor, sigma: Tensor, cond: Tensor | None) -> Prediction:
        present: list[bool] = []

        def evaluate(inside: Tensor) -> Tensor:
            return self._blended(inside, sigma, cond, present)

        found = on_padded(evaluate, x, self.info.multiple, self.info.name)
        parts = iter(found.split(x.shape[1], dim=1))
        x0, mix, uncond = (next(parts) if there else None for there in present)
        assert x0 is not None
        return Prediction(x0, mix, uncond)

    def _blended(self, x: Tensor, sigma: Tensor, cond: Tensor | None, present: list[bool]) -> Tensor:
        """Return the parts of the prediction that there are, joined over channels; `present` tells which."""
        rows, columns = (self._windows(n, x) for n in x.shape[-2:])
        tiles = [(y, down, left, across) for y, down in rows for left, across in columns]
        total: Tensor | None = None
        for start in range(0, len(tiles), self.batch):
            group = tiles[start : start + self.batch]
            stack = torch.cat([x[..., y : y + len(d), left : left + len(a)] for y, d, left, a in group])
            classes = None if cond is None else torch.cat([cond] * len(group))
            seen = self.inner(stack, sigma.repeat(len(group)), classes)
            found = (seen.x0, seen.variance_mix, seen.x0_uncond)
            present[:] = [part is not None for part in found]
            parts = torch.cat([part for part in found if part is not None], dim=1)
            if total is None:
                total = parts.new_zeros(len(x), parts.shape[1], *x.shape[2:])
            for part, (y, d, left, a) in zip(parts.split(len(x)), group, strict=True):
                total[..., y : y + len(d), left : left + len(a)] += d[:, None] * a * part
        assert total is not None
        return total

    def _windows(self, n: int, x: Tensor) -> Windows:
        """Return the tiles along an axis of n pixels; their weights sum to 1 at each pixel."""
        size, multiple = self.size, self.info.multiple
        if n < size and self.inner.info.sizes is not None:
            raise ConfigError(f"prior '{self.info.name}' needs images of at least {size} pixels a side, got {n}")
        step = (size - self.overlap) // multiple * multiple
        count = 1 if n <= size else math.ceil((n - size) / step) + 1
        starts = [(n - size) * k // max(count - 1, 1) // multiple * multiple for k in range(count)]
        total = torch.zeros(n, dtype=torch.float64)
        weights = []
        for k, start in enumerate(starts):
            rise = self._rise(min(size, n))
            weight = torch.ones_like(rise)
            weight = weight if k == 0 else weight * rise
            weight = weight if k == count - 1 else weight * rise.flip(0)
            total[start : start + len(weight)] += weight
            weights.append(weight)
        pairs = zip(starts, weights, strict=True)
        return [(s, (w / total[s : s + len(w)]).to(x.real.dtype).to(x.device)) for s, w in pairs]

    def _rise(self, size: int) -> Tensor:
        """Return the weight at each pixel by its distance from the tile's first."""
        if not self.overlap:
            return torch.ones(size, dtype=torch.float64)
        ramp = self.blend * self.overlap
        distance = torch.arange(size, dtype=torch.float64) + 0.5 - (self.overlap - ramp) / 2
        return (0.5 * math.pi * (distance / ramp).clamp(0, 1)).sin() ** 2

    def around(self, inner: Denoiser) -> Tiled:
        return Tiled(inner, self.size, self.overlap, self.blend, self.batch)


def tiling_error(tiled: Tiled, x: Tensor, sigma: float) -> Tensor:
    """Return ||D_tiled(x) - D(x)||/||D(x)|| of each item (B,), for images (B, C, Y, X) that fit into memory whole."""
    whole = tiled.inner(x, sigma).x0.flatten(1)
    return (tiled(x, sigma).x0.flatten(1) - whole).norm(dim=1) / whole.norm(dim=1)
