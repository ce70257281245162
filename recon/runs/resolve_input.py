"""From whatever the user gives as INPUT to a complete Measurement: operator, noise and geometry resolved.

Precedence: operator file > measurement file > preset; every conflict and every inference becomes a notice.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from recon.config.schema import Config
from recon.data import Geometry, Measurement, NoiseSpec, OperatorSpec
from recon.errors import ConfigError, InputError
from recon.operators.base import Operator
from recon.operators.registry import build, draw, family, parse_params
from recon.runs.scaling import data_range
from recon.runs.simulate import absolute_noise


@dataclass
class ResolvedInput:
    """A measurement with everything known, its operator, and what was inferred or in conflict."""

    measurement: Measurement
    spec: OperatorSpec
    operator: Operator
    noise: NoiseSpec
    notices: list[str] = field(default_factory=list)


def resolve_input(measurement: Measurement, config: Config, operator_file: OperatorSpec | None) -> ResolvedInput:
    """Return the measurement with operator and noise resolved, y as (N, *out_shape).

    Raises InputError where y does not fit the operator or holds NaN, ConfigError where no operator can be known.
    """
    notices: list[str] = []
    if not np.isfinite(measurement.y).all():
        bad = int((~np.isfinite(measurement.y)).sum())
        raise InputError(f"the measurement holds {bad} NaN or infinite values", "mask them out or set them to zero")
    spec = _choose_operator(measurement, config, operator_file, notices)
    operator = build(spec)
    y = _as_items(measurement.y, operator)
    noise = _choose_noise(measurement, config, y, notices)
    geometry = measurement.geometry
    if geometry is not None and measurement.operator is None:
        geometry = _image_geometry(geometry, spec, tuple(y.shape[1:]))
    return ResolvedInput(replace(measurement, y=y, geometry=geometry), spec, operator, noise, notices)


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
        return inside
    notices.append(f"the operator comes from the preset ({preset.kind}): the input does not hold one")
    return _complete(preset, measurement, config, notices)


def _complete(spec: OperatorSpec, measurement: Measurement, config: Config, notices: list[str]) -> OperatorSpec:
    """Fill in the image shape and the arrays that the specification lacks."""
    fam = family(spec.kind)
    params = parse_params(spec.kind, spec.params)
    needed = fam.never_invented(params) - set(spec.arrays)
    if needed:
        raise InputError(
            f"a measurement for operator '{spec.kind}' needs its {', '.join(sorted(needed))}, and the input holds none",
            "give an operator file with the array (--operator FILE); see docs/formats.md",
        )
    in_shape = tuple(spec.in_shape)
    if not in_shape and measurement.operator is not None:
        in_shape = tuple(measurement.operator.in_shape)
    if not in_shape:
        in_shape = _shape_from_data(spec, params, measurement.y)
        notices.append(f"image shape {in_shape} inferred from the measurement")
    return draw(spec.kind, spec.params, in_shape, config.run.seed, spec.arrays)


def _shape_from_data(spec: OperatorSpec, params: Any, y: np.ndarray) -> tuple[int, ...]:
    fam = family(spec.kind)
    # an array without item or channel axes is one item with one channel
    candidates = [tuple(y.shape[1:])] if y.ndim == 4 else []
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
    return [f"operator {k} = {chosen.params[k]} of {name} is used, not {v} of {other_name}" for k, v in wanted.items()]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _as_items(y: np.ndarray, operator: Operator) -> np.ndarray:
    """Return y as (N, *out_shape) in the operator's type."""
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
    if np.iscomplexobj(y) and not operator.out_dtype.is_complex:
        raise InputError(
            "the measurement is complex, but the operator gives real values", "take its real part or magnitude"
        )
    return y.astype(np.complex64 if operator.out_dtype.is_complex else np.float32)


def _choose_noise(measurement: Measurement, config: Config, y: np.ndarray, notices: list[str]) -> NoiseSpec:
    if measurement.noise is not None:
        return measurement.noise
    geometry = measurement.geometry
    width = data_range(y, geometry) if geometry is not None else data_range(y, Geometry(()))
    noise = absolute_noise(config.noise, width)
    level = f"sigma {noise.sigma:.4g}" if noise.kind == "gaussian" else noise.kind
    notices.append(f"the noise comes from the preset ({level} in the measurement's units): the input does not say")
    return noise


def _image_geometry(geometry: Geometry, spec: OperatorSpec, out_shape: tuple[int, ...]) -> Geometry:
    """Return the geometry of the image to reconstruct from that of an image file used as measurement."""
    if len(spec.in_shape) != len(out_shape):
        raise ConfigError(f"an image cannot be a measurement for operator '{spec.kind}'", "give a measurement file")
    ratio = {"y": out_shape[-2] / spec.in_shape[-2], "x": out_shape[-1] / spec.in_shape[-1]}
    if all(r == 1 for r in ratio.values()):
        return geometry
    spacing = geometry.spacing
    if spacing is not None:
        spacing = tuple(s * ratio.get(a, 1.0) for s, a in zip(spacing, geometry.axes, strict=True))
    affine = geometry.affine
    if affine is not None:
        # pixels shrink about the corner of the field of view, not about the centre of the first pixel
        scale = np.diag([ratio["x"], ratio["y"], 1.0, 1.0])
        scale[0, 3], scale[1, 3] = (ratio["x"] - 1) / 2, (ratio["y"] - 1) / 2
        affine = affine @ scale
    return replace(geometry, spacing=spacing, affine=affine)
