"""What the kernels are told of a scan: positions in fixed point, and where to look for the rays that meet a pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from recon.errors import ResourceError
from recon.kernels.parallel import ParallelGeometry, directions
from recon.kernels.rays import Rays
from recon.kernels.scans import ConeGeometry, FanGeometry

BITS = 48
MISS = -(2**62)  # the position of a ray that meets no pixel, 2^14 left of the image
LONGEST = 10_000  # pixels along a side: with this many lines, a ray that misses stays outside
FINEST, WIDEST = 2.0**-10, 2.0**10  # distance of parallel rays along a line, in pixels
SLACK = 0.02  # of a place along the detector, in detectors: far above float32's rounding


@dataclass(frozen=True, eq=False)
class ParallelTables:
    """Of the parallel-beam kernel, see `backproject_parallel`. neighbours: most rays of a view that meet a pixel."""

    lines: np.ndarray
    scales: np.ndarray
    places: np.ndarray
    neighbours: int


@dataclass(frozen=True, eq=False)
class FanTables:
    """Of the fan-beam kernel, see `backproject_fan`."""

    poses: np.ndarray
    curve: np.ndarray


def fixed(position: np.ndarray | float) -> np.ndarray:
    """Return positions in fixed point, int64, rounded."""
    return np.rint(np.asarray(position) * 2.0**BITS).astype(np.int64)


def slopes(rays: Rays) -> np.ndarray:
    """Return slopes in fixed point with the axis as last bit, (views, detectors)."""
    return (fixed(rays.slope) & ~1) | rays.axis


def starts(rays: Rays) -> np.ndarray:
    """Return positions at line 0 in fixed point, MISS where a ray meets no pixel, (views, detectors)."""
    meets = meeting(rays)
    return np.where(meets, fixed(np.where(meets, rays.start, 0)), MISS)


def meeting(rays: Rays) -> np.ndarray:
    """Return whether each ray meets a pixel's neighbourhood, (views, detectors)."""
    rows, columns = rays.shape
    ends = rays.start, rays.start + rays.slope * (np.where(rays.axis == 0, rows, columns) - 1)
    return (np.maximum(*ends) > -1) & (np.minimum(*ends) < np.where(rays.axis == 0, columns, rows))


def check_size(shape: tuple[int, ...]) -> None:
    """Raise ResourceError for an image that fixed point does not reach across."""
    if max(shape) > LONGEST:
        raise ResourceError(
            f"the Triton projectors reach across {LONGEST} pixels, the image is {' x '.join(map(str, shape))}",
            "set RECON_KERNELS = reference",
        )


def parallel_tables(geometry: ParallelGeometry, rays: Rays) -> tuple[ParallelTables, np.ndarray]:
    """Return the tables of parallel beams, and `starts` of rays that are evenly spaced in fixed point.

    Raises ResourceError where rays are too close or too far apart.
    """
    views, detectors = rays.start.shape
    view, meets = np.arange(views), meeting(rays)
    count = meets.sum(1)
    low, high = meets.argmax(1), detectors - 1 - meets[:, ::-1].argmax(1)
    gap = (rays.start[:, -1] - rays.start[:, 0]) / max(1, detectors - 1) if detectors > 1 else np.ones(views)
    pitch = np.where(count > 1, np.abs(gap), 1.0)
    if not (FINEST <= pitch.min() and pitch.max() <= WIDEST):
        raise ResourceError(
            f"the Triton projectors take rays {FINEST:g} to {WIDEST:g} pixels apart, these are {geometry.spacing:g}",
            "set RECON_KERNELS = reference",
        )
    first, towards = np.where(gap < 0, high, low), np.where(gap < 0, -1, 1)
    origin = fixed(np.where(count > 0, rays.start[view, first], 0))
    along = (np.arange(detectors) - first[:, None]) * towards[:, None]
    placed = np.where(meets, origin[:, None] + along * fixed(pitch)[:, None], MISS)
    tables = ParallelTables(
        np.stack([origin, fixed(pitch), slopes(rays)[:, 0]], 1),
        np.stack([1 / pitch, rays.height[:, 0]], 1),
        np.stack([first, towards, count], 1).astype(np.int32),
        math.ceil(2 / pitch.min() - 1e-9),
    )
    return tables, placed


def fan_tables(geometry: FanGeometry, rays: Rays) -> FanTables:
    """Return the tables of fan beams."""
    cos, sin = directions(geometry.angles)
    half_y, half_x = ((n - 1) / 2 for n in geometry.shape)
    distance, per_length = geometry.source_distance / geometry.pixel_size, geometry.detector_distance / geometry.pitch
    poses = (half_y * sin - half_x * cos, -sin, cos, half_y * cos + half_x * sin + distance, -cos, -sin)
    middle = (geometry.detectors - 1) / 2 - geometry.offset / geometry.pitch
    angles = geometry.fan_angles()[meeting(rays).any(0)]
    widest = float(np.abs(angles).max()) if angles.size else 0.0
    if geometry.curved:
        closest = max(1.0, distance - math.hypot(half_y, half_x))
        off = math.asin(1 / closest)  # most that a ray within a pixel of a point is seen beside it
        series, error = half_angle_series(min(widest + off, 2.8))
        spread = closest * off
    else:
        series, error, spread = np.eye(6)[0], 0.0, 1 / math.cos(widest)
    slack = SLACK + per_length * error
    curve = np.concatenate([[middle], per_length * series, [per_length * spread, slack]])
    return FanTables(np.stack(poses, 1).astype(np.float32), curve.astype(np.float32))


def half_angle_series(widest: float) -> tuple[np.ndarray, float]:
    """Return c_1 .. c_6 of gamma = h (c_1 + c_2 h^2 + ...), h = tan(gamma/2), for |gamma| <= widest, and its error."""
    top = math.tan(widest / 2)
    h = top * np.sin((np.arange(64) + 0.5) * math.pi / 128)
    scaled, *_ = np.linalg.lstsq((h / top)[:, None] ** (2 * np.arange(6) + 1), 2 * np.arctan(h), rcond=None)
    series = scaled / top ** (2 * np.arange(6) + 1.0)
    h = np.linspace(0, top, 1001)
    return series, float(np.abs(np.polynomial.Polynomial(series)(h**2) * h - 2 * np.arctan(h)).max())


def stack_table(geometry: ConeGeometry) -> np.ndarray:
    """Return centre, lowest, pitch and the largest lambda, see `lambda_at`, (4,).

    Raises ResourceError where slices lie too far from the source's for fixed point.
    """
    centre, pitch = (geometry.shape[0] - 1) / 2, geometry.pitch[0] / geometry.slice_distance
    lowest = float(geometry.row_axis()[0]) / geometry.slice_distance
    highest = max(abs(lowest), abs(lowest + pitch * geometry.detectors[0]))
    far = LONGEST / highest
    radius = geometry.pixel_size * math.hypot(*(n + 1 for n in geometry.shape[1:])) / 2
    if (geometry.source_distance + radius) / geometry.detector_distance > far:
        raise ResourceError(
            f"the Triton projectors reach across {LONGEST} slices, the rays leave the volume further away",
            "set RECON_KERNELS = reference",
        )
    return np.array([centre, lowest, pitch, far])
