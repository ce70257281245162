"""Sizes that a network does not divide: pad by reflection, evaluate, crop back."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from recon.errors import ConfigError


def on_padded(evaluate: Callable[[Tensor], Tensor], x: Tensor, multiple: int, name: str) -> Tensor:
    """Return evaluate(x) for x (B, C, Y, X), whose sizes are first padded by reflection to divide by `multiple`.

    name: of the prior, for the error.  Raises ConfigError if x is too small to be reflected that far.
    """
    pads = _padding(tuple(x.shape[-2:]), multiple, name)
    if not any(pads):
        return evaluate(x)
    left, top = pads[0], pads[2]
    return evaluate(F.pad(x, pads, mode="reflect"))[..., top : top + x.shape[-2], left : left + x.shape[-1]]


def _padding(size: tuple[int, ...], multiple: int, name: str) -> tuple[int, int, int, int]:
    """Return the (left, right, top, bottom) reflection pads that make `size` = (Y, X) divide by `multiple`."""
    extra = [-n % multiple for n in size]
    if any(e - e // 2 >= n for n, e in zip(size, extra, strict=True)):
        raise ConfigError(f"prior '{name}' needs images of at least {multiple // 2 + 1} pixels a side, got {size}")
    y, x = extra
    return x // 2, x - x // 2, y // 2, y - y // 2
