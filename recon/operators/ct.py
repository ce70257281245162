"""Parallel-beam tomography: line integrals of an image at given angles, or of each slice of a volume.

Coordinates, in pixels, with the origin at the image's centre: x to the right, y up. At angle theta, detector
coordinate s is the line x cos(theta) + y sin(theta) = s. Angle 0 sums the columns (rays run up and down, s grows with
x); angles grow counter-clockwise. Integrals are in units of pixel_size (1: pixels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from recon.errors import ConfigError
from recon.kernels.fbp import filtered_backprojection
from recon.kernels.parallel import ParallelGeometry
from recon.operators.base import LinearOperator
from recon.operators.checks import image_size
from recon.operators.ct_rotate import RotatedSums, frame_side
from recon.operators.family import Arrays, Family
from recon.operators.tomography import (
    ARRAYS,
    RayTransform,
    check_coverage,
    check_scan,
    checked_angles,
    drawn_angles,
    given_mask,
    with_mask,
)


@final
@dataclass(frozen=True)
class CTParams:
    """Parameters of a parallel-beam scan.

    angles: number of views, evenly spaced from `start` over `arc`, whose end is left out (None: 180, or as many as the
        array `angles` has; with that array, start and arc do not count).
    start, arc: in degrees; a limited angle is an arc below 180.
    detectors: their number (None: enough for the image's diagonal, odd or even like the image's longer side).
    detector_spacing, detector_offset: distance of detectors and shift of their centre along s, in pixels.
    pixel_size: length of a pixel's edge, the unit of the line integrals.
    allow_truncation: accept a detector that does not see the entire image.
    model: "joseph" (his method), or "rotate": square images are turned and their columns summed, as published with
        DiffusionMBIR and DDS; slower, and the image determines the detectors.
    memory_gb: largest projection matrix with its transpose that is stored where there are no compiled kernels, in GB;
        above it the matrix is built anew, block by block, for each product.
    """

    angles: int | None = None
    start: float = 0.0
    arc: float = 180.0
    detectors: int | None = None
    detector_spacing: float = 1.0
    detector_offset: float = 0.0
    pixel_size: float = 1.0
    allow_truncation: bool = False
    model: Literal["joseph", "rotate"] = "joseph"
    memory_gb: float = 4.0

    def __post_init__(self) -> None:
        positive = {name: getattr(self, name) for name in ("detector_spacing", "pixel_size", "memory_gb")}
        check_scan("ct", self, positive, {"detector_offset": self.detector_offset})
        if self.detectors is not None and self.detectors < 1:
            raise ConfigError(f"operator 'ct': detectors must be at least 1, got {self.detectors}")
        if self.model == "rotate" and (self.detector_spacing, self.detector_offset) != (1.0, 0.0):
            raise ConfigError(
                f"operator 'ct' with model = 'rotate' has detectors of spacing 1 at offset 0, got "
                f"{self.detector_spacing} and {self.detector_offset}",
                "leave them out, or use model = 'joseph'",
            )


def default_detectors(shape: tuple[int, int], spacing: float = 1.0, offset: float = 0.0) -> int:
    """Return the smallest number that covers the diagonal of the square around the image, with its side's parity."""
    side = max(shape)
    count = math.ceil((math.sqrt(2) * side + 2 * abs(offset)) / spacing - 1e-9)
    return count + (count - side) % 2


def _draw(params: CTParams, in_shape: tuple[int, ...], rng: np.random.Generator, given: Arrays) -> Arrays:
    angles = {"angles": drawn_angles("ct", params, given)}
    if params.model == "rotate":
        return {"angles": _rotated(params, in_shape, angles).angles} | given_mask(given)
    return {"angles": _geometry(params, in_shape, angles).angles} | given_mask(given)


def _build(params: CTParams, in_shape: tuple[int, ...], arrays: Arrays) -> LinearOperator:
    if params.model == "rotate":
        return with_mask("ct", _rotated(params, in_shape, arrays), arrays)
    slices = in_shape[1] if len(in_shape) == 4 else None
    geometry = _geometry(params, in_shape, arrays)
    return with_mask("ct", RayTransform(geometry, filtered_backprojection, params.memory_gb, slices), arrays)


def _geometry(params: CTParams, in_shape: tuple[int, ...], arrays: Arrays) -> ParallelGeometry:
    """Check the scan and return it. Raises InputError on a bad array, ConfigError where the scan cannot be meant."""
    shape = _size(in_shape)
    angles = checked_angles("ct", arrays)
    spacing, offset = params.detector_spacing, params.detector_offset
    enough = default_detectors(shape, spacing, offset)
    detectors = params.detectors or enough
    geometry = ParallelGeometry(shape, angles, detectors, spacing, offset, params.pixel_size)
    check_coverage(
        "ct",
        geometry.overhang(),
        params.allow_truncation,
        f"{detectors} detectors of spacing {spacing:g} at offset {offset:g}",
        f"pixels at the border of a {shape[0]}x{shape[1]} image",
        f"leave detectors out or use {enough}",
    )
    return geometry


def _rotated(params: CTParams, in_shape: tuple[int, ...], arrays: Arrays) -> RotatedSums:
    """Check the scan and return its operator. Raises as `_geometry` does."""
    rows, columns = _size(in_shape)
    if rows != columns:
        raise ConfigError(
            f"operator 'ct' with model = 'rotate' expects a square image, got {rows}x{columns}",
            "crop it, or use model = 'joseph'",
        )
    if params.detectors not in (None, frame_side(rows)):
        raise ConfigError(
            f"operator 'ct' with model = 'rotate' has {frame_side(rows)} detectors for {rows}x{rows} pixels, got "
            f"{params.detectors}",
            "leave detectors out",
        )
    return RotatedSums(in_shape, checked_angles("ct", arrays), params.pixel_size)


def _size(in_shape: tuple[int, ...]) -> tuple[int, int]:
    size = image_size("ct", in_shape)
    if len(in_shape) not in (3, 4) or in_shape[0] != 1:
        raise ConfigError(
            f"operator 'ct' expects an image of shape (1, Y, X) or (1, Z, Y, X), got {in_shape}", "choose one channel"
        )
    return size


def _reads_shape(params: CTParams, arrays: Arrays, y_shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the square image whose diagonal the detectors cover, as they do by default; None where they do not."""
    if len(y_shape) != 3 or y_shape[0] != 1 or params.allow_truncation:
        return None
    views = arrays["angles"].size if "angles" in arrays else params.angles
    detectors, spacing, offset = y_shape[2], params.detector_spacing, params.detector_offset
    if views not in (None, y_shape[1]) or params.detectors not in (None, detectors):
        return None
    if params.model == "rotate":
        side = next((n for n in range(1, detectors + 1) if frame_side(n) == detectors), 0)
        return (1, side, side) if side > 0 else None
    side = int((detectors * spacing - 2 * abs(offset)) / math.sqrt(2) + 1e-9)
    if params.detectors is None:
        near = (n for n in (side, side - 1) if default_detectors((n, n), spacing, offset) == detectors)
        side = next(near, 0)
    return (1, side, side) if side > 0 else None


FAMILY = Family(
    kind="ct",
    params=CTParams,
    draw=_draw,
    build=_build,
    arrays=ARRAYS,
    reads_shape=_reads_shape,
)
