"""Measurement files: one layout, the same keys in HDF5 (.h5) and in npz; docs/formats.md describes it.

format "recon-measurement", version 1, y, provenance,
operator/kind, operator/params, operator/in_shape, operator/arrays/<name>,
noise/kind, noise/sigma, noise/gain, noise/attenuation,
geometry/axes, geometry/affine, geometry/spacing, geometry/units, geometry/value_range, geometry/meta
scan: JSON, of data in the scanner's own form, whose operator is not complete
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from typing import BinaryIO

import numpy as np

from recon.data import Measurement, NoiseSpec, OperatorSpec, Scan
from recon.errors import InputError
from recon.io import hdf5, npz
from recon.io.arrays import (
    MEASUREMENT_TAG,
    ArrayFile,
    Items,
    choose,
    geometry_items,
    is_measurement,
    json_item,
    read_geometry,
)
from recon.io.source import native

VERSION = 1
NOISE_KINDS = ("gaussian", "poisson", "transmission", "none")
_ARRAYS = "operator/arrays/"


def read_file(file: ArrayFile, inner: str | None = None) -> Measurement:
    """Return the measurement of an npz or HDF5 file; a file without our tag gives its only array, or `y`, as data."""
    if inner is not None or not is_measurement(file):
        return Measurement(file.bulk(choose(file, inner, "y")))
    version = file.array("version") if "version" in file.keys() else np.array(0)
    if version.shape != () or version.dtype.kind not in "iu" or int(version) != VERSION:
        raise InputError(
            f"{file.name}: measurement layout of version {version.tolist()}, expected {VERSION}", "update recon"
        )
    return _read(file)


def write_stream(stream: BinaryIO, measurement: Measurement, form: str) -> None:
    """Write a measurement as "npz" or "hdf5". Raises InputError where a name or type cannot be stored."""
    items = _items(measurement)
    (npz if form == "npz" else hdf5).write_items(stream, items)


def _read(file: ArrayFile) -> Measurement:
    keys = file.keys()

    def has(prefix: str) -> bool:
        return any(key.startswith(prefix) for key in keys)

    return Measurement(
        file.bulk("y"),
        operator=_read_operator(file) if has("operator/") else None,
        noise=_read_noise(file) if has("noise/") else None,
        geometry=read_geometry(file, "geometry/") if has("geometry/") else None,
        provenance=file.json("provenance") if "provenance" in keys else {},
        scan=_read_scan(file) if "scan" in keys else None,
    )


def _read_scan(file: ArrayFile) -> Scan:
    facts = file.json("scan")
    try:
        crop = facts.get("crop")
        size = None if crop is None else (int(crop[0]), int(crop[1]))
        readout, oversampling = facts.get("readout"), float(facts.get("oversampling", 1.0))
        if readout not in (None, "y", "x") or not 1 <= oversampling < math.inf or (size is not None and min(size) < 1):
            raise ValueError(f"readout {readout}, oversampling {oversampling}, crop {crop}")
        notes = tuple(str(note) for note in facts.get("notes", ()))
        return Scan(size, readout, oversampling, bool(facts.get("lines", True)), notes)
    except (ValueError, TypeError, IndexError, KeyError) as err:
        raise InputError(f"{file.name}: 'scan' is not valid ({err})", "see docs/formats.md for the layout") from err


def _read_operator(file: ArrayFile) -> OperatorSpec:
    shape = file.array("operator/in_shape")
    if shape.ndim != 1 or (shape.size and (shape.dtype.kind not in "iu" or shape.min() < 1)):
        raise InputError(f"{file.name}: operator/in_shape is not a list of sizes", "see docs/formats.md for the layout")
    arrays = {key.removeprefix(_ARRAYS): file.array(key) for key in file.keys() if key.startswith(_ARRAYS)}
    return OperatorSpec(file.text("operator/kind"), file.json("operator/params"), tuple(int(n) for n in shape), arrays)


def _read_noise(file: ArrayFile) -> NoiseSpec:
    kind = file.text("noise/kind")
    sigma, gain = (float(file.numbers(f"noise/{name}", ())) for name in ("sigma", "gain"))
    attenuation = float(file.numbers("noise/attenuation", ())) if "noise/attenuation" in file.keys() else 1.0
    if kind not in NOISE_KINDS or not (0 <= sigma < math.inf and 0 <= gain < math.inf and 0 < attenuation < math.inf):
        raise InputError(
            f"{file.name}: noise '{kind}' with sigma {sigma} and gain {gain}, expected finite levels of at least 0",
            f"known kinds: {', '.join(NOISE_KINDS)}",
        )
    return NoiseSpec(kind, sigma, gain, attenuation)


def _items(measurement: Measurement) -> Items:
    """Return the named arrays that hold a measurement."""
    items: Items = {
        "format": np.array(MEASUREMENT_TAG),
        "version": np.array(VERSION),
        "y": native(measurement.y, "measurement"),
        "provenance": json_item(measurement.provenance),
    }
    if measurement.operator is not None:
        operator = measurement.operator
        items["operator/kind"] = np.array(operator.kind)
        items["operator/params"] = json_item(operator.params)
        items["operator/in_shape"] = np.array(operator.in_shape, np.int64)
        for name, array in sorted(operator.arrays.items()):
            if not re.fullmatch(r"\w[\w.-]*", name):
                raise InputError(f"the name '{name}' of an operator's array cannot be stored", "use letters and digits")
            items[_ARRAYS + name] = native(np.asarray(array), f"operator array '{name}'")
    if measurement.noise is not None:
        noise = measurement.noise
        items |= {
            "noise/kind": np.array(noise.kind),
            "noise/sigma": np.array(float(noise.sigma)),
            "noise/gain": np.array(float(noise.gain)),
        }
        if noise.kind == "transmission":
            items["noise/attenuation"] = np.array(float(noise.attenuation))
    if measurement.scan is not None:
        items["scan"] = json_item(asdict(measurement.scan))
    if measurement.geometry is not None:
        items |= geometry_items(measurement.geometry, "geometry/")
    return items
