"""Work on many images in groups small enough that what is between two transforms stays in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recon.kernels import fused

# of one intermediate array; the allocator hands larger ones back to the system, which clears them at every call
CACHED_BYTES = 2**19


def groups(count: int, each: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) of consecutive items of `each` bytes that are worked on together.

    As many as a core's cache holds, and one per thread up to four times that; on a GPU all of them: there each call
    costs more than its memory.
    """
    together = max(count, 1)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        together = max(1, CACHED_BYTES // max(each, 1), threads if threads * each <= 4 * CACHED_BYTES else 0)
    for first in range(0, count, together):
        yield first, min(first + together, count)


def coil_groups(coils: int, image: Tensor) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) of the coils whose complex images of `image` (B, 1, *shape) are made together."""
    wide = image.dtype in (torch.float64, torch.complex128)
    return groups(coils, image.numel() * (16 if wide else 8), image.device)


def add_combined(total: Tensor, images: Tensor, maps_conj: Tensor) -> None:
    """Add sum_c conj(S_c) images_c to `total` (B, 1, *shape); images (B, coils, *shape) may be overwritten."""
    if images.shape[1] == 1:
        total.addcmul_(images, maps_conj)
    else:
        total += fused.gather(images, maps_conj)


def by_planes(x: Tensor, act: Callable[[Tensor], Tensor], out_sides: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return act of every plane of x (..., Y, X): (..., *out_sides).

    act: (n, Y, X) -> (n, *out_sides), by arrays of n times the size `grid`.
    """
    planes = x.flatten(0, -3)
    parts = [
        act(planes[first:last])
        for first, last in groups(planes.shape[0], grid[0] * grid[1] * x.element_size(), x.device)
    ]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return whole.reshape(*x.shape[:-2], *out_sides)
