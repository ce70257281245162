"""Structural similarity with an explicit window and data range.

    SSIM = mean (2 m_r m_t + C1)(2 c_rt + C2) / ((m_r^2 + m_t^2 + C1)(v_r + v_t + C2)),   C1 = (.01 L)^2, C2 = (.03 L)^2

m, v, c: means, variances and covariance in a window around each pixel. Wang et al. 2004, eq. 13; computed by
scikit-image, which leaves out the border where the window would leave the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from skimage.metrics import structural_similarity

TRUNCATE = 3.5


@dataclass(frozen=True)
class SsimWindow:
    """Weights of the local statistics.

    kind "uniform": a box of `size` pixels a side and the N-1 covariance (the choice of fastMRI).
    kind "gaussian": standard deviation `sigma`, cut at 3.5 sigma, and the N covariance (the choice of Wang et al.).
    """

    kind: Literal["gaussian", "uniform"]
    sigma: float = 1.5
    size: int = 7

    @property
    def width(self) -> int:
        """Pixels a side."""
        return 2 * int(TRUNCATE * self.sigma + 0.5) + 1 if self.kind == "gaussian" else self.size

    def describe(self) -> dict[str, str | float | int | bool]:
        """Return the window as JSON-able facts."""
        gaussian = self.kind == "gaussian"
        shape: dict[str, str | float | int | bool] = {"kind": self.kind, "width": self.width}
        if gaussian:
            shape["sigma"] = self.sigma
        return shape | {"sample_covariance": not gaussian, "k1": 0.01, "k2": 0.03}


def ssim(
    recon: np.ndarray, truth: np.ndarray, data_range: float, window: SsimWindow, mask: np.ndarray | None = None
) -> float:
    """Return the mean structural similarity of two real arrays with channels first, (C, Y, X) or (C, Z, Y, X).

    The similarity map of each channel is averaged over pixels whose window lies inside, and over those of `mask`
    (same shape) if given. NaN where no such pixel exists: an image smaller than the window, or a mask on the border.
    """
    if min(truth.shape[1:]) < window.width:
        return math.nan
    border = (window.width - 1) // 2
    inside = (slice(None),) + (slice(border, -border),) * (truth.ndim - 1)
    similarity = np.stack([_map(r, t, data_range, window) for r, t in zip(recon, truth, strict=True)])[inside]
    kept = similarity if mask is None else similarity[mask[inside]]
    return float(kept.mean()) if kept.size else math.nan


def _map(recon: np.ndarray, truth: np.ndarray, data_range: float, window: SsimWindow) -> np.ndarray:
    """Return the similarity of one channel at every pixel."""
    gaussian = window.kind == "gaussian"
    _, similarity = structural_similarity(
        truth.astype(np.float64),
        recon.astype(np.float64),
        data_range=data_range,
        win_size=None if gaussian else window.size,
        gaussian_weights=gaussian,
        use_sample_covariance=not gaussian,
        full=True,
        K1=0.01,
        K2=0.03,
        **({"sigma": window.sigma} if gaussian else {}),
    )
    return np.asarray(similarity)
