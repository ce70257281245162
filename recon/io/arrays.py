"""What npz and HDF5 files have in common: named arrays and strings, and the same keys for an image in both.

    image, axes, affine, spacing, units, value_range, meta

`axes` is "z,y,x"; `meta` is JSON; absent keys are unknown facts. docs/formats.md describes the layout.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from recon.data import Geometry, Volume
from recon.errors import InputError
from recon.io.axes import declared_range, parse_axes, plain_geometry
from recon.io.source import is_numeric

MEASUREMENT_TAG = "recon-measurement"
GEOMETRY_KEYS = ("axes", "affine", "spacing", "units", "value_range", "meta")
Items = dict[str, np.ndarray]


class ArrayFile(ABC):
    """Abstract file of named arrays; nothing is read before it is asked for."""

    name: str
    form: str

    @abstractmethod
    def keys(self) -> tuple[str, ...]:
        """Return the names of all arrays, groups joined by `/`."""

    @abstractmethod
    def info(self, key: str) -> tuple[tuple[int, ...], np.dtype]:
        """Return shape and type of an array without reading it; a text has a type of kind U or O."""

    @abstractmethod
    def _read(self, key: str) -> np.ndarray:
        """Return an array that is there: numbers, or a text as an array of kind U."""

    def read(self, key: str) -> np.ndarray:
        """Return an array of numbers, or a text as an array of kind U. Raises InputError if it lacks or is damaged."""
        if key not in self.keys():
            raise InputError(f"{self.name}: it lacks '{key}'", "see docs/formats.md for the layout")
        return self._read(key)

    def array(self, key: str) -> np.ndarray:
        """Return an array of numbers. Raises InputError where the key holds a text."""
        value = self.read(key)
        if value.dtype.kind == "U":
            raise InputError(f"{self.name}: '{key}' is a text, expected numbers", "see docs/formats.md for the layout")
        return value

    def bulk(self, key: str) -> np.ndarray:
        """Return an array of numbers, on disk where it is large and the file allows; see `disk.py`."""
        return self.array(key)

    def text(self, key: str) -> str:
        """Return a text. Raises InputError where the key holds something else."""
        value = self.read(key)
        if value.dtype.kind != "U" or value.size != 1:
            raise InputError(f"{self.name}: '{key}' is not a text", "see docs/formats.md for the layout")
        return str(value.reshape(())[()])

    def json(self, key: str) -> dict[str, Any]:
        """Return a JSON object. Raises InputError where the key holds something else."""
        try:
            value = json.loads(self.text(key))
        except ValueError as err:
            raise InputError(f"{self.name}: '{key}' is not valid JSON", "see docs/formats.md for the layout") from err
        if not isinstance(value, dict):
            raise InputError(f"{self.name}: '{key}' is not a JSON object", "see docs/formats.md for the layout")
        return value

    def numbers(self, key: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """Return real numbers as float64, of this shape where one is given. Raises InputError otherwise."""
        value = self.read(key)
        if value.dtype.kind not in "biuf" or (shape is not None and value.shape != shape):
            raise InputError(f"{self.name}: '{key}' has type {value.dtype} and shape {value.shape}, expected {shape}")
        return value.astype(np.float64)


def choose(file: ArrayFile, inner: str | None, preferred: str, least_dims: int = 1) -> str:
    """Return the key to read: the one named with `::`, the preferred one, or the only array of numbers.

    Raises InputError, listing the arrays, where that leaves none or several.
    """
    keys = file.keys()
    named = inner if inner is not None else preferred
    if named in keys:
        return named
    if inner is not None:
        raise InputError(f"{file.name}: no array '{inner}'", f"it holds: {_listing(keys)}")
    found = [key for key in keys if key not in GEOMETRY_KEYS and _is_array(file, key, least_dims)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(f"{file.name}: no array of numbers in it", f"it holds: {_listing(keys)}")
    raise InputError(f"{file.name}: {len(found)} arrays in it: {_listing(found)}", f"name one: {file.name}::{found[0]}")


def read_image(file: ArrayFile, inner: str | None, axes: tuple[str, ...] | None) -> Volume:
    """Return the image of a file: the array chosen (see `choose`) with the geometry stored beside it."""
    if inner is None and is_measurement(file):
        raise InputError(f"{file.name}: it holds a measurement, expected an image", "reconstruct it with: recon run")
    key = choose(file, inner, "image", least_dims=2)
    array = file.bulk(key)
    geometry = read_geometry(file, "") if key == "image" and "axes" in file.keys() else None
    if geometry is None:
        return Volume(array, plain_geometry(array, axes, file.name, file.form))
    if axes is not None and axes != geometry.axes:
        geometry = replace(geometry, axes=axes, spacing=None)
    return Volume(array, replace(geometry, value_range=geometry.value_range or declared_range(array.dtype)))


def is_measurement(file: ArrayFile) -> bool:
    """Tell whether a file carries the tag of our measurement files."""
    return "format" in file.keys() and file.info("format")[1].kind in "USO" and file.text("format") == MEASUREMENT_TAG


def image_items(volume: Volume) -> Items:
    """Return the named arrays that hold an image."""
    return {"image": volume.array} | geometry_items(volume.geometry)


def read_geometry(file: ArrayFile, prefix: str) -> Geometry:
    """Return the geometry stored under a prefix ("" or "geometry/"). Raises InputError where it is not valid."""
    keys = file.keys()

    def has(key: str) -> bool:
        return prefix + key in keys

    axes = parse_axes(",".join(file.read(prefix + "axes").astype(str).ravel())) or ()
    low_high = file.numbers(prefix + "value_range", (2,)) if has("value_range") else None
    spacing = file.numbers(prefix + "spacing", (len(axes),)) if has("spacing") else None
    return Geometry(
        axes,
        affine=file.numbers(prefix + "affine", (4, 4)) if has("affine") else None,
        spacing=None if spacing is None else tuple(spacing.tolist()),
        units=file.text(prefix + "units") if has("units") else None,
        value_range=None if low_high is None else (float(low_high[0]), float(low_high[1])),
        meta=file.json(prefix + "meta") if has("meta") else {},
    )


def geometry_items(geometry: Geometry, prefix: str = "") -> Items:
    """Return the named arrays that hold a geometry; inverse of `read_geometry`."""
    items: Items = {"axes": np.array(",".join(geometry.axes))}
    if geometry.affine is not None:
        items["affine"] = np.asarray(geometry.affine, np.float64)
    if geometry.spacing is not None:
        items["spacing"] = np.asarray(geometry.spacing, np.float64)
    if geometry.units is not None:
        items["units"] = np.array(geometry.units)
    if geometry.value_range is not None:
        items["value_range"] = np.asarray(geometry.value_range, np.float64)
    if geometry.meta:
        items["meta"] = json_item(geometry.meta)
    return {prefix + key: value for key, value in items.items()}


def json_item(value: Mapping[str, Any]) -> np.ndarray:
    """Return an object as a JSON text; NumPy scalars and arrays become numbers and lists."""
    return np.array(json.dumps(value, default=plain, ensure_ascii=False))


def plain(value: Any) -> Any:
    """Return a NumPy scalar or array as plain numbers, for JSON. Raises TypeError for other objects."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be stored as JSON")


def _is_array(file: ArrayFile, key: str, least_dims: int) -> bool:
    shape, dtype = file.info(key)
    return len(shape) >= least_dims and is_numeric(dtype)


def _listing(keys: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(keys[:8])
    return (shown + ", ...") if len(keys) > 8 else (shown or "nothing")
