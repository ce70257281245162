"""Mean and spread of posterior samples, and how well the spread predicts the error.

Where truth and samples are exchangeable and Gaussian, t - mean ~ s sqrt(1 + 1/N) T_{N-1} with Student's T, so that
    coverage(level) = level          for any number of samples N >= 2,
    spread ratio    = rms(s) sqrt(1 + 1/N) / rms(mean - t) = 1.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import t as student

from recon.errors import InputError


def mean_and_std(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation (N - 1) over the first axis of samples (N, ...), in their units.

    Complex samples have a complex mean and std = sqrt(sum |x - mean|^2/(N - 1)). One sample has std 0.
    """
    mean = samples.mean(axis=0)
    squared = (np.abs(samples - mean) ** 2).sum(axis=0)
    return mean, np.sqrt(squared / max(1, samples.shape[0] - 1))


def coverage(samples: np.ndarray, truth: np.ndarray, level: float = 0.9, mask: np.ndarray | None = None) -> float:
    """Return the fraction of values of the truth inside the samples' central prediction interval of `level`.

    The interval is mean +- s sqrt(1 + 1/N) T_{N-1}((1 + level)/2): calibrated samples give `level`.
    samples: (N, ...), N >= 2.  truth: (...).  mask: (...), not zero where values count. Real and imaginary parts of
    complex data count as two values. Raises InputError on mismatched shapes and fewer than two samples.
    """
    samples, truth, kept = _comparable(samples, truth, mask)
    count = samples.shape[0]
    mean, std = mean_and_std(samples)
    reach = float(student.ppf((1 + level) / 2, count - 1)) * math.sqrt(1 + 1 / count)
    return float((np.abs(truth - mean) <= reach * std)[kept].mean())


def spread_ratio(samples: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Return rms(s) sqrt(1 + 1/N)/rms(mean - truth): below 1 the samples are too sure, above 1 too spread.

    Arguments and errors as in `coverage`; infinite where the mean equals the truth.
    """
    samples, truth, kept = _comparable(samples, truth, mask)
    mean, std = mean_and_std(samples)
    error = np.mean((mean - truth)[kept] ** 2)
    spread = np.mean(std[kept] ** 2) * (1 + 1 / samples.shape[0])
    return float(np.sqrt(spread / error)) if error > 0 else math.inf


def _comparable(
    samples: np.ndarray, truth: np.ndarray, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return samples and truth as float64 with (real, imaginary) pairs last, and what counts of them."""
    if samples.shape[1:] != truth.shape or samples.shape[0] < 2:
        raise InputError(
            f"expected two or more samples of the truth's shape {truth.shape}, got samples of shape {samples.shape}"
        )
    kept = np.ones(truth.shape, bool) if mask is None else np.broadcast_to(mask != 0, truth.shape)
    return _parts(samples), _parts(truth), np.broadcast_to(kept[..., None], _parts(truth).shape)


def _parts(array: np.ndarray) -> np.ndarray:
    """Return real values as (..., 1) and complex ones as (..., 2)."""
    parts = (array.real, array.imag) if np.iscomplexobj(array) else (array,)
    return np.stack(parts, axis=-1).astype(np.float64)
