"""Parallel-beam tomography: line integrals of an image at given angles.

Coordinates, in pixels, with the origin at the image's centre: x to the right, y up. At angle theta, detector
coordinate s is the line x cos(theta) + y sin(theta) = s. Angle 0 sums the columns (rays run up and down, s grows with
x); angles grow counter-clockwise. Integrals are in units of pixel_size (1: pixels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from torch import Tensor

from recon.errors import ConfigError, InputError, ResourceError
from recon.kernels.fbp import filtered_backprojection
from recon.kernels.parallel import ParallelGeometry, projection_matrix
from recon.kernels.sparse import sparse_product, to_csr
from recon.operators.base import LinearOperator
from recon.operators.checks import image_size, numeric, required
from recon.operators.family import Arrays, Family


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
    memory_gb: largest memory for the projection matrix and its transpose, in GB.
    """

    angles: int | None = None
    start: float = 0.0
    arc: float = 180.0
    detectors: int | None = None
    detector_spacing: float = 1.0
    detector_offset: float = 0.0
    pixel_size: float = 1.0
    allow_truncation: bool = False
    memory_gb: float = 4.0

    def __post_init__(self) -> None:
        for name in ("angles", "detectors"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"operator 'ct': {name} must be at least 1, got {getattr(self, name)}")
        for name in ("detector_spacing", "pixel_size", "memory_gb"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"operator 'ct': {name} must be positive, got {getattr(self, name)}")
        if not 0 < abs(self.arc) <= 360:
            raise ConfigError(f"operator 'ct': arc must be an angle up to 360 degrees, got {self.arc}")
        if not (math.isfinite(self.start) and math.isfinite(self.detector_offset)):
            raise ConfigError("operator 'ct': start and detector_offset must be finite")


@final
class ParallelCT(LinearOperator):
    """y[a, m] = line integral of x along ray m of angle a: (B, 1, Y, X) -> (B, 1, n_angles, detectors).

    Joseph's method (linear interpolation across the ray's main direction) as a stored sparse matrix; the adjoint is the
    exact transpose. `to(dtype=float64)` computes in double precision with the weights as rounded to single precision.
    Source: P. M. Joseph, IEEE Trans. Med. Imaging 1(3), 1982.
    """

    def __init__(self, geometry: ParallelGeometry) -> None:
        """Build the matrix of `geometry`, in float32. Raises ResourceError beyond 2^31 entries."""
        matrix, transposed = projection_matrix(geometry)
        self.matrix, self.transposed = to_csr(matrix), to_csr(transposed)
        self.geometry = geometry
        self.in_shape, self.out_shape = (1, *geometry.shape), (1, len(geometry.angles), geometry.detectors)

    def _forward(self, x: Tensor) -> Tensor:
        y = sparse_product(self.matrix, self.transposed, x.flatten(1))
        return y.reshape(-1, *self.out_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        x = sparse_product(self.transposed, self.matrix, y.flatten(1))
        return x.reshape(-1, *self.in_shape)

    def pinv(self, y: Tensor) -> Tensor:
        """Return the filtered backprojection (Ram-Lak): an image, not the exact pseudo-inverse."""
        return filtered_backprojection(y[:, 0], self.geometry)[:, None]


def default_detectors(shape: tuple[int, int], spacing: float = 1.0, offset: float = 0.0) -> int:
    """Return the smallest number that covers the diagonal of the square around the image, with its side's parity."""
    side = max(shape)
    count = math.ceil((math.sqrt(2) * side + 2 * abs(offset)) / spacing - 1e-9)
    return count + (count - side) % 2


def _draw(params: CTParams, in_shape: tuple[int, ...], rng: np.random.Generator, given: Arrays) -> Arrays:
    if "angles" in given:
        angles = given["angles"]
        if params.angles is not None and params.angles != angles.size:
            raise ConfigError(
                f"operator 'ct': angles = {params.angles}, but the array 'angles' has shape {angles.shape}",
                "leave out the parameter angles, or give as many angles in the array",
            )
    else:
        count = 180 if params.angles is None else params.angles
        angles = params.start + params.arc / count * np.arange(count)
    return {"angles": _geometry(params, in_shape, {"angles": angles}).angles}


def _build(params: CTParams, in_shape: tuple[int, ...], arrays: Arrays) -> ParallelCT:
    geometry = _geometry(params, in_shape, arrays)
    needed = geometry.bytes_needed() / 1e9
    if needed > params.memory_gb:
        raise ResourceError(
            f"operator 'ct': the projection matrix of {len(geometry.angles)} angles, {geometry.detectors} detectors "
            f"and {in_shape[1]}x{in_shape[2]} pixels needs {needed:.1f} GB, more than memory_gb = {params.memory_gb:g}",
            f"raise the operator's memory_gb to {math.ceil(needed)} if there is room, or use fewer angles or pixels",
        )
    return ParallelCT(geometry)


def _geometry(params: CTParams, in_shape: tuple[int, ...], arrays: Arrays) -> ParallelGeometry:
    """Check the scan and return it. Raises InputError on a bad array, ConfigError where the scan cannot be meant."""
    rows, columns = image_size("ct", in_shape)
    if len(in_shape) != 3 or in_shape[0] != 1:
        raise ConfigError(f"operator 'ct' expects an image of shape (1, Y, X), got {in_shape}", "choose one channel")
    angles = numeric("angles", required("ct", "angles", arrays)).astype(np.float64)
    if angles.ndim != 1:
        raise InputError(f"array 'angles' has shape {angles.shape}, expected (n,), in degrees")
    if angles.size > 7 and np.ptp(angles) <= 2 * math.pi and np.abs(angles).max() <= 2 * math.pi + 1e-6:
        raise ConfigError(
            f"operator 'ct': {angles.size} angles lie within {np.ptp(angles):.3g} degrees, as radians do",
            "give the angles in degrees (numpy.degrees)",
        )
    spacing, offset = params.detector_spacing, params.detector_offset
    detectors = params.detectors or default_detectors((rows, columns), spacing, offset)
    geometry = ParallelGeometry((rows, columns), angles, detectors, spacing, offset, params.pixel_size)
    if geometry.overhang() > 1e-6 and not params.allow_truncation:
        raise ConfigError(
            f"operator 'ct': {detectors} detectors of spacing {spacing:g} at offset {offset:g} miss up to "
            f"{geometry.overhang():.4g} pixels at the border of a {rows}x{columns} image",
            f"leave detectors out or use {default_detectors((rows, columns), spacing, offset)}; "
            "if the data are truncated, set allow_truncation = true",
        )
    return geometry


def _reads_shape(params: CTParams, arrays: Arrays, y_shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the square image whose diagonal the detectors cover, as they do by default; None where they do not."""
    if len(y_shape) != 3 or y_shape[0] != 1 or params.allow_truncation:
        return None
    views = arrays["angles"].size if "angles" in arrays else params.angles
    detectors, spacing, offset = y_shape[2], params.detector_spacing, params.detector_offset
    if views not in (None, y_shape[1]) or params.detectors not in (None, detectors):
        return None
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
    arrays={"angles": "projection angles in degrees, (n,)"},
    reads_shape=_reads_shape,
)
