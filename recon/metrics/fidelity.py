"""Pointwise measures of fidelity, in float64, with the data range always given by the caller.

    MSE = mean |r - t|^2,   PSNR = 10 log10(L^2 / MSE),   NMSE = ||r - t||^2 / ||t||^2

Nothing is normalised, clipped or guessed here; `recon.metrics.protocols` decides that by name.
"""

from __future__ import annotations

import math

import numpy as np


def mse(recon: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return mean |recon - truth|^2 over all values, or over those where `mask` (same shape, boolean) is True."""
    squared = np.abs(np.subtract(recon, truth, dtype=np.result_type(recon, truth, np.float64))) ** 2
    return float(np.mean(squared if mask is None else squared[mask]))


def psnr(recon: np.ndarray, truth: np.ndarray, data_range: float, mask: np.ndarray | None = None) -> float:
    """Return 10 log10(L^2/MSE) in dB for the data range L = `data_range`; infinite where the arrays are equal."""
    error = mse(recon, truth, mask)
    return math.inf if error == 0 else 10 * math.log10(data_range**2 / error)


def nmse(recon: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return ||recon - truth||^2/||truth||^2; infinite where only the truth is zero, 0 where both are."""
    energy = mse(truth, np.zeros_like(truth), mask)
    error = mse(recon, truth, mask)
    if energy == 0:
        return 0.0 if error == 0 else math.inf
    return error / energy
