"""The images that a run makes, item by item: large ones lie on disk, so that a run holds those of one item alone."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from torch import Tensor

from recon.io.disk import let_go, scratch, trim
from recon.metrics.uncertainty import mean_and_std

# images after which free memory is given back
TRIM = 16


@final
class Collected:
    """Samples of N images, (S, N, C, Y, X), as they come."""

    def __init__(self, images: int) -> None:
        self.images, self.done, self.array = images, 0, np.empty(0)

    def add(self, samples: np.ndarray) -> None:
        """Take in the samples (S, n, C, Y, X) of the next images."""
        if not self.done:
            self.array = samples if samples.shape[1] == self.images else self._room(samples, len(samples))
        if self.array is not samples:
            self.array[:, self.done : self.done + samples.shape[1]] = samples
            let_go(self.array)
            if isinstance(self.array, np.memmap) and self.done % TRIM == 0:
                trim()
        self.done += samples.shape[1]

    def end_with(self, samples: np.ndarray) -> None:
        """Take in samples of the next images, perhaps fewer than of those before, and keep the means alone."""
        means = self._room(samples, 1)
        for index in range(self.done):
            means[0, index] = self.array[:, index].mean(0)
        means[0, self.done : self.done + samples.shape[1]] = samples.mean(0)
        self.array, self.done = means, self.done + samples.shape[1]

    def all(self) -> np.ndarray:
        """Return what came so far."""
        return self.array[:, : self.done]

    def _room(self, like: np.ndarray, samples: int) -> np.ndarray:
        return scratch((samples, self.images, *like.shape[2:]), like.dtype)


@final
class Shelf:
    """Room for the results of `count` problems of up to `most` samples each, kept in case the run is interrupted."""

    def __init__(self, count: int, most: int) -> None:
        self.count, self.most = count, most
        self._room: np.ndarray | None = None

    def put(self, number: int, samples: Tensor) -> Tensor:
        """Return a copy of a problem's samples (B, ...), on disk where those of all problems are large."""
        values = samples.detach().cpu().numpy()
        if self._room is None:
            self._room = scratch((self.count, self.most, *values.shape[1:]), values.dtype)
        own = self._room[number, : len(values)]
        own[...] = values
        let_go(own)
        return torch.from_numpy(own)


def means(samples: np.ndarray) -> np.ndarray:
    """Return the mean over samples (S, N, C, Y, X), image by image."""
    return samples[0] if len(samples) == 1 else _each(samples, 0)


def spreads(samples: np.ndarray) -> np.ndarray:
    """Return the standard deviation over samples (S, N, C, Y, X), image by image; see `mean_and_std`."""
    return _each(samples, 1)


def _each(samples: np.ndarray, which: int) -> np.ndarray:
    found: np.ndarray | None = None
    for index in range(samples.shape[1]):
        one = mean_and_std(samples[:, index])[which]
        if found is None:
            found = scratch((samples.shape[1], *one.shape), one.dtype)
        found[index] = one
        let_go(found)
        let_go(samples)
    assert found is not None
    return found
