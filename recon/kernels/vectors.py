"""The compiled CPU vector updates: the C of `csrc/vectors.c`, called through ctypes on contiguous tensors.

Complex tensors go as their real views; all tensors of a call have the same type, float32 or float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recon.errors import ResourceError
from recon.kernels.compiled import call

LETTERS = {torch.float32: "f", torch.float64: "d"}


def square(x: Tensor) -> Tensor:
    """Return <x, x> of each item of x (B, ...), float64 (B,)."""
    found = x.new_empty(x.shape[0], dtype=torch.float64)
    _run("square", x.dtype, x, found, x.shape[0], x[0].numel())
    return found


def conjugate_step(
    x: Tensor,
    residual: Tensor,
    direction: Tensor,
    image: Tensor,
    square: Tensor,
    limit: Tensor,
    shift: Tensor,
    weight: Tensor,
) -> Tensor:
    """Advance x, residual and direction (B, ...) in place; return the new square, float64 (B,) as the last four are."""
    reduced = square.clone()
    system = (x, residual, direction, image, x.shape[0], x[0].numel())
    _run("conjugate", x.dtype, *system, reduced, limit, shift, weight)
    return reduced


def combine(terms: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return sum_k weights_k terms_k, of two to four terms."""
    out, four = torch.empty_like(terms[0]), [*terms, *(None,) * (4 - len(terms))]
    factors = torch.tensor(weights, dtype=torch.float64)
    _run("combine", out.dtype, out, *four, len(terms), factors, 1, out.numel())
    return out


def guide(
    x: Tensor, clean: Tensor, base: Tensor, change: Tensor | None, noise: Tensor | None, keep: float, fresh: float
) -> tuple[Tensor, Tensor]:
    """Return c = clean + change and c + keep (x - base) + fresh noise."""
    corrected, moved = torch.empty_like(x), torch.empty_like(x)
    _run("guide", x.dtype, corrected, moved, x, clean, base, change, noise, float(keep), float(fresh), x.numel())
    return corrected, moved


def shrink(x: Tensor, dual: Tensor, threshold: float, around: bool) -> tuple[Tensor, Tensor]:
    """Return the split and the next dual of total variation across the slices of x (items, slices, plane)."""
    split, following = torch.empty_like(x), torch.empty_like(x)
    _run("shrink", x.dtype, split, following, x, dual, float(threshold), *x.shape, int(around))
    return split, following


def _run(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    if call(f"recon_{name}_{LETTERS[dtype]}", *arguments):
        raise ResourceError("out of memory in a vector update", "use a smaller batch or image")
