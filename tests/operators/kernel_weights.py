"""Seeded weights for the kernel network of learned blurs, in the layout of the authors' files."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


def layout(
    width: int = 4, channels: int = 3, front: int = 2, back: int = 2, factors: tuple[int, ...] = (1, 2, 4, 8, 8)
) -> Shapes:
    """Return names and shapes, for `factors` times `width` channels in the levels and a code of the last number."""
    shapes: Shapes = {}

    def conv(name: str, out: int, inside: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, inside, 3, 3), (out,)

    for index, inside in ((0, channels), (2, width), (4, width)):
        conv(f"feature_extractor.{index}", width, inside)
    for part, count, first in (("feature_extractor", front, 6), ("recon_trunk", back, 0)):
        for index in range(count):
            for number in (1, 2):
                conv(f"{part}.{first + index}.conv{number}", width, width)
    above = width
    for level, factor in enumerate(factors):
        name, side = "adapter.model." + level * "submodule.", factor * width
        shapes[f"{name}down.{min(level, 1)}.weight"] = (side, above, 4, 4)
        shapes[f"{name}up.1.weight"] = (2 * side, above, 4, 4)
        above = side
    shapes["adapter.model.up.1.bias"] = (width,)
    conv(f"recon_trunk.{back}", 4 * width, width)
    conv(f"recon_trunk.{back + 3}", 256, width)
    conv(f"recon_trunk.{back + 6}", 64, 64)
    conv(f"recon_trunk.{back + 8}", channels, 64)
    return shapes


def seeded(shapes: Shapes, seed: int) -> dict[str, Tensor]:
    """Return float64 tensors of these shapes, drawn in the order of their names, that keep signals' sizes about."""
    rng, weights = np.random.default_rng(seed), {}
    for key in sorted(shapes):
        shape = shapes[key]
        values = rng.standard_normal(shape)
        weights[key] = torch.from_numpy(values * (0.1 if len(shape) == 1 else 1.0 / math.sqrt(math.prod(shape[1:]))))
    return weights
