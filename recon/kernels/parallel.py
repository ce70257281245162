"""The parallel-beam projector as a sparse matrix (Joseph's method).

Coordinates, in pixels, with the origin at the image's centre: x to the right, y up. The ray of angle theta and
detector coordinate s is the line x cos(theta) + y sin(theta) = s: theta = 0 sums the columns, and theta grows
counter-clockwise. Detector m lies at s_m = (m - (n - 1)/2) spacing + offset.

Joseph's method steps along the axis that the ray follows most and interpolates linearly across it. Seen from a pixel
with projected centre s_p, its weight in ray m is a triangle:

    w = hat((s_m - s_p) / c) / c,    c = max(|cos theta|, |sin theta|),    hat(u) = max(0, 1 - |u|)

so the transposed matrix can be written down pixel by pixel, already sorted.
Source: P. M. Joseph, IEEE Trans. Med. Imaging 1(3), 1982.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from recon.errors import ResourceError
from recon.kernels.rays import Rays, trace

INDEX_LIMIT = 2**31 - 1


@dataclass(frozen=True, eq=False)
class ParallelGeometry:
    """A parallel-beam scan.

    shape: (Y, X) of the image.  angles: in degrees, (n_angles,).  detectors: their number.
    spacing: distance of detectors, in pixels.  offset: shift of the detector's centre along s, in pixels.
    pixel_size: length of a pixel's edge; line integrals are in this unit of length.
    """

    shape: tuple[int, int]
    angles: np.ndarray
    detectors: int
    spacing: float = 1.0
    offset: float = 0.0
    pixel_size: float = 1.0

    @property
    def in_shape(self) -> tuple[int, ...]:
        """(Y, X)."""
        return self.shape

    @property
    def out_shape(self) -> tuple[int, ...]:
        """(views, detectors)."""
        return len(self.angles), self.detectors

    def rays(self) -> Rays:
        """Return the rays, in pixels."""
        (cos, sin), s = (part[:, None] for part in directions(self.angles)), self.detector_axis()
        along = np.broadcast_arrays(-sin, cos, s)[:2]
        return trace(self.shape, np.stack([s * cos, s * sin]), np.stack(along), self.pixel_size)

    def directions(self) -> tuple[np.ndarray, np.ndarray]:
        """Return cos and sin of the angles, each (n_angles,), exact at multiples of 90 degrees."""
        return directions(self.angles)

    def pixel_axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the centres' coordinates: y of each row (upwards) and x of each column, in pixels."""
        rows, columns = self.shape
        return (rows - 1) / 2 - np.arange(rows), np.arange(columns) - (columns - 1) / 2

    def detector_axis(self) -> np.ndarray:
        """Return the detectors' coordinates s, in pixels, (detectors,)."""
        return (np.arange(self.detectors) - (self.detectors - 1) / 2) * self.spacing + self.offset

    def overhang(self) -> float:
        """Return how far pixel centres project beyond the outer detectors' edges, in pixels (<= 0: none do)."""
        cos, sin = self.directions()
        rows, columns = self.shape
        reach = float(np.max(np.abs(cos) * (columns - 1) / 2 + np.abs(sin) * (rows - 1) / 2))
        s = self.detector_axis()
        return max(reach - (s[-1] + self.spacing / 2), reach + (s[0] - self.spacing / 2))

    def entries(self) -> int:
        """Return the expected number of stored entries of the matrix (exact but for borders)."""
        cos, sin = self.directions()
        footprint = 2 * np.maximum(np.abs(cos), np.abs(sin)) / self.spacing
        return int(self.shape[0] * self.shape[1] * footprint.sum())

    def bytes_needed(self, itemsize: int = 4) -> int:
        """Return the memory of the matrix and its transpose, with 32-bit indices and `itemsize`-byte values."""
        rays, pixels = len(self.angles) * self.detectors, self.shape[0] * self.shape[1]
        return 2 * self.entries() * (itemsize + 4) + 4 * (rays + pixels)


def directions(degrees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return cos and sin of angles in degrees, each (n,), exact at multiples of 90."""
    cos, sin = (np.array([_cosd(a - shift) for a in np.asarray(degrees, float).ravel()]) for shift in (0, 90))
    return cos, sin


def projection_matrix(geometry: ParallelGeometry, dtype: type = np.float32) -> tuple[csr_matrix, csr_matrix]:
    """Return the matrix A (rays, pixels) and its transpose (pixels, rays), both CSR with sorted 32-bit indices.

    Rays are numbered angle * detectors + detector, pixels row * X + column. A x approximates the line integrals of an
    image that is linear between pixel centres and zero outside.
    Raises ResourceError where the entries cannot be counted in 32 bits.
    """
    if geometry.entries() > INDEX_LIMIT:
        raise ResourceError(
            f"the projection matrix would have {geometry.entries():.2e} entries, more than {INDEX_LIMIT:.2e}",
            "use fewer angles or detectors, or a smaller image",
        )
    cos, sin = geometry.directions()
    y, x = geometry.pixel_axes()
    width = np.maximum(np.abs(cos), np.abs(sin))
    inverse, height = (v.astype(dtype) for v in (geometry.spacing / width, geometry.pixel_size / width))
    first = np.arange(len(cos), dtype=np.int32) * np.int32(geometry.detectors)
    candidates = math.ceil(2 * float(width.max()) / geometry.spacing - 1e-9)

    block = (len(x), len(cos), candidates)
    weight: np.ndarray = np.empty(block, dtype)
    column = np.empty(block, np.int32)
    columns, values, counts = [], [], []
    across = np.multiply.outer(x, cos) - geometry.detector_axis()[0]
    for row in y:
        position = (across + row * sin) / geometry.spacing  # of each (pixel, angle), in detectors
        lowest = np.floor(position - width / geometry.spacing)
        gap = (lowest - position).astype(dtype)
        detector = lowest.astype(np.int32)
        for k in range(candidates):
            gap += 1
            detector += 1
            hat = (1 - np.abs(gap) * inverse) * height
            hat[(detector < 0) | (detector >= geometry.detectors)] = 0
            weight[..., k] = hat
            np.add(detector, first, out=column[..., k])
        keep = weight > 0
        columns.append(column[keep])
        values.append(weight[keep])
        counts.append(np.count_nonzero(keep.reshape(len(x), -1), axis=1))
    pointer = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int32)
    shape = (len(x) * len(y), len(cos) * geometry.detectors)
    transposed = csr_matrix((np.concatenate(values), np.concatenate(columns), pointer), shape=shape)
    by_ray = transposed.tocsc()
    return csr_matrix((by_ray.data, by_ray.indices, by_ray.indptr), shape=shape[::-1]), transposed


def _cosd(degrees: float) -> float:
    turns = degrees % 360.0
    quarter = {0.0: 1.0, 90.0: 0.0, 180.0: -1.0, 270.0: 0.0}
    return quarter[turns] if turns in quarter else math.cos(math.radians(turns))
