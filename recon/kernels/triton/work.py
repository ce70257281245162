"""How much the projectors' kernels move and compute at least: what a roofline is made of.

Bytes: images, data and tables, each read or written once, in float32. Operations: additions, multiplications, divisions
and roots of floating-point numbers as the kernels do them, without the whole-number arithmetic of positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from recon.kernels.parallel import ParallelGeometry
from recon.kernels.scans import ConeGeometry, FanGeometry

MEETING = 3  # rays of a fan that are tried for a pixel, where detectors are about a pixel apart at the axis
STACKED = 4  # rows of a cone's detector that are tried for a voxel, likewise
ROWS, SLICES = 16, 8  # of a cone's detector and volume, that share the work within a slice


@dataclass(frozen=True)
class Work:
    """Bytes between memory and chip, and floating-point operations."""

    bytes: float
    flops: float

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.flops / self.bytes

    def seconds(self, bandwidth: float, peak: float) -> float:
        """Return the least time on a chip of so many bytes and operations a second."""
        return max(self.bytes / bandwidth, self.flops / peak)


def forward_work(geometry: ParallelGeometry | FanGeometry | ConeGeometry, batch: int = 1) -> Work:
    """Return the work of one projection of a batch."""
    rays, lines = prod(geometry.out_shape), max(geometry.in_shape[-2:])
    moved = 4.0 * batch * (prod(geometry.in_shape) + rays)
    if isinstance(geometry, ConeGeometry):
        columns = rays / geometry.detectors[0]
        return Work(moved + 48.0 * columns, float(rays) * lines * (12 + 10 / ROWS) * batch)
    return Work(moved + 24.0 * rays, float(rays) * lines * (1 + 4 * batch))


def adjoint_work(geometry: ParallelGeometry | FanGeometry | ConeGeometry, batch: int = 1, neighbours: int = 2) -> Work:
    """Return the work of one gathered backprojection of a batch.

    neighbours: rays of a view that are tried for a pixel, where beams are parallel.
    """
    views, rays, pixels = geometry.out_shape[0], prod(geometry.out_shape), prod(geometry.in_shape)
    moved, met = 4.0 * batch * (pixels + rays), float(views) * pixels
    if isinstance(geometry, ConeGeometry):
        columns = rays / geometry.detectors[0]
        tried = 10 + STACKED * 4
        return Work(moved + 32.0 * columns, met * batch * (MEETING * tried + (13 + 15 * MEETING) / SLICES))
    if isinstance(geometry, FanGeometry):
        return Work(moved + 16.0 * rays, met * ((27 if geometry.curved else 13) + MEETING * (2 + 2 * batch)))
    return Work(moved + 52.0 * views, met * (8 + 2 * batch + neighbours * (2 + 2 * batch)))


def weighing_work(geometry: ConeGeometry, batch: int = 1) -> Work:
    """Return the work of multiplying data by the lengths of their rays between two lines."""
    rays = prod(geometry.out_shape)
    return Work(8.0 * batch * rays, 8.0 * batch * rays)
