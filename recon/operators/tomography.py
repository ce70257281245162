"""What the operators of tomography share: the projector of a geometry as an operator, and checks of a scan."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor

from recon.errors import ConfigError, InputError
from recon.kernels import dispatch
from recon.kernels.dispatch import Geometry
from recon.kernels.projector import backproject, project
from recon.operators.base import LinearOperator
from recon.operators.checks import numeric, required
from recon.operators.family import Arrays
from recon.operators.masked import Masked

ARRAYS = {
    "angles": "projection angles in degrees, (n,)",
    "mask": "1 where a ray was measured, 0 where not, (views, [rows,] detectors); without the views: for all of them",
}


class ScanParams(Protocol):
    """The parameters that every scan has."""

    @property
    def angles(self) -> int | None: ...

    @property
    def start(self) -> float: ...

    @property
    def arc(self) -> float: ...


Filtered = Callable[[Tensor, Any], Tensor]


@final
class RayTransform(LinearOperator):
    """y = line integrals of x along the rays of a scan: (B, 1, [Z,] Y, X) -> (B, 1, [Z,] *geometry.out_shape).

    Joseph's method: linear interpolation across each ray's main direction. The kernels are those of
    `recon.kernels.dispatch`; the adjoint has the same weights and is the exact transpose. `slices`: how many images the
    geometry projects one by one (None: the image has no axis for them).
    Source: P. M. Joseph, IEEE Trans. Med. Imaging 1(3), 1982.
    """

    def __init__(self, geometry: Geometry, filtered: Filtered, memory_gb: float, slices: int | None = None) -> None:
        """Choose the kernels, on the CPU.

        filtered: (data (B, *geometry.out_shape), geometry) -> images (B, *geometry.in_shape).  memory_gb: largest
        stored matrix, where the kernels store one.
        """
        self.geometry, self.filtered, self.memory_gb, self.slices = geometry, filtered, memory_gb, slices
        stack = () if slices is None else (slices,)
        self.in_shape, self.out_shape = (1, *stack, *geometry.in_shape), (1, *stack, *geometry.out_shape)
        self.projector = dispatch.projector(geometry, memory_gb * 1e9)

    def _forward(self, x: Tensor) -> Tensor:
        return project(self.projector, self._items(x, self.geometry.in_shape)).reshape(-1, *self.out_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        return backproject(self.projector, self._items(y, self.geometry.out_shape)).reshape(-1, *self.in_shape)

    def pinv(self, y: Tensor) -> Tensor:
        """Return the filtered backprojection (Feldkamp's for a cone): an image, not the exact pseudo-inverse."""
        items = self._items(y, self.geometry.out_shape).reshape(-1, *self.geometry.out_shape)
        return self.filtered(items, self.geometry).reshape(-1, *self.in_shape)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> RayTransform:
        moved = super().to(device, dtype)
        assert isinstance(moved, RayTransform)
        place = None if device is None else torch.device(device)
        moved.projector = dispatch.moved(self.projector, self.geometry, self.memory_gb * 1e9, place, dtype)
        return moved

    def _items(self, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        return values.reshape(-1, math.prod(shape))


def check_scan(kind: str, params: ScanParams, positive: dict[str, float], finite: dict[str, float]) -> None:
    """Raise ConfigError unless angles, start and arc can be meant, and the named numbers are positive and finite."""
    if params.angles is not None and params.angles < 1:
        raise ConfigError(f"operator '{kind}': angles must be at least 1, got {params.angles}")
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"operator '{kind}': {name} must be positive, got {value}")
    if not 0 < abs(params.arc) <= 360:
        raise ConfigError(f"operator '{kind}': arc must be an angle up to 360 degrees, got {params.arc}")
    for name, value in {"start": params.start, **finite}.items():
        if not math.isfinite(value):
            raise ConfigError(f"operator '{kind}': {name} must be finite, got {value}")


def drawn_angles(kind: str, params: ScanParams, given: Arrays, count: int = 180) -> np.ndarray:
    """Return the given angles, or evenly spaced ones from start over arc, whose end is left out; in degrees.

    Raises ConfigError where the array and the parameter disagree.
    """
    if "angles" not in given:
        count = count if params.angles is None else params.angles
        return params.start + params.arc / count * np.arange(count)
    if params.angles is not None and params.angles != given["angles"].size:
        raise ConfigError(
            f"operator '{kind}': angles = {params.angles}, but the array 'angles' has shape {given['angles'].shape}",
            "leave out the parameter angles, or give as many angles in the array",
        )
    return given["angles"]


def checked_angles(kind: str, arrays: Arrays) -> np.ndarray:
    """Return the angles in degrees. Raises InputError on a bad array, ConfigError where they look like radians."""
    angles = numeric("angles", required(kind, "angles", arrays)).astype(np.float64)
    if angles.ndim != 1:
        raise InputError(f"array 'angles' has shape {angles.shape}, expected (n,), in degrees")
    span = float(np.ptp(angles)) if angles.size else 0.0
    # few views may be a test of some degrees; over a quarter of a circle in radians they are not
    few = angles.size <= 7 and not (angles.size > 3 and span > math.pi / 2)
    if not few and span <= 2 * math.pi and np.abs(angles).max() <= 2 * math.pi + 1e-6:
        raise ConfigError(
            f"operator '{kind}': {angles.size} angles lie within {span:.3g} degrees, as radians do",
            "give the angles in degrees (numpy.degrees)",
        )
    return angles


def given_mask(given: Arrays) -> Arrays:
    """Return the mask of measured rays, where there is one."""
    return {"mask": given["mask"]} if "mask" in given else {}


def with_mask(kind: str, transform: LinearOperator, arrays: Arrays) -> LinearOperator:
    """Return the rays that the array "mask" measures (dead detectors, metal), all of them without one.

    Raises InputError where the mask has other values than 0 and 1 or another shape.
    """
    if "mask" not in arrays:
        return transform
    mask = numeric("mask", arrays["mask"]).astype(np.float32)
    try:
        return Masked(transform, torch.from_numpy(mask))
    except ConfigError as err:
        raise InputError(
            f"operator '{kind}': array 'mask' has shape {mask.shape}, and the rays have {transform.out_shape[1:]}",
            "give 1 or 0 for each ray, or for each detector",
        ) from err


def interpolated_radius(shape: tuple[int, int]) -> float:
    """Return the radius, in pixels, beyond which the interpolated image is zero: half a pixel more on each side."""
    return math.hypot(shape[0] + 1, shape[1] + 1) / 2


def check_source(kind: str, source: float, detector: float, radius: float) -> None:
    """Raise ConfigError unless the source is outside the circle around the image, and the detector beyond the axis."""
    if source <= radius:
        raise ConfigError(
            f"operator '{kind}': source_distance {source:g} mm is inside the image, whose corners are {radius:.4g} mm "
            "from the axis",
            "give the distance from source to axis in mm, and check pixel_size",
        )
    if detector <= source:
        raise ConfigError(
            f"operator '{kind}': detector_distance {detector:g} mm is not beyond the axis at {source:g} mm",
            "detector_distance counts from the source to the detector",
        )


def check_coverage(kind: str, overhang: float, allowed: bool, detector: str, unit: str, remedy: str) -> None:
    """Raise ConfigError where the detector misses a part of the image, unless that is allowed."""
    if overhang > 1e-6 and not allowed:
        raise ConfigError(
            f"operator '{kind}': {detector} miss up to {overhang:.4g} {unit}",
            f"{remedy}; if the data are truncated, set allow_truncation = true",
        )
