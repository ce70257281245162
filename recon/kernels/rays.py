"""Rays through an image, as Joseph's method walks them.

Coordinates in pixels, the origin at the image's centre: x to the right, y up. A ray that is at most 45 degrees off the
vertical walks along the rows (axis 0), any other along the columns (axis 1). At line r of its axis it is at position
start + r slope across it, and takes

    (1 - f) p[i] + f p[i + 1],    i = floor(position),    f = position - i

of that line's pixels, which are zero outside; height is the length of the ray between two lines.
Source: P. M. Joseph, IEEE Trans. Med. Imaging 1(3), 1982.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Entries: TypeAlias = Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]
SEGMENT = np.dtype([("view", "l"), ("first", "l"), ("last", "l"), ("axis", "i"), ("rising", "i")])


@dataclass(frozen=True, eq=False)
class Rays:
    """Rays of a scan, numbered view * detectors + detector.

    shape: (Y, X) of the image.  axis, start, slope, height: of each ray, (views, detectors); height in the unit of the
    line integrals.  rising: whether positions grow with the detector, of the rays at hand, (views, detectors).
    """

    shape: tuple[int, int]
    axis: np.ndarray
    start: np.ndarray
    slope: np.ndarray
    height: np.ndarray
    rising: np.ndarray

    @property
    def views(self) -> int:
        """Number of views."""
        return self.start.shape[0]

    @property
    def detectors(self) -> int:
        """Number of detectors in a view."""
        return self.start.shape[1]

    @property
    def pixels(self) -> int:
        """Number of pixels of the image."""
        return self.shape[0] * self.shape[1]

    @property
    def rays_per_view(self) -> int:
        """Number of rays in a view."""
        return self.detectors

    def most_entries(self) -> int:
        """Return a bound on the stored entries of the projection matrix."""
        return 2 * self.views * self.detectors * max(self.shape)

    def pitch(self) -> np.ndarray:
        """Return the distance of rays along a line, in pixels, of each view whose rays are parallel; else 0."""
        gaps = np.abs(np.diff(self.start, axis=1))
        if not gaps.size:
            return np.zeros(self.views)
        mean = gaps.mean(1)
        even = np.ptp(gaps, axis=1) <= 1e-9 * (1 + np.abs(self.start).max(1))
        parallel = (np.ptp(self.slope, axis=1) == 0) & (np.ptp(self.axis, axis=1) == 0)
        return np.where(even & parallel, mean, 0.0)

    def segments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return neighbouring rays of one view, axis and direction as (n,) records, and each view's first, (V + 1,)."""
        same = (np.diff(self.axis, axis=1) == 0) & (np.diff(self.rising, axis=1) == 0)
        starts = np.concatenate([np.ones((self.views, 1), bool), ~same], axis=1)
        view, first = np.nonzero(starts)
        found = np.empty(len(view), SEGMENT)
        found["view"], found["first"] = view, first
        ends = np.append(first[1:], 0)
        found["last"] = np.where(ends == 0, self.detectors, ends)
        found["axis"], found["rising"] = self.axis[view, first], self.rising[view, first]
        return found, np.searchsorted(view, np.arange(self.views + 1)).astype("l")

    def entries(self, first: int, last: int) -> Entries:
        """Yield (ray, pixel, weight) of all entries of the projection matrix for views first .. last - 1, float64.

        Pixels are numbered row * X + column, rays from the first view.
        """
        rows, columns = self.shape
        number = np.arange((last - first) * self.detectors)
        for axis, width, across, along in ((0, columns, 1, columns), (1, rows, columns, 1)):
            chosen = self.axis[first:last].ravel() == axis
            start, slope, height = (v[first:last].ravel()[chosen] for v in (self.start, self.slope, self.height))
            rays = number[chosen]
            for line in range(self.shape[axis]):
                for pixel, weight in _between(start + line * slope, width):
                    kept = weight > 0
                    yield rays[kept], pixel[kept] * across + line * along, (weight * height)[kept]


