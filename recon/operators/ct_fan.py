"""Fan-beam tomography: line integrals from a point source to a flat or curved detector; coordinates as in
`recon.kernels.scans`, lengths in mm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from recon.errors import ConfigError
from recon.kernels.point_source import fan_backprojection
from recon.kernels.scans import FanGeometry
from recon.operators.base import LinearOperator
from recon.operators.checks import image_size
from recon.operators.family import Arrays, Family
from recon.operators.tomography import (
    ARRAYS,
    RayTransform,
    check_coverage,
    check_scan,
    check_source,
    checked_angles,
    drawn_angles,
    given_mask,
    interpolated_radius,
    with_mask,
)

KIND = "ct-fan"


@final
@dataclass(frozen=True)
class FanParams:
    """Parameters of a fan-beam scan; lengths in mm.

    angles: number of views, evenly spaced from `start` over `arc`, whose end is left out (None: 360, or as many as the
        array `angles` has; with that array, start and arc do not count).  start, arc: in degrees.
    detectors: their number (None: enough for the circle around the image).
    detector_pitch: their distance (None: a pixel's edge, magnified).  detector_offset: shift of their centre along the
        detector, as a centre of rotation that is off asks for.
    source_distance: from source to axis of rotation (None: twice the image's diagonal).
    detector_distance: from source to detector (None: one and a half times that).
    curved: whether the detector is an arc about the source.
    pixel_size: length of a pixel's edge; line integrals are in mm times the image's unit.
    allow_truncation: accept a detector that does not see the entire image.
    memory_gb: as for `ct`.
    """

    angles: int | None = None
    start: float = 0.0
    arc: float = 360.0
    detectors: int | None = None
    detector_pitch: float | None = None
    detector_offset: float = 0.0
    source_distance: float | None = None
    detector_distance: float | None = None
    curved: bool = False
    pixel_size: float = 1.0
    allow_truncation: bool = False
    memory_gb: float = 4.0

    def __post_init__(self) -> None:
        given = ("detectors", "detector_pitch", "source_distance", "detector_distance")
        positive = {name: getattr(self, name) for name in given if getattr(self, name) is not None}
        positive |= {"pixel_size": self.pixel_size, "memory_gb": self.memory_gb}
        check_scan(KIND, self, positive, {"detector_offset": self.detector_offset})


def _geometry(params: FanParams, in_shape: tuple[int, ...], arrays: Arrays) -> FanGeometry:
    """Check the scan and return it. Raises InputError on a bad array, ConfigError where the scan cannot be meant."""
    shape = image_size(KIND, in_shape)
    if len(in_shape) != 3 or in_shape[0] != 1:
        raise ConfigError(
            f"operator '{KIND}' expects an image of shape (1, Y, X), got {in_shape}", "choose one channel"
        )
    angles = checked_angles(KIND, arrays)
    radius = params.pixel_size * math.hypot(*shape) / 2
    source = params.source_distance or 4 * radius
    detector = params.detector_distance or 1.5 * source
    check_source(KIND, source, detector, params.pixel_size * interpolated_radius(shape))
    pitch = params.detector_pitch or params.pixel_size * detector / source
    half = math.asin(radius / source)
    reach = detector * (half if params.curved else math.tan(half)) + abs(params.detector_offset)
    enough = math.ceil(2 * reach / pitch - 1e-9)
    geometry = FanGeometry(
        shape,
        angles,
        params.detectors or enough,
        pitch,
        source,
        detector,
        params.pixel_size,
        params.detector_offset,
        params.curved,
    )
    check_coverage(
        KIND,
        geometry.overhang(),
        params.allow_truncation,
        f"{geometry.detectors} detectors of pitch {pitch:g} mm at offset {params.detector_offset:g} mm",
        "mm on the detector",
        f"leave detectors out or use {enough}",
    )
    return geometry


def _draw(params: FanParams, in_shape: tuple[int, ...], rng: np.random.Generator, given: Arrays) -> Arrays:
    angles = {"angles": drawn_angles(KIND, params, given, 360)}
    return {"angles": _geometry(params, in_shape, angles).angles} | given_mask(given)


def _build(params: FanParams, in_shape: tuple[int, ...], arrays: Arrays) -> LinearOperator:
    transform = RayTransform(_geometry(params, in_shape, arrays), fan_backprojection, params.memory_gb)
    return with_mask(KIND, transform, arrays)


FAMILY = Family(kind=KIND, params=FanParams, draw=_draw, build=_build, arrays=ARRAYS)
