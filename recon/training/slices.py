"""Random planes cut out of volumes, for priors of slices at any orientation and pixel size.

Each crop: a random plane (near one of the three axes, or oblique), rotation, zoom, anisotropy, flip, centre in the
middle of the volume, gamma and gain; intensities in units of the volume's foreground quantile, mapped to [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates, spline_filter

from recon.training.intensity import foreground_quantile


@dataclass(frozen=True)
class SliceVolume:
    """A volume ready to be cut: intensities in [0, 1.2], cubic spline coefficients, voxel size in mm, weight."""

    values: np.ndarray
    spline: np.ndarray
    spacing: np.ndarray
    weight: float


def prepare_volume(array: np.ndarray, spacing: tuple[float, float, float], weight: float = 1.0) -> SliceVolume:
    """Normalise a volume (n0, n1, n2) with voxel sizes in mm by its foreground quantile."""
    values = np.clip(array.astype(np.float32) / foreground_quantile(array), 0, 1.2)
    return SliceVolume(values, spline_filter(values, order=3, output=np.float32), np.asarray(spacing), weight)


def random_crop(volumes: list[SliceVolume], size: int, rng: np.random.Generator) -> np.ndarray:
    """Return one augmented crop (size, size), float32, in [-1, 1.9]; nearly empty ones are mostly drawn again."""
    while True:
        crop = _cut(volumes, size, rng)
        if np.mean(crop > -0.8) > 0.15 or rng.random() < 0.1:
            return crop


def _cut(volumes: list[SliceVolume], size: int, rng: np.random.Generator) -> np.ndarray:
    weights = np.array([v.weight for v in volumes])
    volume = volumes[rng.choice(len(volumes), p=weights / weights.sum())]
    frame = _random_frame(rng)
    pixel = np.exp(rng.uniform(np.log(0.7), np.log(1.6)))
    stretch = np.exp(rng.uniform(np.log(0.85), np.log(1.18)) / 2)
    extent = volume.spacing * np.array(volume.values.shape)
    centre = extent / 2 + extent * rng.uniform(-0.35, 0.35, 3)
    ramp = np.arange(size) - (size - 1) / 2
    offsets = (
        frame[0][:, None, None] * (ramp * pixel * stretch)[None, :, None]
        + frame[1][:, None, None] * (ramp * pixel / stretch)[None, None, :]
    )
    points = (centre[:, None, None] + offsets) / volume.spacing[:, None, None] - 0.5
    if rng.random() < 0.3:
        crop = map_coordinates(volume.spline, points, order=3, prefilter=False, output=np.float32)
    else:
        crop = map_coordinates(volume.values, points, order=1, output=np.float32)
    gamma, gain = rng.uniform(0.7, 1.4), rng.uniform(0.8, 1.1)
    crop = gain * np.clip(crop, 0, 1.2) ** gamma
    return np.asarray(2 * crop - 1, dtype=np.float32)


def _random_frame(rng: np.random.Generator) -> np.ndarray:
    """Return two orthonormal in-plane directions (2, 3) of a random plane."""
    normal = np.zeros(3)
    normal[rng.integers(3)] = rng.choice([-1.0, 1.0])
    if rng.random() < 0.5:
        normal = normal + rng.normal(0, 0.3, 3)
        normal /= np.linalg.norm(normal)
    seed = np.eye(3)[np.argsort(np.abs(normal))[rng.integers(2)]]
    first = seed - normal * (seed @ normal)
    first /= np.linalg.norm(first)
    second = np.cross(normal, first) * rng.choice([-1.0, 1.0])
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else rng.normal(0, 0.2)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([c * first + s * second, -s * first + c * second])
