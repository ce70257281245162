"""The one rule that maps an image's intensities to a prior's value range.

q = 99.5 % quantile of the foreground {v > 0.1 max-like(v)},   u = 2 v / q - 1
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np


def foreground_quantile(values: np.ndarray, quantile: float = 0.995) -> float:
    """Return the `quantile` of the foreground of |values|, the voxels above a tenth of their 99.9 % quantile.

    values: any shape, any unit; returned in the same unit. An all-zero array gives 1.
    """
    flat = np.abs(np.asarray(values)).ravel()
    top = float(np.quantile(flat, 0.999))
    if not top > 0:
        return 1.0
    return float(np.quantile(flat[flat > 0.1 * top], quantile))


def foreground_quantile_of_parts(parts: Callable[[], Iterable[np.ndarray]], quantile: float = 0.995) -> float:
    """Return `foreground_quantile` of values that are seen part by part, twice, and never held as a whole.

    parts: returns an iteration over the values, the same each time.  Agrees with that of the whole to the rounding of
    its type.
    """
    size = sum(part.size for part in parts())
    top = _upper(parts, size, 0.999, -np.inf)
    if not top > 0:
        return 1.0
    threshold = 0.1 * top
    count = sum(int(np.count_nonzero(np.abs(part) > threshold)) for part in parts())
    return _upper(parts, count, quantile, threshold)


def _upper(parts: Callable[[], Iterable[np.ndarray]], size: int, quantile: float, above: float) -> float:
    """Return the quantile of the `size` values of |parts| that are above a threshold, from the largest ones alone."""
    place = (size - 1) * quantile
    kept = size - int(place)
    most = np.empty(0)
    for part in parts():
        values = np.abs(part).ravel()
        most = np.concatenate([most, values[values > above]])
        most = np.partition(most, -kept)[-kept:] if most.size > kept else most
    most.sort()
    low, high = most[0], most[min(1, most.size - 1)]
    return float(low + (high - low) * (place - int(place)))
