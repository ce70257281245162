"""Circular cone-beam tomography: line integrals of a volume from a point source to a flat detector; coordinates as in
`recon.kernels.scans`, lengths in mm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from recon.errors import ConfigError
from recon.kernels.point_source import cone_backprojection
from recon.kernels.scans import ConeGeometry
from recon.operators.base import LinearOperator
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

KIND = "ct-cone"
STEEPEST = 45.0  # degrees to the slices: beyond, a ray would skip slices


@final
@dataclass(frozen=True)
class ConeParams:
    """Parameters of a circular cone-beam scan with a flat detector; lengths in mm.

    angles, start, arc: as for `ct-fan`.
    detector_rows, detector_columns: their numbers (None: enough for the cylinder around the volume).
    row_pitch, column_pitch: their distances (None: a voxel's edges, magnified).  row_offset, column_offset: shift of
        the detector's centre along z and across.
    source_distance: from source to axis of rotation (None: twice the diagonal of a slice, or of the volume's height
        where that is more).  detector_distance: from source to detector (None: one and a half times that).
    pixel_size, slice_distance: voxel's edges within a slice, and along z.
    allow_truncation: accept a detector that does not see the entire volume.
    memory_gb: as for `ct`.
    """

    angles: int | None = None
    start: float = 0.0
    arc: float = 360.0
    detector_rows: int | None = None
    detector_columns: int | None = None
    row_pitch: float | None = None
    column_pitch: float | None = None
    row_offset: float = 0.0
    column_offset: float = 0.0
    source_distance: float | None = None
    detector_distance: float | None = None
    pixel_size: float = 1.0
    slice_distance: float = 1.0
    allow_truncation: bool = False
    memory_gb: float = 4.0

    def __post_init__(self) -> None:
        given = (
            "detector_rows",
            "detector_columns",
            "row_pitch",
            "column_pitch",
            "source_distance",
            "detector_distance",
        )
        positive = {name: getattr(self, name) for name in given if getattr(self, name) is not None}
        positive |= {name: getattr(self, name) for name in ("pixel_size", "slice_distance", "memory_gb")}
        check_scan(KIND, self, positive, {"row_offset": self.row_offset, "column_offset": self.column_offset})


def _geometry(params: ConeParams, in_shape: tuple[int, ...], arrays: Arrays) -> ConeGeometry:
    """Check the scan and return it. Raises InputError on a bad array, ConfigError where the scan cannot be meant."""
    if len(in_shape) != 4 or in_shape[0] != 1 or min(in_shape) < 1:
        raise ConfigError(
            f"operator '{KIND}' expects a volume of shape (1, Z, Y, X), got {in_shape}", "use ct or ct-fan for images"
        )
    shape = (in_shape[1], in_shape[2], in_shape[3])
    angles = checked_angles(KIND, arrays)
    radius, half_height = params.pixel_size * math.hypot(*shape[1:]) / 2, params.slice_distance * shape[0] / 2
    source = params.source_distance or 4 * max(radius, half_height)
    detector = params.detector_distance or 1.5 * source
    check_source(KIND, source, detector, params.pixel_size * interpolated_radius(shape[1:]))
    row_pitch = params.row_pitch or params.slice_distance * detector / source
    column_pitch = params.column_pitch or params.pixel_size * detector / source
    up = half_height * detector / (source - radius) + abs(params.row_offset)
    across = detector * math.tan(math.asin(radius / source)) + abs(params.column_offset)
    enough = math.ceil(2 * up / row_pitch - 1e-9), math.ceil(2 * across / column_pitch - 1e-9)
    geometry = ConeGeometry(
        shape,
        angles,
        (params.detector_rows or enough[0], params.detector_columns or enough[1]),
        (row_pitch, column_pitch),
        source,
        detector,
        params.pixel_size,
        params.slice_distance,
        (params.row_offset, params.column_offset),
    )
    if geometry.steepest() > STEEPEST:
        raise ConfigError(
            f"operator '{KIND}': rays are up to {geometry.steepest():.0f} degrees steep, more than {STEEPEST:.0f}",
            "move the source away, or use fewer detector rows with allow_truncation = true",
        )
    rows, columns = geometry.detectors
    check_coverage(
        KIND,
        geometry.overhang(),
        params.allow_truncation,
        f"{rows}x{columns} detectors of pitch {row_pitch:g}x{column_pitch:g} mm",
        "mm on the detector",
        f"leave them out or use {enough[0]}x{enough[1]}",
    )
    return geometry


def _draw(params: ConeParams, in_shape: tuple[int, ...], rng: np.random.Generator, given: Arrays) -> Arrays:
    angles = {"angles": drawn_angles(KIND, params, given, 360)}
    return {"angles": _geometry(params, in_shape, angles).angles} | given_mask(given)


def _build(params: ConeParams, in_shape: tuple[int, ...], arrays: Arrays) -> LinearOperator:
    transform = RayTransform(_geometry(params, in_shape, arrays), cone_backprojection, params.memory_gb)
    return with_mask(KIND, transform, arrays)


FAMILY = Family(kind=KIND, params=ConeParams, draw=_draw, build=_build, arrays=ARRAYS, volume=True)
