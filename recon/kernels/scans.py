"""Scans with a point source: fan beams in a plane, and circular cone beams.

At angle theta the source is at -R (-sin theta, cos theta), with R the source's distance from the axis of rotation, the
image's centre: rays leave it towards the detector on the other side, so that theta = 0 looks up along the columns like
the parallel beam's, and a distant source gives the parallel beam's rays. Lengths are in mm; x to the right, y up, z
with the slices' number; theta grows counter-clockwise.

Detector m of a flat detector is at u_m = (m - (n - 1)/2) pitch + offset on the line at distance D from the source,
along (cos theta, sin theta); on a curved one u_m is an arc's length about the source.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from recon.kernels.parallel import directions
from recon.kernels.rays import ConeRays, Rays, trace


@dataclass(frozen=True, eq=False)
class FanGeometry:
    """A fan-beam scan of an image (Y, X).

    angles: in degrees, (n,).  detectors: their number.  pitch: their distance.  offset: shift of the detector's centre
    along it.  source_distance: R, from source to axis.  detector_distance: D, from source to detector.  pixel_size: of
    the image.  curved: whether the detector is an arc about the source.  Lengths in mm.
    """

    shape: tuple[int, int]
    angles: np.ndarray
    detectors: int
    pitch: float
    source_distance: float
    detector_distance: float
    pixel_size: float = 1.0
    offset: float = 0.0
    curved: bool = False

    @property
    def in_shape(self) -> tuple[int, ...]:
        """(Y, X)."""
        return self.shape

    @property
    def out_shape(self) -> tuple[int, ...]:
        """(views, detectors)."""
        return len(self.angles), self.detectors

    def detector_axis(self) -> np.ndarray:
        """Return the detectors' coordinates u, in mm, (detectors,)."""
        return (np.arange(self.detectors) - (self.detectors - 1) / 2) * self.pitch + self.offset

    def fan_angles(self) -> np.ndarray:
        """Return the angle of each detector's ray to the central one, in radians, (detectors,)."""
        u = self.detector_axis() / self.detector_distance
        return u if self.curved else np.arctan(u)

    def rays(self) -> Rays:
        """Return the rays, in pixels."""
        cos, sin = (part[:, None] for part in directions(self.angles))
        across, along = np.sin(self.fan_angles()), np.cos(self.fan_angles())
        distance = self.source_distance / self.pixel_size
        source = np.stack(np.broadcast_arrays(distance * sin, -distance * cos + 0 * across))
        return trace(
            self.shape, source, np.stack([across * cos - along * sin, across * sin + along * cos]), self.pixel_size
        )

    def overhang(self) -> float:
        """Return how far the circle around the pixel centres reaches beyond the detector, in mm (<= 0: nowhere)."""
        radius = self.pixel_size * math.hypot(*(n - 1 for n in self.shape)) / 2
        half = math.asin(min(1.0, radius / self.source_distance))
        reach = self.detector_distance * (half if self.curved else math.tan(half))
        u = self.detector_axis()
        return max(reach - (u[-1] + self.pitch / 2), reach + (u[0] - self.pitch / 2))


@dataclass(frozen=True, eq=False)
class ConeGeometry:
    """A circular cone-beam scan of a volume (Z, Y, X) with a flat detector; the source circles in the middle slice.

    angles: in degrees, (n,).  detectors: rows (along z) and columns.  pitch, offset: of rows and columns.
    source_distance: R, from source to axis.  detector_distance: D, from source to detector.  pixel_size: within a
    slice.  slice_distance: between slices.  Lengths in mm.
    """

    shape: tuple[int, int, int]
    angles: np.ndarray
    detectors: tuple[int, int]
    pitch: tuple[float, float]
    source_distance: float
    detector_distance: float
    pixel_size: float = 1.0
    slice_distance: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)

    @property
    def in_shape(self) -> tuple[int, ...]:
        """(Z, Y, X)."""
        return self.shape

    @property
    def out_shape(self) -> tuple[int, ...]:
        """(views, detector rows, detector columns)."""
        return len(self.angles), *self.detectors

    def fan(self) -> FanGeometry:
        """Return the scan of the middle slice."""
        return FanGeometry(
            self.shape[1:],
            self.angles,
            self.detectors[1],
            self.pitch[1],
            self.source_distance,
            self.detector_distance,
            self.pixel_size,
            self.offset[1],
        )

    def row_axis(self) -> np.ndarray:
        """Return the detector rows' coordinates v along z, in mm, (rows,)."""
        return (np.arange(self.detectors[0]) - (self.detectors[0] - 1) / 2) * self.pitch[0] + self.offset[0]

    def rays(self) -> ConeRays:
        """Return the rays, in pixels and slices."""
        fan = self.fan()
        plane, u, (cos, sin) = fan.rays(), fan.detector_axis(), directions(self.angles)
        half_y, half_x = ((n - 1) / 2 for n in self.shape[1:])
        distance = self.source_distance / self.pixel_size
        # the source's line and the lines that a ray crosses from source to detector, along the axis it walks
        span = (u * cos[:, None] - self.detector_distance * sin[:, None]) / self.pixel_size
        down = -(u * sin[:, None] + self.detector_distance * cos[:, None]) / self.pixel_size
        crossed = np.where(plane.axis == 0, down, span)
        source = np.where(plane.axis == 0, (half_y + distance * cos)[:, None], (half_x + distance * sin)[:, None])
        tilt = np.broadcast_to(self.slice_distance / np.hypot(u, self.detector_distance), crossed.shape)
        return ConeRays(
            plane,
            self.shape[0],
            self.detectors[0],
            (self.shape[0] - 1) / 2,
            float(self.row_axis()[0]) / self.slice_distance,
            self.pitch[0] / self.slice_distance,
            -source / crossed,
            1 / crossed,
            tilt,
        )

    def overhang(self) -> float:
        """Return how far the volume's inscribed cylinder reaches beyond the detector, in mm (<= 0: nowhere)."""
        radius = self.pixel_size * math.hypot(*(n - 1 for n in self.shape[1:])) / 2
        half = self.slice_distance * (self.shape[0] - 1) / 2
        reach = half * self.detector_distance / max(1e-9, self.source_distance - radius)
        v = self.row_axis()
        rows = max(reach - (v[-1] + self.pitch[0] / 2), reach + (v[0] - self.pitch[0] / 2))
        return max(self.fan().overhang(), rows)

    def steepest(self) -> float:
        """Return the largest angle of a ray to the slices, in degrees."""
        return math.degrees(math.atan(float(np.abs(self.row_axis()).max()) / self.detector_distance))
