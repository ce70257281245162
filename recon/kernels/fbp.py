"""Filtered backprojection of parallel-beam data.

    f(x, y) = sum_a w_a q_a(x cos theta_a + y sin theta_a),    q = p * h,
    h[0] = 1/(4 d^2),  h[n odd] = -1/(pi n d)^2,  h[n even] = 0    (Ram-Lak filter, sampled in space, at distance d)

Source: A. C. Kak, M. Slaney, Principles of Computerized Tomographic Imaging, 1988, eqs. 3.61 and 3.66. Departure: the
weights w_a follow the gaps between angles, so that uneven, repeated and limited angles are scaled properly.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from recon.kernels import pixels
from recon.kernels.parallel import ParallelGeometry

BLOCK = 2**20  # interpolated values held at once


def filtered_backprojection(sinogram: Tensor, geometry: ParallelGeometry) -> Tensor:
    """Return the image of line integrals: (B, n_angles, detectors) -> (B, Y, X), in values per unit of length."""
    return backproject(ramp_filter(sinogram, geometry.spacing * geometry.pixel_size), geometry)


def ramp_filter(sinogram: Tensor, distance: float) -> Tensor:
    """Return each row convolved with the Ram-Lak filter, zero-padded against wrap-around; same shape.

    sinogram: (..., detectors).  distance: between detectors, in the unit of the line integrals.
    """
    return convolve(sinogram, ramp_kernel(sinogram.shape[-1]) / distance)


def ramp_kernel(count: int) -> np.ndarray:
    """Return d^2 h[n] of the Ram-Lak filter for n = 0 .. count, (count + 1,)."""
    n = np.arange(count + 1)
    kernel = np.where(n % 2 == 1, -1 / (math.pi * np.maximum(n, 1)) ** 2, 0.0)
    kernel[0] = 0.25
    return kernel


def convolve(rows: Tensor, kernel: np.ndarray) -> Tensor:
    """Return each row (..., n) convolved with a symmetric kernel, given for 0 .. n, without wrap-around; same shape."""
    count = rows.shape[-1]
    length = 2 ** math.ceil(math.log2(2 * count))
    n = np.minimum(np.arange(length), length - np.arange(length))
    response = np.fft.rfft(np.where(n <= count, kernel[np.minimum(n, count)], 0.0)).real
    transform = torch.fft.rfft(rows, n=length) * torch.from_numpy(response).to(rows)
    return torch.fft.irfft(transform, n=length)[..., :count]


def backproject(filtered: Tensor, geometry: ParallelGeometry) -> Tensor:
    """Return sum_a w_a q_a at each pixel's centre: (B, n_angles, detectors) -> (B, Y, X).

    Each projection is interpolated linearly between detectors and zero beyond them; w_a: see `angular_weights`.
    """
    batch, views, _ = filtered.shape
    y, x = (torch.from_numpy(axis).to(filtered.device) for axis in geometry.pixel_axes())
    cos, sin = (torch.from_numpy(part).to(filtered.device)[:, None, None] for part in geometry.directions())
    filtered = filtered * torch.from_numpy(angular_weights(geometry.angles)).to(filtered)[:, None]
    if pixels.serves(filtered):
        axes = geometry.pixel_axes()[::-1]
        scale, first = 1 / geometry.spacing, float(geometry.detector_axis()[0]) / geometry.spacing
        seen = pixels.sight(*axes, geometry.directions(), scale, first, None)
        return pixels.backproject_plane(filtered, seen, geometry.shape)
    padded = torch.nn.functional.pad(filtered, (1, 1))
    origin, last = float(geometry.detector_axis()[0]), geometry.detectors + 1

    image = filtered.new_zeros(batch, len(y) * len(x))
    together = max(1, BLOCK // (batch * len(y) * len(x)))
    for first in range(0, views, together):
        block = slice(first, first + together)
        position = (x * cos[block] + y[:, None] * sin[block] - origin) / geometry.spacing + 1
        position = position.clamp_(0, last).flatten(1)
        left = position.long().clamp_max_(last - 1)
        fraction = (position - left).to(filtered.dtype)
        left = left.expand(batch, *left.shape)
        ends = padded[:, block].gather(2, left), padded[:, block].gather(2, left + 1)
        image = image + torch.lerp(*ends, fraction).sum(1)
    return image.reshape(batch, len(y), len(x))


def angular_weights(degrees: np.ndarray, period: float = 180.0) -> np.ndarray:
    """Return the arc in radians that each angle stands for: half of the gaps to its neighbours, modulo `period`.

    The largest gap counts as a missing wedge where it exceeds four times the mean of the others: the angles at its
    ends then stand for an ordinary gap there. A full set of parallel beams sums to pi; a limited arc to that arc.
    """
    folded = np.asarray(degrees, float).ravel() % period
    order = np.argsort(folded, kind="stable")
    gaps = np.diff(folded[order], append=folded[order[0]] + period)
    widest = int(np.argmax(gaps))
    others = np.delete(gaps, widest)
    others = others[others > 1e-6]
    if len(others) and gaps[widest] > 4 * others.mean():
        gaps[widest] = others.mean()
    weights = np.empty_like(gaps)
    weights[order] = np.radians(gaps + np.roll(gaps, 1)) / 2
    return weights
