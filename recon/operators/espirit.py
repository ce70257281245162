"""Coil sensitivities from the fully sampled centre of k-space: ESPIRiT.

    p_r   every k x k patch of the calibration data, all coils:   R = sum_r p_r p_r^H,   Q = V V^H
          with V the eigenvectors of R whose singular value is above `threshold` times the largest
    h_cc'(d) = 1/k^2 sum_{p' - p = d} Q[(c, p), (c', p')]          W(x) = sum_d h(d) exp(-2 pi i d x / N)
    S(x) = the eigenvector of the largest eigenvalue of the Hermitian W(x); that eigenvalue is 1 where there is signal

Source: Uecker et al., Magn. Reson. Med. 71(3), 2014, equations 13 to 22. Departures: maps are not cut off where the
eigenvalue is small, since a pixel without a map would be unmeasured; on large images the eigenvectors are computed on
every second pixel and interpolated, since W holds only 2 k - 1 harmonics along each axis.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# images of more pixels a side than this are computed on every second pixel
FINE_SIDE = 128


def espirit_maps(
    calibration: np.ndarray, size: tuple[int, int], kernel: int = 6, threshold: float = 0.02
) -> np.ndarray:
    """Return sensitivities with sum_c |S_c|^2 = 1 at each pixel: complex64 (coils, Y, X).

    calibration: (coils, a, b), the centre of centred k-space, with a, b >= kernel.  size: (Y, X).
    The phase is that of the calibration's strongest virtual coil, which varies smoothly.
    """
    spread = _kernels(calibration.astype(np.complex128), kernel, threshold)
    steps = [2 if n > FINE_SIDE else 1 for n in size]
    places = [np.arange(0, n - 1 + s, s) - n // 2 for n, s in zip(size, steps, strict=True)]
    waves = [_waves(x, n, kernel) for x, n in zip(places, size, strict=True)]
    strongest = np.linalg.svd(calibration.reshape(len(calibration), -1), full_matrices=False)[0][:, 0]
    rows = []
    along_x = np.einsum("cdij,xj->cdix", spread, waves[1])
    for wave in waves[0]:
        matrices = np.moveaxis(np.einsum("i,cdix->cdx", wave, along_x), -1, 0).astype(np.complex64)
        vectors = np.linalg.eigh(matrices)[1][:, :, -1]
        reference = vectors @ strongest.conj().astype(np.complex64)
        rows.append((vectors * np.exp(-1j * np.angle(reference))[:, None]).T)
    maps = np.stack(rows, axis=1)
    if max(steps) > 1:
        maps = _refined(maps, steps, size)
    return np.asarray(maps / np.linalg.norm(maps, axis=0), np.complex64)


def _kernels(calibration: np.ndarray, kernel: int, threshold: float) -> np.ndarray:
    """Return h (coils, coils, 2k - 1, 2k - 1), offsets d from -(k - 1) to k - 1."""
    coils = calibration.shape[0]
    patches = sliding_window_view(calibration, (kernel, kernel), axis=(1, 2))
    columns = np.moveaxis(patches, 0, 2).reshape(-1, coils * kernel * kernel)
    values, vectors = np.linalg.eigh(columns.T @ columns.conj())
    kept = vectors[:, values > threshold**2 * values[-1]]
    projector = (kept @ kept.conj().T).reshape(coils, kernel, kernel, coils, kernel, kernel)
    found = np.zeros((coils, coils, 2 * kernel - 1, 2 * kernel - 1), complex)
    for y in range(kernel):
        for x in range(kernel):
            window = slice(kernel - 1 - y, 2 * kernel - 1 - y), slice(kernel - 1 - x, 2 * kernel - 1 - x)
            found[:, :, *window] += projector[:, y, x]
    return found / kernel**2


def _waves(places: np.ndarray, n: int, kernel: int) -> np.ndarray:
    return np.exp(-2j * np.pi * np.outer(places, np.arange(1 - kernel, kernel)) / n)


def _refined(maps: np.ndarray, steps: list[int], size: tuple[int, int]) -> np.ndarray:
    """Return the maps on every pixel, by cubic splines."""
    from scipy.ndimage import map_coordinates

    grid = np.meshgrid(*(np.arange(n) / s for n, s in zip(size, steps, strict=True)), indexing="ij")
    parts = [[map_coordinates(part, grid, order=3, mode="nearest") for part in (m.real, m.imag)] for m in maps]
    return np.stack([re + 1j * im for re, im in parts])
