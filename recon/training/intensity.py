"""The one rule that maps an image's intensities to a prior's value range.

q = 99.5 % quantile of the foreground {v > 0.1 max-like(v)},   u = 2 v / q - 1
"""

from __future__ import annotations

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
