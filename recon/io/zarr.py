"""Zarr stores and OME-Zarr images (0.4, 0.5): a folder, read plane by plane, written as OME-Zarr 0.5.

    zarr.json: attributes.ome.multiscales[0] = {axes, datasets: [{path, coordinateTransformations: scale, translation}]}

The finest scale is read. Axes t and c must have length 1, or are chosen by `--axes`; spacing and units are kept, and
for images that recon wrote the affine as well. Arrays of Python objects are refused.
Source: OME-NGFF specification 0.4 and 0.5; Zarr 2 and 3.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from recon.data import Geometry, Volume
from recon.errors import InputError
from recon.io.axes import declared_range, plain_geometry
from recon.io.disk import is_large, let_go, scratch
from recon.io.source import Source, check_declared, check_dtype, library, reading

_UNITS = {"millimeter": "mm", "micrometer": "um", "meter": "m", "nanometer": "nm", "centimeter": "cm"}
_NAMES = {"t": "n", "c": "c", "z": "z", "y": "y", "x": "x"}
# what a chunk may take in memory
CHUNK_BYTES = 64 * 2**20


def read(source: Source, axes: tuple[str, ...] | None = None) -> Volume:
    """Return the image of a store: the finest scale of OME-Zarr, the only array, or the one named with `::`.

    Raises InputError for damaged stores, unnamed axes without `axes`; ResourceError without zarr.
    """
    zarr = library("zarr", "zarr", "Zarr")
    if source.path is None or not source.path.is_dir():
        raise InputError(f"{source.name}: a Zarr store is a folder", "name the folder")
    _refuse_links(source.path, source.name)
    with reading(source.name, "Zarr store"):
        found = zarr.open(store=str(source.path), mode="r")
        about = _multiscale(found, source.name) if not isinstance(found, zarr.Array) else {}
        array, path = _array(zarr, found, about, source)
        check_dtype(np.dtype(array.dtype), source.name)
        nbytes = math.prod(array.shape) * np.dtype(array.dtype).itemsize
        check_declared(nbytes, sum(p.stat().st_size for p in source.path.rglob("*") if p.is_file()), source.name)
        values = _values(array)
    if not about or axes is not None:
        return Volume(values, plain_geometry(values, axes, source.name, "zarr"))
    with reading(source.name, "OME-Zarr metadata"):
        return _placed(values, about, path, source.name)


def write_files(path: Path, volume: Volume) -> dict[str, Any]:
    """Write a folder: OME-Zarr 0.5 with one scale, chunks of a plane, compressed by zstd."""
    zarr = library("zarr", "zarr", "Zarr")
    order: list[str] = [a for a in ("n", "c", "z", "y", "x") if a in volume.geometry.axes]
    array = volume.array.transpose([volume.geometry.axes.index(a) for a in order])
    group = zarr.create_group(store=str(path), zarr_format=3, overwrite=False)
    chunks = [1] * (array.ndim - 2) + [min(n, 1024) for n in array.shape[-2:]]
    stored = group.create_array("0", shape=array.shape, chunks=tuple(chunks), dtype=array.dtype)
    for index in range(array.shape[0]) if array.ndim > 2 else [...]:
        stored[index] = array[index]
        let_go(array)
    group.attrs["ome"] = {"version": "0.5", "multiscales": [_metadata(volume.geometry, order)]}
    group.attrs["recon"] = _facts(volume.geometry)
    return {"dtype": str(array.dtype)}


def write(stream: BinaryIO, volume: Volume) -> dict[str, Any]:
    """Raise InputError: a folder does not go into one stream."""
    raise InputError("a Zarr store is a folder and cannot be piped", "name an output .zarr")


def check(volume: Volume) -> None:
    """Raise InputError where a Zarr store cannot hold such an image, ResourceError without zarr."""
    library("zarr", "zarr", "Zarr")
    if not {"y", "x"} <= set(volume.geometry.axes):
        raise InputError(f"OME-Zarr needs axes y and x, got {','.join(volume.geometry.axes)}", "name them with --axes")


def _array(zarr: Any, found: Any, about: dict[str, Any], source: Source) -> tuple[Any, str]:
    if isinstance(found, zarr.Array):
        return found, ""
    path = source.inner or (str(about["datasets"][0]["path"]) if about else None)
    if path is None:
        names = [name for name, member in found.members(max_depth=None) if isinstance(member, zarr.Array)]
        if len(names) != 1:
            hint = f"name one: {source.name}::NAME" if names else "name the folder of a store that holds arrays"
            raise InputError(
                f"{source.name}: {len(names)} arrays in it{': ' * bool(names)}{', '.join(names[:8])}", hint
            )
        path = names[0]
    if path not in found or not isinstance(found[path], zarr.Array):
        raise InputError(f"{source.name}: no array '{path}'", "see: recon info")
    return found[path], path


def _values(array: Any) -> np.ndarray:
    """Return the values of a stored array; of a large one as many planes at a time as lie in a chunk."""
    dtype = np.dtype(array.dtype)
    if array.ndim < 2 or not is_large(array.shape, dtype):
        return np.asarray(array[...])
    found = scratch(array.shape, dtype)
    for first in range(0, array.shape[0], array.chunks[0]):
        found[first : first + array.chunks[0]] = array[first : first + array.chunks[0]]
        let_go(found)
    return found


def _multiscale(group: Any, name: str) -> dict[str, Any]:
    """Return the first multiscale of OME-Zarr 0.5 or 0.4, with recon's own facts; {} where there is none."""
    attributes = dict(group.attrs)
    scales = attributes.get("ome", attributes).get("multiscales")
    if scales is None:
        return {}
    if not isinstance(scales, list) or not scales or not scales[0].get("datasets") or not scales[0].get("axes"):
        raise InputError(f"{name}: its multiscales have no axes or data sets (OME-Zarr 0.4 or 0.5)", "update the file")
    return {**scales[0], "recon": attributes.get("recon", {})}


