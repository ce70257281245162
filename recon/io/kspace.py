"""What several k-space formats need: the centred transform of a fully measured readout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recon.errors import InputError


def readout_to_slices(kspace: np.ndarray, name: str) -> np.ndarray:
    """Return k-space of slices (readout, coils, Y, X) from 3-D k-space (readout, coils, Y, X), complex64.

    The inverse transform along the readout is centred and orthonormal. Raises InputError where the readout is not
    measured as a whole, for then slices are not independent.
    """
    if not all(part.any() for part in kspace):
        raise InputError(
            f"{name}: 3-D k-space whose readout is not fully measured: its slices cannot be reconstructed one by one",
            "fill in or cut off the readout first",
        )
    axes = (0,)
    moved = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, axes), axis=0, norm="ortho"), axes)
    return np.asarray(moved, np.complex64)


@dataclass(frozen=True)
class Whitening:
    """matrix: W (coils, coils), complex64.  sigma: noise of each real and imaginary part of W y."""

    matrix: np.ndarray
    sigma: float


def whitening(noise: np.ndarray, bandwidth: float = 1.0) -> Whitening | None:
    """Return the map that makes the noise of coils white and equal, without changing their geometric mean.

    noise: samples (coils, n) without signal.  bandwidth: of the data over that of the noise scan.
    None where there are too few samples, or a coil without noise.
    """
    coils, count = noise.shape
    if count < 4 * coils:
        return None
    covariance = noise.astype(np.complex128) @ noise.conj().T * (bandwidth / (2 * (count - 1)))
    levels = np.sqrt(np.diag(covariance).real)
    if not np.isfinite(levels).all() or not levels.min() > 1e-6 * levels.max():
        return None
    try:
        root = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        return None
    sigma = float(np.exp(np.log(levels).mean()))
    return Whitening(np.asarray(sigma * np.linalg.inv(root), np.complex64), sigma)


def placement(size: int, centre: int, first: int, last: int) -> tuple[slice, slice] | None:
    """Return where samples `first` to `last` of a readout go among `size` points, and which they are.

    centre: number of the sample at the origin, which goes to size // 2. None where they do not fit.
    """
    start, stop = size // 2 + first - centre, size // 2 + last - centre
    if not 0 <= start < stop <= size:
        return None
    return slice(start, stop), slice(first, last)
