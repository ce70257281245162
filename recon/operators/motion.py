"""Random motion-blur kernels: the path of a shaking camera, drawn and softened.

Source: the published parameters of L. Borodenko's `motionblur` (used by DPS and DAPS): path length, step and angle
distributions, double resolution, Gaussian softening, Lanczos reduction. Departures: random numbers come from the given
generator, a step longer than the whole path is cut to it instead of drawn again, the softening is an exact Gaussian,
and nothing is rounded to 8 bits.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import gaussian_filter

from recon.operators.separable import lanczos3, reduction_matrix


def motion_kernel(size: int, intensity: float, rng: np.random.Generator) -> np.ndarray:
    """Return a kernel (size, size), non-negative with sum 1, in float64.

    intensity: 0 (straight) to 1 (erratic); DPS uses 0.5 with size 61.
    """
    canvas = 2 * size
    diagonal = math.hypot(canvas, canvas)
    path = _path(diagonal, intensity, rng) + (canvas - 1) / 2 * (1 + 1j)
    fine = gaussian_filter(_rasterise(path, canvas), int(0.01 * diagonal), mode="constant")
    reduce = reduction_matrix(canvas, 2, lanczos3, 3)
    kernel: np.ndarray = (reduce @ fine @ reduce.T).clip(min=0)
    return kernel / kernel.sum()


def _path(diagonal: float, intensity: float, rng: np.random.Generator) -> np.ndarray:
    """Return the corners of the path as complex numbers x + iy with mean 0.

    total length    0.75 diagonal (U(0, 1) + U(0, intensity^2))
    step lengths    Beta(1, 30) (1 - intensity) diagonal, until the total is reached
    directions      the first U(-max, max) with max = U(0, intensity pi); the others have a size of
                    Triangular(0, intensity max, max) and keep the sign of the one before, or swap it with probability
                    Beta(2, 20)
    """
    total = 0.75 * diagonal * (rng.uniform() + rng.uniform(0, intensity**2))
    longest = (1 - intensity + 0.1 / diagonal) * diagonal  # keeps steps above zero at intensity 1
    steps: list[float] = []
    while not steps or sum(steps) < total:
        steps.append(min(rng.beta(1, 30) * longest, total))
    widest = rng.uniform(0, intensity * math.pi)
    swap = rng.beta(2, 20)
    angles = [rng.uniform(-widest, widest)]
    while len(angles) < len(steps):
        turn = rng.triangular(0, intensity * widest, widest) if widest > 0 else 0.0
        sign = math.copysign(1.0, angles[-1]) * (-1.0 if rng.uniform() < swap else 1.0)
        angles.append(sign * turn)
    corners = np.cumsum(np.array(steps) * np.exp(1j * np.array(angles[: len(steps)])))
    centred: np.ndarray = (corners - corners.mean()) * np.exp(1j * rng.uniform(0, math.pi))
    return centred


def _rasterise(path: np.ndarray, canvas: int) -> np.ndarray:
    """Return (canvas, canvas) with 1 where the path passes; what leaves the canvas is cut off."""
    image = np.zeros((canvas, canvas))
    lengths = np.abs(np.diff(path))
    arc = np.concatenate([[0.0], np.cumsum(lengths)])
    at = np.linspace(0, arc[-1], 4 * math.ceil(arc[-1]) + 1)
    points = np.interp(at, arc, path.real) + 1j * np.interp(at, arc, path.imag)
    x, y = np.rint(points.real).astype(int), np.rint(points.imag).astype(int)
    inside = (x >= 0) & (x < canvas) & (y >= 0) & (y < canvas)
    image[y[inside], x[inside]] = 1
    return image
