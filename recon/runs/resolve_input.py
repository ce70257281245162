"""From whatever the user gives as INPUT to a complete Measurement: operator, noise and geometry resolved.

Precedence: operator file > measurement file > preset; every conflict and every inference becomes a notice.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from recon.config.schema import Config, ScalingSection
from recon.data import Geometry, Measurement, NoiseSpec, OperatorSpec
from recon.errors import InputError
from recon.io.disk import converted, in_parts, scratch
from recon.operators.base import Operator
from recon.operators.calibration import cropped
from recon.operators.registry import build, draw, family, parse_params, sees_volumes
from recon.operators.value_range import with_range
from recon.runs.coil_maps import check_coils, doubts
from recon.runs.offgrid import OffGridItems, prepare_off_grid
from recon.runs.scaling import Window, find_window
from recon.runs.scan import OFF_GRID, ScanItems, prepare_scan
from recon.runs.simulate import absolute_noise

# operators whose measurement is a picture of the image's field of view
PICTURES = (
    "slice-average",
    "denoise",
    "inpaint",
    "downsample",
    "blur",
    "blur-varying",
    "demosaic",
    "colour-mix",
    "hdr",
    "nonlinear-blur",
    "learned-blur",
    "jpeg",
)


@dataclass
class ResolvedInput:
    """A measurement with everything known, its operator, and what was inferred or in conflict.

    window: of image values, where it was needed to know the noise.
    scan: the slices of a scanner's own k-space, each with an operator of its own; operator and spec are the first's.
    crop: (Y, X) at the centre of the images that is written, or None.
    """

    measurement: Measurement
    spec: OperatorSpec
    operator: Operator
    noise: NoiseSpec
    notices: list[str] = field(default_factory=list)
    window: Window | None = None
    scan: ScanItems | OffGridItems | None = None
    crop: tuple[int, int] | None = None

    def item(self, index: int) -> tuple[np.ndarray, Operator]:
        """Return data (1, *out_shape) and operator of one item."""
        if self.scan is None:
            return self.measurement.y[index : index + 1], self.operator
        y, spec = self.scan.item(index)
        return y, build(spec)

    def find_window(self, section: ScalingSection) -> Window:
        """Return the window of image values, estimated where neither file nor settings give it."""
        geometry = self.measurement.geometry
        if self.scan is not None:
            return find_window(section, geometry, self.operator, None, self.scan.first_images)
        return find_window(section, geometry, self.operator, self.measurement.y)

    def shown(self, images: np.ndarray) -> np.ndarray:
        """Return the part of images (..., Y, X) that the scanner shows: all of them, or their centre."""
        return images if self.crop is None else cropped(images, self.crop)

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """(N, C, Y, X) of the images that are written."""
        shape = self.operator.in_shape
        slices = shape[1] if len(shape) == 4 else 1
        return (self.measurement.y.shape[0] * slices, shape[0], *(self.crop or shape[-2:]))


def resolve_input(measurement: Measurement, config: Config, operator_file: OperatorSpec | None) -> ResolvedInput:
    """Return the measurement with operator and noise resolved, y as (N, *out_shape).

    Raises InputError where y does not fit the operator or the noise or is not finite, or where the operator cannot be
    known.
    """
    if measurement.scan is not None and not measurement.scan.lines:
        if _raw_kinds(measurement, operator_file) == {"mri-nufft"}:
            return _resolve_off_grid(measurement, config, operator_file)
        if operator_file is None:
            raise InputError(
                OFF_GRID, "give its operator: --operator FILE with kind = 'mri-nufft'; see docs/formats.md"
            )
    if _is_raw_mri(measurement, operator_file):
        return _resolve_scan(measurement, config, operator_file)
    notices: list[str] = list(measurement.scan.notes) if measurement.scan is not None else []
    measurement = _as_volumes(measurement, config, operator_file)
    spec = _choose_operator(measurement, config, operator_file, notices)
    operator = build(spec)
    check_coils(measurement.y, spec, operator)
    y = _as_items(measurement.y, operator, notices)
    geometry = measurement.geometry
    if geometry is not None and measurement.operator is None:
        geometry = _image_geometry(geometry, spec, tuple(y.shape[1:]))
        if geometry is None:
            notices.append(f"the input's axes and pixels are those of data of '{spec.kind}': the image gets plain ones")
    known = replace(measurement, y=y, geometry=geometry)
    noise, window = _choose_noise(known, operator, config, notices)
    _check_counts(noise, y)
    notices += doubts(y[0], spec, noise)
    return ResolvedInput(known, spec, operator, noise, notices, window)


def _as_volumes(measurement: Measurement, config: Config, operator_file: OperatorSpec | None) -> Measurement:
    """Return the slices (N, C, Y, X) of a picture as a volume (1, C, Z, Y, X), where the operator is of volumes."""
    y, kind = measurement.y, config.operator.kind if operator_file is None else operator_file.kind
    shape, arrays = ((), {}) if operator_file is None else (operator_file.in_shape, operator_file.arrays)
    if measurement.operator is not None or measurement.geometry is None or y.ndim != 4:
        return measurement
    if not sees_volumes(kind, shape, arrays):
        return measurement
    if "n" in measurement.geometry.axes:
        raise InputError(
            f"operator '{kind}' is of volumes, and the input holds independent images (axis n)",
            "name their axis z if they are neighbours (--axes)",
        )
    return replace(measurement, y=y.transpose(1, 0, 2, 3)[None])


def _is_raw_mri(measurement: Measurement, operator_file: OperatorSpec | None) -> bool:
    return measurement.scan is not None and _raw_kinds(measurement, operator_file) == {"mri"}


def _raw_kinds(measurement: Measurement, operator_file: OperatorSpec | None) -> set[str]:
    return {spec.kind for spec in (measurement.operator, operator_file) if spec is not None}


def _resolve_off_grid(measurement: Measurement, config: Config, operator_file: OperatorSpec | None) -> ResolvedInput:
    items, noise, notices = prepare_off_grid(measurement, config, operator_file)
    spec = items.item(0)[1]
    return ResolvedInput(replace(measurement, noise=noise), spec, build(spec), noise, notices, scan=items)


def _resolve_scan(measurement: Measurement, config: Config, operator_file: OperatorSpec | None) -> ResolvedInput:
    prepared = prepare_scan(measurement, config, operator_file)
    spec = prepared.items.item(0)[1]
    known = replace(measurement, geometry=prepared.geometry, noise=prepared.noise)
    notices = prepared.notices
    if "maps" in prepared.items.arrays:  # others are made from this k-space
        middle, each = prepared.items.item(prepared.items.count // 2)
        notices = [*notices, *doubts(middle[0], each, prepared.noise)]
    return ResolvedInput(known, spec, build(spec), prepared.noise, notices, scan=prepared.items, crop=prepared.crop)


def _choose_operator(
    measurement: Measurement, config: Config, operator_file: OperatorSpec | None, notices: list[str]
) -> OperatorSpec:
    inside = measurement.operator
    preset = OperatorSpec(config.operator.kind, config.operator.params, ())
    if operator_file is not None:
        notices += _conflicts(operator_file, inside, "the operator file", "the measurement file")
        return _complete(operator_file, measurement, config, notices)
    if inside is not None:
        notices += _conflicts(inside, preset, "the measurement file", "the preset")
        complete = inside.in_shape and set(family(inside.kind).arrays) <= set(inside.arrays)
        return inside if complete else _complete(inside, measurement, config, notices)
    notices.append(f"the operator comes from the preset ({preset.kind}): the input does not hold one")
    return _complete(preset, measurement, config, notices)


def _complete(spec: OperatorSpec, measurement: Measurement, config: Config, notices: list[str]) -> OperatorSpec:
    """Fill in the image shape and the arrays that the specification lacks."""
    fam = family(spec.kind)
    params = parse_params(spec.kind, spec.params)
    needed = fam.never_invented(params) - set(spec.arrays)
    inside = measurement.operator
    if inside is not None and inside.kind == spec.kind:
        kept = {name: inside.arrays[name] for name in sorted(needed) if name in inside.arrays}
        notices += [f"array {name} comes from the measurement file: the operator file has none" for name in kept]
        spec, needed = replace(spec, arrays={**spec.arrays, **kept}), needed - set(kept)
    if needed:
        raise InputError(
            f"a measurement for operator '{spec.kind}' needs its {', '.join(sorted(needed))}, and the input holds none",
            "give an operator file with the array (--operator FILE); see docs/formats.md",
        )
    in_shape = tuple(spec.in_shape)
    if not in_shape and inside is not None:
        in_shape = tuple(inside.in_shape)
    if not in_shape:
        in_shape = _shape_from_data(spec, params, measurement.y)
        notices.append(f"image shape {in_shape} inferred from the measurement")
    shown = measurement.geometry if spec.kind in PICTURES else None
    ranged = with_range(spec.kind, spec.params, shown.value_range if shown is not None else None)
    return draw(spec.kind, ranged, in_shape, config.run.seed, spec.arrays)


def _shape_from_data(spec: OperatorSpec, params: Any, y: np.ndarray) -> tuple[int, ...]:
    fam = family(spec.kind)
    # an array without item or channel axes is one item with one channel
    candidates = [tuple(y.shape[1:])] if y.ndim == (5 if fam.volume else 4) else []
    candidates += [(1,) * (3 - y.ndim) + tuple(y.shape)] if y.ndim <= 3 else []
    for candidate in candidates:
        found = fam.reads_shape(params, spec.arrays, candidate) if fam.reads_shape else None
        if found is not None:
            return tuple(found)
    raise InputError(
        f"the image shape cannot be known from a measurement of shape {tuple(y.shape)} for operator '{spec.kind}'",
        "give an operator file with in_shape (--operator FILE), or a measurement file written by recon simulate",
    )


def _conflicts(chosen: OperatorSpec, other: OperatorSpec | None, name: str, other_name: str) -> list[str]:
    if other is None:
        return []
    if chosen.kind != other.kind:
        return [f"operator '{chosen.kind}' of {name} is used, not '{other.kind}' of {other_name}"]
    wanted = {k: v for k, v in other.params.items() if k in chosen.params and _plain(chosen.params[k]) != _plain(v)}
    lines = [f"operator {k} = {chosen.params[k]} of {name} is used, not {v} of {other_name}" for k, v in wanted.items()]
    differ = [k for k, v in chosen.arrays.items() if k in other.arrays and not np.array_equal(v, other.arrays[k])]
    return lines + [f"array {k} of {name} is used, not that of {other_name}" for k in differ]


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value


def _as_items(y: np.ndarray, operator: Operator, notices: list[str]) -> np.ndarray:
    """Return y as (N, *out_shape) in the operator's type, zero where the operator measures nothing."""
    shape = tuple(operator.out_shape)
    if tuple(y.shape) == shape:
        y = y[None]
    elif y.ndim < len(shape) and (1,) * (len(shape) - y.ndim) + tuple(y.shape) == shape:
        y = y.reshape(1, *shape)
    elif tuple(y.shape[1:]) != shape:
        raise InputError(
            f"the measurement has shape {tuple(y.shape)}, but the operator gives {shape} (or (N, ...) of that)",
            "check the operator and its parameters (recon info INPUT; recon operators show KIND)",
        )
    if not y.size:
        raise InputError(f"the measurement of shape {tuple(y.shape)} is empty")
    if np.iscomplexobj(y) and not operator.out_dtype.is_complex:
        raise InputError(
            "the measurement is complex, but the operator gives real values", "take its real part or magnitude"
        )
    with np.errstate(over="ignore"):
        single = converted(y, np.complex64 if operator.out_dtype.is_complex else np.float32)
        single = single if single.flags.writeable else single.copy()  # torch takes no other
    if operator.support is not None:
        missing = np.broadcast_to(operator.support.numpy() == 0, shape)
        if (held := sum(int(np.count_nonzero(part[missing])) for part in in_parts(single))) > 0:
            notices.append(f"{held} values of the measurement lie where the operator measures nothing: set to zero")
            single = _without(single, missing)
    bad = sum(int(np.count_nonzero(~np.isfinite(part))) for part in in_parts(single))
    if bad:
        raise InputError(
            f"the measurement holds {bad} values that are NaN, infinite or beyond single precision",
            "mask them out or set them to zero, or change the units",
        )
    return single