def _placed(values: np.ndarray, about: dict[str, Any], path: str, name: str) -> Volume:
    labels = [str(a["name"] if isinstance(a, dict) else a) for a in about["axes"]]
    if len(labels) != values.ndim or not set(labels) <= set(_NAMES):
        raise InputError(f"{name}: axes {labels} of shape {values.shape}, expected some of t, c, z, y, x", "use --axes")
    scale = np.ones(values.ndim)
    entries = [d for d in about["datasets"] if str(d.get("path")) == path][:1]
    for step in [
        *(entries[0].get("coordinateTransformations", []) if entries else []),
        *about.get("coordinateTransformations", []),
    ]:
        if step.get("type") == "scale":
            scale = scale * np.asarray(step["scale"], float)
    units = {a.get("unit") for a, n in zip(about["axes"], labels, strict=True) if isinstance(a, dict) and n in "zyx"}
    unit = _UNITS.get(str(units.pop())) if len(units) == 1 else None
    # axes of length 1 that are no space are dropped
    keep = [i for i, n in enumerate(labels) if n in "zyx" or values.shape[i] > 1]
    named = tuple(_NAMES[labels[i]] for i in keep)
    values = values.reshape([values.shape[i] for i in keep])
    own = about["recon"] if isinstance(about["recon"], dict) else {}
    affine, limits = own.get("affine"), own.get("value_range")
    if not (np.isfinite(scale).all() and scale.min() > 0):
        raise InputError(f"{name}: scale {scale.tolist()}, expected positive numbers", "correct the metadata")
    return Volume(
        values,
        Geometry(
            named,
            affine=None if affine is None else np.asarray(affine, float).reshape(4, 4),
            spacing=tuple(float(scale[i]) for i in keep) if unit is not None else None,
            units=unit,
            value_range=declared_range(values.dtype) if limits is None else (float(limits[0]), float(limits[1])),
            meta={"format": "zarr", "dtype": str(values.dtype)},
        ),
    )


def _metadata(geometry: Geometry, order: list[str]) -> dict[str, Any]:
    units = {short: name for name, short in _UNITS.items()}
    steps = dict(zip(geometry.axes, geometry.spacing or (1.0,) * len(geometry.axes), strict=True))
    axes: list[dict[str, str]] = []
    for name in order:
        kind = {"n": ("t", "time"), "c": ("c", "channel")}.get(name, (name, "space"))
        axes.append({"name": kind[0], "type": kind[1]})
        if kind[1] == "space" and geometry.spacing is not None and geometry.units in units:
            axes[-1]["unit"] = units[geometry.units]
    scale = {"type": "scale", "scale": [float(steps[name]) for name in order]}
    return {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": [scale]}]}


def _facts(geometry: Geometry) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if geometry.affine is not None:
        facts["affine"] = np.asarray(geometry.affine, float).tolist()
    if geometry.value_range is not None:
        facts["value_range"] = list(geometry.value_range)
    return facts


def _refuse_links(path: Path, name: str) -> None:
    """Raise InputError for links out of the store."""
    root = path.resolve()
    for member in path.rglob("*"):
        if member.is_symlink() and not member.resolve().is_relative_to(root):
            raise InputError(f"{name}: '{member.name}' is a link out of the store, refused", "copy the data into it")
