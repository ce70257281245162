"""Facts of a file for `recon info`, JSON-able: what it is, its shape, axes, units and range of values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from recon.data import Geometry, Measurement, OperatorSpec
from recon.errors import InputError
from recon.io import hdf5, measurement, npy, npz
from recon.io.arrays import ArrayFile, choose, is_measurement, plain, read_image
from recon.io.axes import Axes, parse_axes, plain_geometry
from recon.io.catalog import HDF5_LAYOUTS
from recon.io.operator_file import CSR, ReadCheckpoint, read_operator_file
from recon.io.registry import holds_measurement, is_array_name, read_volume, scanned
from recon.io.sniffing import sniff_source
from recon.io.source import Input, open_source

Facts = dict[str, Any]


def describe(source: Input, axes: Axes = None, read_checkpoint: ReadCheckpoint | None = None) -> Facts:
    """Return the facts of a file: format, kind (image, measurement, array, arrays, operator), shape, axes, values.

    Keys that do not apply are absent; unknown facts are None. Values that are not finite are counted, not refused;
    minimum and maximum are of the finite ones, of the magnitude where they are complex. read_checkpoint: of an operator
    file's arrays, see `recon.io.operator_file`.
    Raises InputError for files that cannot be read.
    """
    named = parse_axes(axes)
    with open_source(source) as opened:
        form = sniff_source(opened)
        facts: Facts = {"file": opened.name, "format": form, "bytes": opened.size}
        if opened.path is not None and opened.path.is_dir():
            facts["bytes"] = sum(p.stat().st_size for p in opened.path.rglob("*") if p.is_file())
        if form == "npy":
            found: Facts | None = _array(npy.read_array(opened), named, opened.name, form)
        elif form == "npz":
            with npz.open_npz(opened) as archive:
                found = _container(archive, opened.inner, named)
        elif form == "hdf5" or (form in HDF5_LAYOUTS and is_array_name(opened.inner)):
            with hdf5.open_hdf5(opened) as file:
                found = _container(file, opened.inner, named)
        else:
            measured = scanned(opened) if named is None and holds_measurement(source) else None
            found = None if measured is None else _measurement(measured)
    if found is None:
        found = _of_operator(source, form, read_checkpoint) or _image(source, named)
    strict: Facts = _strict(facts | found)
    return strict


def _container(file: ArrayFile, inner: str | None, axes: tuple[str, ...] | None) -> Facts | None:
    """Return the facts of an npz or HDF5 file, or None where it holds a matrix."""
    keys = set(file.keys())
    if inner is None and is_measurement(file):
        return _measurement(measurement.read_file(file))
    if inner is None and ("matrix" in keys or set(CSR) <= keys):
        return None
    try:
        key = choose(file, inner, "image")
    except InputError:
        if inner is not None:
            raise
        listed = {k: file.info(k) for k in file.keys()}
        return {"kind": "arrays", "arrays": {k: {"shape": list(s), "dtype": str(t)} for k, (s, t) in listed.items()}}
    if key == "image" and "axes" in keys:
        volume = read_image(file, inner, axes)
        return {"kind": "image", **_values(volume.array), **_geometry(volume.geometry)}
    return _array(file.array(key), axes, file.name, file.form)


def _image(source: Input, axes: tuple[str, ...] | None) -> Facts:
    volume = read_volume(source, axes)
    return {"kind": "image", **_values(volume.array), **_geometry(volume.geometry)}


def _array(array: np.ndarray, axes: tuple[str, ...] | None, name: str, form: str) -> Facts:
    """Return the facts of a bare array, whose axes may be unknown."""
    try:
        geometry = plain_geometry(array, axes, name, form)
    except InputError:
        if axes is not None:
            raise
        return {"kind": "array", **_values(array), "axes": None}
    return {"kind": "array", **_values(array), **_geometry(geometry)}


def _measurement(found: Measurement) -> Facts:
    facts: Facts = {"kind": "measurement", **_values(found.y)}
    facts["operator"] = None if found.operator is None else _operator(found.operator)["operator"]
    noise = found.noise
    facts["noise"] = None if noise is None else {"kind": noise.kind, "sigma": noise.sigma, "gain": noise.gain}
    facts["geometry"] = None if found.geometry is None else _geometry(found.geometry)
    facts["provenance"] = found.provenance
    if found.scan is not None:
        facts["scan"] = {k: v for k, v in vars(found.scan).items() if v not in (None, ())}
    return facts


def _of_operator(source: Input, form: str, read_checkpoint: ReadCheckpoint | None) -> Facts | None:
    return _operator(read_operator_file(source, read_checkpoint)) if form in ("toml", "npz", "hdf5") else None


def _operator(spec: OperatorSpec) -> Facts:
    arrays = {name: {"shape": list(a.shape), "dtype": str(a.dtype)} for name, a in spec.arrays.items()}
    return {
        "kind": "operator",
        "operator": {
            "kind": spec.kind,
            "params": spec.params,
            "in_shape": list(spec.in_shape) or None,
            "arrays": arrays,
        },
    }


def _geometry(geometry: Geometry) -> Facts:
    return {
        "axes": list(geometry.axes),
        "spacing": None if geometry.spacing is None else list(geometry.spacing),
        "units": geometry.units,
        "value_range": None if geometry.value_range is None else list(geometry.value_range),
        "affine": None if geometry.affine is None else np.asarray(geometry.affine).tolist(),
        "meta": geometry.meta,
    }


def _values(array: np.ndarray) -> Facts:
    """Return shape, type, and the range of the finite values; part by part, since it may be mapped from disk."""
    count, lows, highs = 0, [], []
    for part in array if array.ndim > 2 else [array]:
        finite = np.isfinite(part)
        found = int(np.count_nonzero(finite))
        kept = part if found == part.size else part[finite]
        kept = kept.astype(np.uint8) if kept.dtype == bool else np.abs(kept) if kept.dtype.kind == "c" else kept
        if found:
            lows.append(kept.min().item())
            highs.append(kept.max().item())
        count += found
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "min": min(lows, default=None),
        "max": max(highs, default=None),
        "finite": count,
        "size": int(array.size),
    }


def _strict(value: Any) -> Any:
    """Return the same facts as strict JSON values: no NumPy types, no tuples; NaN and infinities become None."""
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return _strict(plain(value))
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
