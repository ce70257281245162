"""Noise for thousands of samples: one generator for the whole batch, many times faster than one for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor


@final
class BatchNoise:
    """Standard normal noise that depends on the seed, the stream and the batch's shape alone.

    seed: of the audit.  stream: what it is for, such as the name of a case and the number of a batch.
    """

    def __init__(self, seed: int, *stream: str | int) -> None:
        self.generator = generator(seed, *stream)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return noise of `shape`; complex dtypes have unit variance in each of the real and imaginary parts."""
        if dtype.is_complex:
            parts = torch.randn(*shape, 2, generator=self.generator, dtype=dtype.to_real())
            return torch.view_as_complex(parts)
        return torch.randn(tuple(shape), generator=self.generator, dtype=dtype)


def generator(seed: int, *stream: str | int) -> torch.Generator:
    """Return a CPU generator of its own for a seed and a stream."""
    # each part with its length before it, so that no two streams spell the same words
    words = [seed]
    for part in stream:
        spelt = list(part.encode()) if isinstance(part, str) else [part]
        words += [len(spelt), *spelt]
    mixed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator().manual_seed(mixed)