@dataclass(frozen=True, eq=False)
class ConeRays:
    """Rays of a cone beam, numbered (view * rows + row) * columns + column of the detector.

    plane: the rays of each column within the slices; at line r of its axis, row j is at slice
    centre + (depth + r deepening) (lowest + j pitch), with lowest and pitch in slices at the detector.
    tilt: distance of slices over that of the detector, so that a ray is longer by
        sqrt(1 + ((lowest + j pitch) tilt)^2).
    """

    plane: Rays
    slices: int
    rows: int
    centre: float
    lowest: float
    pitch: float
    depth: np.ndarray
    deepening: np.ndarray
    tilt: np.ndarray

    @property
    def views(self) -> int:
        """Number of views."""
        return self.plane.views

    @property
    def pixels(self) -> int:
        """Number of voxels of the volume."""
        return self.slices * self.plane.pixels

    @property
    def rays_per_view(self) -> int:
        """Number of rays in a view."""
        return self.rows * self.plane.detectors

    def most_entries(self) -> int:
        """Return a bound on the stored entries of the projection matrix."""
        return 2 * self.rows * self.plane.most_entries()

    def entries(self, first: int, last: int) -> Entries:
        """Yield (ray, voxel, weight) of all entries of the projection matrix for views first .. last - 1, float64.

        Voxels are numbered (slice * Y + row) * X + column, rays from the first view.
        """
        plane, columns = self.plane, self.plane.detectors
        view, column = (v.ravel() for v in np.indices((last - first, columns)))
        parts = (plane.start, plane.slope, plane.height, self.depth, self.deepening, self.tilt)
        of = [v[first:last].ravel() for v in (plane.axis, *parts)]
        rise = self.lowest + self.pitch * np.arange(self.rows)
        for axis, width, across, along in (
            (0, plane.shape[1], 1, plane.shape[1]),
            (1, plane.shape[0], plane.shape[1], 1),
        ):
            chosen = of[0] == axis
            start, slope, height, depth, deepening, tilt = (v[chosen] for v in of[1:])
            rays = (view[chosen, None] * self.rows + np.arange(self.rows)) * columns + column[chosen, None]
            length = height[:, None] * np.sqrt(1 + (rise * tilt[:, None]) ** 2)
            for line in range(plane.shape[axis]):
                above = self.centre + (depth + line * deepening)[:, None] * rise
                for pixel, weight in _between(start + line * slope, width):
                    for level, part in _between(above, self.slices):
                        all_of = part * weight[:, None]
                        kept = all_of > 0
                        at = level * plane.pixels + (pixel * across + line * along)[:, None]
                        yield rays[kept], at[kept], (all_of * length)[kept]


def _between(position: np.ndarray, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield index and weight of the point on either side of each position, of `count`; weight 0 where there is none."""
    held = np.clip(position, -2, count + 1)
    below = np.floor(held)
    for index, weight in ((below, below + 1 - held), (below + 1, held - below)):
        inside = (index >= 0) & (index < count)
        yield np.where(inside, index, 0).astype(np.int64), np.where(inside, weight, 0.0)


def trace(shape: tuple[int, int], point: np.ndarray, direction: np.ndarray, pixel_size: float) -> Rays:
    """Return the rays through `point` along `direction`, both (2, views, detectors): x and y, in pixels.

    Those of a view must be parallel, or leave a source outside the image in order of their angle.
    pixel_size: the length of a pixel's edge, in the unit of the line integrals.
    """
    (x, y), (dx, dy) = point, direction
    half_y, half_x = ((n - 1) / 2 for n in shape)
    down = np.abs(dy) >= np.abs(dx)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        right, up = np.where(down, dx / dy, 0.0), np.where(down, 0.0, dy / dx)
    start = np.where(down, x + (half_y - y) * right + half_x, half_y - y + (half_x + x) * up)
    slope = np.where(down, -right, -up)
    height = pixel_size * np.sqrt(1 + slope**2)
    axis = np.where(down, 0, 1).astype(np.uint8)
    axis, start, slope, height = np.broadcast_arrays(axis, start, slope, height)
    return Rays(shape, axis, start, slope, height, _rising(shape, axis, start, slope))


def _rising(shape: tuple[int, int], axis: np.ndarray, start: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Return whether positions grow with the detector where the rays pass the image's centre, in front of a source."""
    length, width = np.where(axis == 0, shape[0], shape[1]), np.where(axis == 0, shape[1], shape[0])
    nearest = (length - 1) / 2 - (start + slope * (length - 1) / 2 - (width - 1) / 2) * slope / (1 + slope**2)
    line = np.clip(nearest, 0, length - 1)
    if start.shape[1] == 1:
        return np.ones(start.shape, np.uint8)
    ahead = start[:, 1:] - start[:, :-1] + (slope[:, 1:] - slope[:, :-1]) * line[:, 1:]
    same = axis[:, 1:] == axis[:, :-1]
    forward = np.concatenate([ahead[:, :1], ahead], axis=1)  # from the left neighbour, or else to the right one
    alone = np.concatenate([[[False]] * len(axis), same], axis=1)
    backward = np.concatenate([ahead, ahead[:, -1:]], axis=1)
    return (np.where(alone, forward, backward) >= 0).astype(np.uint8)
