"""Paths through k-space off the Cartesian grid, and how densely they sample it.

A trajectory is an array (..., d) of frequencies in cycles per pixel, within [-1/2, 1/2], its last axis in the order
x, y[, z] (as in ISMRMRD files); all but the last axis lay out the samples, such as (shots, samples). A density weight
is the area of k-space that a sample stands for, times the number of pixels: weights of a grid of all frequencies are 1.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse

from recon.errors import InputError
from recon.operators.checks import numeric

GOLDEN = math.pi * (math.sqrt(5) - 1) / 2  # 111.25 degrees
EDGE = 1e-3  # of 1/2: rounding of files
PIPE_STEPS = 20
PIPE_REACH = 2  # half-width of the kernel of Pipe's iteration, in cells of half the Nyquist distance


def radial(shots: int, samples: int, golden: bool = False) -> np.ndarray:
    """Return spokes through the centre, (shots, samples, 2): angles over 180 degrees, or golden steps of 111.25.

    Sample j lies at (j - samples // 2)/samples, so that an even number holds the centre itself.
    """
    angles = GOLDEN * np.arange(shots) if golden else math.pi / shots * np.arange(shots)
    radius = (np.arange(samples) - samples // 2) / samples
    return radius[None, :, None] * np.stack([np.cos(angles), np.sin(angles)], -1)[:, None]


def spiral(shots: int, samples: int, turns: float, golden: bool = False) -> np.ndarray:
    """Return Archimedean arms from the centre to radius 1/2, (shots, samples, 2), each of that many turns.

    Samples are evenly spaced along the radius; arms are turned by 360 degrees/shots, or golden steps.
    """
    starts = GOLDEN * np.arange(shots) if golden else 2 * math.pi / shots * np.arange(shots)
    radius = np.arange(samples) / (2 * samples)
    angles = starts[:, None] + 4 * math.pi * turns * radius
    return radius[None, :, None] * np.stack([np.cos(angles), np.sin(angles)], -1)


def checked_trajectory(trajectory: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a trajectory for an image (Y, X) or (Z, Y, X) as float64.

    Raises InputError where its last axis does not fit the image, and for frequencies outside [-1/2, 1/2], naming the
    units that they look like.
    """
    path = numeric("trajectory", trajectory).astype(np.float64)
    if path.ndim < 2 or path.shape[-1] != len(shape):
        raise InputError(
            f"trajectory has shape {path.shape}, expected (..., {len(shape)}) for an image of {len(shape)} axes",
            "its last axis holds the frequencies along x, y" + (", z" if len(shape) == 3 else ""),
        )
    far = float(np.abs(path).max())
    if far > 0.5 * (1 + EDGE):
        likely = "radians per pixel do: divide it by 2 pi"
        if far > math.pi * (1 + EDGE):
            likely = "cycles per field of view do: divide it by the image's sides"
        raise InputError(f"trajectory reaches {far:.4g}, outside [-1/2, 1/2] cycles per pixel", f"as {likely}")
    if far * max(shape) < 1:
        raise InputError(
            f"trajectory reaches {far:.3g} cycles per pixel, less than one period over {max(shape)} pixels",
            "give frequencies in cycles per pixel, within [-1/2, 1/2]",
        )
    return path


def radial_density(path: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the weights of `radial` spokes by their areas: pi |k| dk/shots, at the centre its disc's share.

    path: (shots, samples, 2).  Even angles are assumed; golden ones are even enough after some ten spokes.
    """
    shots, samples = path.shape[:2]
    radius, step = np.linalg.norm(path, axis=-1), 1 / samples
    area = math.pi / shots * np.where(radius < step / 4, step / 4, radius) * step
    return np.asarray(area * math.prod(shape))


def pipe_density(path: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return weights w with w * psi = 1 at every sample, psi two samples' overlap: the fixed point of Pipe and Menon.

    w <- w/(C w), C = P P^T with P a triangular kernel that reaches one cell of the image's frequency grid. Where
    neighbours are further apart than that, weights stay what an isolated sample has.
    Source: Pipe and Menon, Magn. Reson. Med. 41, 1999.
    """
    samples = path.reshape(-1, path.shape[-1])
    sides = [2 * n for n in reversed(shape)]
    columns, weights = np.zeros((len(samples), 1), np.int64), np.ones((len(samples), 1))
    for axis, side in enumerate(sides):
        place = samples[:, axis] * side
        near = np.floor(place).astype(np.int64)[:, None] + np.arange(1 - PIPE_REACH, PIPE_REACH + 1)
        share = np.maximum(1 - np.abs(place[:, None] - near) / PIPE_REACH, 0)
        columns = (columns[:, :, None] * side + (near % side)[:, None, :]).reshape(len(samples), -1)
        weights = (weights[:, :, None] * share[:, None, :]).reshape(len(samples), -1)
    cells, compact = np.unique(columns, return_inverse=True)
    rows = np.arange(0, weights.size + 1, weights.shape[1])
    spread = scipy.sparse.csr_matrix((weights.ravel(), compact.ravel(), rows), (len(samples), len(cells)))
    found = np.ones(len(samples))
    for _ in range(PIPE_STEPS):
        found /= spread @ (spread.T @ found)
    # the kernel sums to its reach along every axis; a cell is 1/side wide
    total = float(PIPE_REACH ** len(shape)) ** 2
    return np.asarray(found * total * math.prod(shape) / math.prod(sides)).reshape(path.shape[:-1])