def _without(y: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return items with zeros where they are missing."""
    found = scratch(y.shape, y.dtype)
    for part, own in zip(in_parts(y), in_parts(found), strict=True):
        own[...] = np.where(missing, 0, part)
    return found


def _choose_noise(
    measurement: Measurement, operator: Operator, config: Config, notices: list[str]
) -> tuple[NoiseSpec, Window | None]:
    """Return the noise and, where it is relative to the image's range, the window that this range was taken from."""
    if measurement.noise is not None:
        return measurement.noise, None
    window, width = None, 1.0
    if config.noise.kind != "none":
        window = find_window(config.scaling, measurement.geometry, operator, measurement.y)
        width = window.high - window.low
    noise = absolute_noise(config.noise, width)
    level = f"sigma {noise.sigma:.4g}" if noise.kind == "gaussian" else noise.kind
    notices.append(f"the noise comes from the preset ({level} in the measurement's units): the input does not say")
    return noise, window


def _check_counts(noise: NoiseSpec, y: np.ndarray) -> None:
    """Raise InputError where data cannot be Poisson counts, or what is left of a known number."""
    if noise.kind == "transmission" and (np.iscomplexobj(y) or not noise.gain > 0):
        raise InputError(
            f"transmission noise needs real line integrals and a gain above 0, got {y.dtype} and {noise.gain:g}",
            "give counts of a ray that nothing attenuates",
        )
    if noise.kind != "poisson":
        return
    if np.iscomplexobj(y) or y.min() < -1e-6 * y.max():
        raise InputError(
            "Poisson noise needs real, non-negative data; this measurement has other values",
            "use --set noise.kind=gaussian where the input does not name its noise",
        )
    if not noise.gain > 0:
        raise InputError(f"Poisson noise needs a gain above 0, got {noise.gain:g}", "give counts per unit of y")


def _image_geometry(geometry: Geometry, spec: OperatorSpec, out_shape: tuple[int, ...]) -> Geometry | None:
    """Return the geometry of the image to reconstruct from that of an image file used as measurement.

    None where the file is no picture of the image, such as a sinogram: its pixels and range are those of the detector.
    """
    square = spec.kind == "matrix" and tuple(spec.in_shape) == out_shape
    if spec.kind not in PICTURES and not square:
        return None
    axes, spacing, affine = geometry.axes, geometry.spacing, geometry.affine
    # how a pixel of the image lies in pixels of the measurement: index = step index + shift, for x and y
    pairs = [(spec.in_shape[-1], out_shape[-1]), (spec.in_shape[-2], out_shape[-2])]
    if spec.kind == "slice-average":
        return _thin_slices(geometry, spec.in_shape[1] // out_shape[1])
    if spec.kind == "downsample":  # about the corner of the field of view; where pixels are kept, their centres stay
        steps = [out / full for full, out in pairs]
        kept = spec.params.get("filter") in ("gaussian", "array")
        shifts = [0.0 if kept else (step - 1) / 2 for step in steps]
    else:  # a "valid" convolution of kernel size k starts k - 1 - k // 2 pixels inside the image
        steps = [1.0, 1.0]
        shifts = [float((full - out + 1) // 2 - (full - out)) for full, out in pairs]
    if spacing is not None:
        step = {"x": steps[0], "y": steps[1]}
        spacing = tuple(s * step.get(a, 1.0) for s, a in zip(spacing, axes, strict=True))
    if affine is not None:
        finer = np.diag([*steps, 1.0, 1.0])
        finer[:2, 3] = shifts
        affine = affine @ finer
    if spec.in_shape[0] > 1 and "c" not in axes:
        axes, spacing = (*axes, "c"), None if spacing is None else (*spacing, 1.0)
    return replace(geometry, axes=axes, spacing=spacing, affine=affine)


def _thin_slices(geometry: Geometry, factor: int) -> Geometry:
    """Return the geometry of thin slices from that of the thick ones they make up."""
    spacing, affine = geometry.spacing, geometry.affine
    if spacing is not None:
        spacing = tuple(s / factor if a == "z" else s for s, a in zip(spacing, geometry.axes, strict=True))
    if affine is not None:
        finer = np.diag([1.0, 1.0, 1 / factor, 1.0])
        finer[2, 3] = (1 / factor - 1) / 2
        affine = affine @ finer
    axes = geometry.axes
    if "z" not in axes:  # one thick slice is an image without the axis
        axes, spacing = ("z", *axes), None if spacing is None else (1 / factor, *spacing)
    return replace(geometry, axes=axes, spacing=spacing, affine=affine)
