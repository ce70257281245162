"""What can be read off the k-space of a scan: its mask, its calibration region, its noise, the phase of the image.

k-space is centred and orthonormal: index n // 2 is zero frequency, as in `recon.operators.mri`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

# the rest of the grid may hold so small a share of samples that are zero by chance or rounding
GRID_TOLERANCE = 0.01
MIN_NOISE_SAMPLES = 64


def fourier(image: np.ndarray, axes: tuple[int, ...] = (-2, -1)) -> np.ndarray:
    """Return the centred orthonormal transform along `axes`."""
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(image, axes), axes=axes, norm="ortho"), axes)


def inverse_fourier(kspace: np.ndarray, axes: tuple[int, ...] = (-2, -1)) -> np.ndarray:
    """Return the centred orthonormal inverse transform along `axes`."""
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(kspace, axes), axes=axes, norm="ortho"), axes)


def cropped(array: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return the centre of the last axes, index n // 2 staying the centre; sizes that are larger stay."""
    for axis, (n, m) in enumerate(zip(array.shape[-len(size) :], size, strict=True), start=-len(size)):
        if m < n:
            array = array.take(np.arange(n // 2 - m // 2, n // 2 - m // 2 + m), axis=axis)
    return array


def measured_samples(kspace: np.ndarray) -> np.ndarray:
    """Return a mask (Y, X), uint8, of the samples of k-space (coils, Y, X) that are not zero in all coils.

    Where whole rows and columns explain them, zeros by chance within those count as measured.
    """
    found: Any = np.any(kspace != 0, axis=0)
    rows, columns = found.any(axis=1), found.any(axis=0)
    grid = np.outer(rows, columns)
    missing = int(grid.sum()) - int(found.sum())
    chosen = grid if missing <= GRID_TOLERANCE * grid.sum() else found
    return np.asarray(chosen, np.uint8)


def calibration_size(mask: np.ndarray, most: int) -> tuple[int, int]:
    """Return (a, b), at most `most` each, of the largest nearly square centre of mask (Y, X) that is all measured."""
    centre = [n // 2 for n in mask.shape]
    limits = [min(most, n) for n in mask.shape]
    best = (0, 0)
    for a in range(1, limits[0] + 1):
        top = centre[0] - a // 2
        full = np.asarray(np.all(mask[top : top + a], axis=0)).reshape(-1)
        b = 0
        while b < limits[1] and full[centre[1] - (b + 1) // 2 : centre[1] - (b + 1) // 2 + b + 1].all():
            b += 1
        if min(a, b) > min(best) or (min(a, b) == min(best) and a * b > best[0] * best[1]):
            best = (a, b)
    return best


def compressed(kspace: np.ndarray, maps: np.ndarray | None, count: int | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return k-space (coils, ...) and maps (coils, Y, X) of the `count` virtual coils that hold most of its energy.

    Rows of a unitary matrix mix the coils: white noise keeps its level. Fewer coils, or none to compress to, stay.
    Source: Buehrer, Pruessmann, Boesiger, Kozerke, Magn. Reson. Med. 57, 2007 (the SVD of the data).
    """
    if count is None or count >= len(kspace):
        return kspace, maps
    flat = kspace.reshape(len(kspace), -1)
    vectors = np.linalg.eigh((flat @ flat.conj().T).astype(np.complex128))[1]
    matrix = vectors[:, : -count - 1 : -1].conj().T
    virtual = [np.asarray(np.tensordot(matrix, a, 1), np.complex64) for a in (kspace, maps) if a is not None]
    return virtual[0], virtual[1] if maps is not None else None


def noise_level(kspace: np.ndarray, mask: np.ndarray) -> float | None:
    """Return the standard deviation of each real and imaginary part, from the outer corners of k-space (coils, Y, X).

    The quarter of the measured samples of highest frequency along both axes is transformed to an image: there edges
    are few pixels, and noise is everywhere, so that the median of |image| is sigma sqrt(2 ln 2) up to a known factor.
    Over coils the root mean square. None where too few samples are measured.
    """
    y, x = (np.abs(np.arange(n) - n // 2) / (n / 2) for n in mask.shape)
    distance = np.minimum.outer(y, x)
    measured = distance[mask != 0]
    if measured.size < MIN_NOISE_SAMPLES:
        return None
    corners = (mask != 0) & (distance >= np.quantile(measured, 0.75))
    values = np.abs(inverse_fourier(kspace * corners))
    levels = np.median(values, axis=(1, 2)) / math.sqrt(2 * math.log(2) * np.count_nonzero(corners) / mask.size)
    return float(np.sqrt(np.mean(levels.astype(np.float64) ** 2)))


def low_resolution(kspace: np.ndarray, region: tuple[int, int]) -> np.ndarray:
    """Return images (coils, Y, X) of the centre of k-space alone, of size `region`, under a Hann window."""
    window = np.outer(*(_hann(n, m) for n, m in zip(kspace.shape[-2:], region, strict=True)))
    return inverse_fourier(kspace * window)


def normalised_maps(kspace: np.ndarray, region: tuple[int, int]) -> np.ndarray:
    """Return the low-resolution images divided by their root sum of squares: rough maps (coils, Y, X), complex64.

    Their phase is that of the image seen by each coil. For a centre too small for ESPIRiT.
    """
    images = low_resolution(kspace, region)
    total = np.linalg.norm(images, axis=0)
    return np.asarray(images / np.maximum(total, 1e-6 * total.max() or 1.0), np.complex64)


def image_phase(kspace: np.ndarray, maps: np.ndarray | None, region: tuple[int, int]) -> np.ndarray:
    """Return exp(i phi) (Y, X), complex64, phi the phase of the low-resolution image combined through the maps."""
    images = low_resolution(kspace, region)
    image = images[0] if maps is None else (images * maps.conj()).sum(0)
    size = np.abs(image)
    return np.asarray(np.where(size > 0, image / np.where(size > 0, size, 1), 1), np.complex64)


def explained(kspace: np.ndarray, maps: np.ndarray, region: tuple[int, int], sigma: float = 0.0) -> float:
    """Return which share of the coils' low-resolution images z is an image through the maps S, without their noise.

    sum |S^H z|^2/|S|^2 over sum |z|^2, less the energy that noise of standard deviation sigma in each real and
    imaginary part has in each; 1 where the maps are those of the scan, 1/coils where they have nothing to do with it.
    kspace, maps: (coils, Y, X).  region: of the centre that is measured.
    """
    images = low_resolution(kspace, region)
    power = (np.abs(maps) ** 2).sum(0)
    seen = np.abs((images * maps.conj()).sum(0)) ** 2 / np.maximum(power, 1e-12 * power.max())
    # noise has one direction of all coils' in what is seen, where there are maps
    weights = np.outer(*(_hann(n, m) ** 2 for n, m in zip(kspace.shape[-2:], region, strict=True)))
    noise = 2 * sigma**2 * float(weights.sum())
    covered = float((power > 1e-12 * power.max()).mean())
    total = float((np.abs(images) ** 2).sum()) - len(images) * noise
    return (float(seen.sum()) - covered * noise) / total if total > 0 else 1.0


def _hann(n: int, m: int) -> np.ndarray:
    """Return weights (n,), a Hann window of m points around n // 2."""
    place = np.arange(n) - n // 2
    inside = (place >= -(m // 2)) & (place < m - m // 2)
    return np.where(inside, np.cos(np.pi * place / (m + 1)) ** 2, 0.0)
