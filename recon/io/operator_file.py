"""Operator files: TOML that names a kind, its parameters and its arrays' files; or a matrix in npz, HDF5 or npy.

kind = "blur"                  matrix: (M, N) dense            or, as scipy.sparse.save_npz writes it:
in_shape = [1, 64, 64]         in_shape: (C, [Z,] Y, X)        data, indices, indptr, shape
[params]                       out_shape, complex_image:       in_shape: needed here
boundary = "circular"          optional
[arrays]
kernel = "kernel.npy"
"""

from __future__ import annotations

import difflib
import json
import math
import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from recon.data import OperatorSpec
from recon.errors import InputError
from recon.io import bart, hdf5, matlab, npy, npz
from recon.io.arrays import ArrayFile, choose, is_measurement
from recon.io.axes import arrange
from recon.io.catalog import FORMATS, HDF5_LAYOUTS
from recon.io.registry import load_measurement, read_volume
from recon.io.sniffing import sniff_source
from recon.io.source import Input, Source, open_source, require_finite

_KEYS = ("kind", "in_shape", "params", "arrays")
CSR = ("data", "indices", "indptr")
_MAX_TOML = 2**20
_CHECKPOINTS = (".pth", ".pt", ".ckpt", ".safetensors")
Arrays = dict[str, np.ndarray]
ReadCheckpoint = Callable[[Path], np.ndarray]


def read_operator_file(source: Input, read_checkpoint: ReadCheckpoint | None = None) -> OperatorSpec:
    """Return the operator that a file describes; `in_shape` is () where the file does not give it.

    source: a path, or the bytes of a file (paths of arrays are then relative to the working folder).
    read_checkpoint: what reads the weights of a network that is named as an array; None: they are refused.
    Raises InputError for files that are damaged or hostile, lack a key, or whose matrix does not fit `in_shape`.
    """
    with open_source(source) as opened:
        form = "toml" if opened.name.lower().endswith(".toml") or _is_text(opened) else sniff_source(opened)
        if form == "toml":
            spec = _read_toml(opened, read_checkpoint)
        elif form == "npz":
            with npz.open_npz(opened) as archive:
                spec = _read_matrix(archive, opened)
        elif form == "hdf5":
            with hdf5.open_hdf5(opened) as file:
                spec = _read_matrix(file, opened)
        elif form == "npy":
            spec = OperatorSpec("matrix", {}, (), {"matrix": npy.read_array(opened)})
        else:
            raise InputError(
                f"{opened.name}: a {form} file, expected an operator",
                "give a .toml file, or a matrix as .npz, .h5 or .npy",
            )
        name = opened.name
    for key, array in spec.arrays.items():
        require_finite(array, f"{name}: array '{key}'")
    if spec.kind == "matrix":
        _check_matrix(spec.arrays, name)
    return spec


def _is_text(source: Source) -> bool:
    head = source.stream.read(64)
    source.stream.seek(0)
    return head.isascii() and b"\0" not in head and b"=" in head


def _read_toml(source: Source, read_checkpoint: ReadCheckpoint | None) -> OperatorSpec:
    name = source.name
    if source.size > _MAX_TOML:
        raise InputError(
            f"{name}: {source.size} bytes, expected a short TOML file", "store arrays in files of their own"
        )
    try:
        table = tomllib.loads(source.stream.read().decode("utf-8"))
    except (ValueError, RecursionError) as err:
        raise InputError(f"{name}: not valid TOML: {' '.join(str(err).split())[:120]}", "mend that line") from err
    for key in table:
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, 1)
            raise InputError(
                f"{name}: unknown key '{key}'" + (f"; did you mean '{near[0]}'?" if near else ""),
                f"an operator file has: {', '.join(_KEYS)}; parameters go under [params]",
            )
    kind, params, files = table.get("kind"), table.get("params", {}), table.get("arrays", {})
    if not isinstance(kind, str):
        raise InputError(f"{name}: no kind of operator", 'give one, such as kind = "blur"; see: recon operators list')
    if not isinstance(params, dict) or not isinstance(files, dict):
        raise InputError(f"{name}: params and arrays are tables", "write them under [params] and [arrays]")
    _require_json(params, name)
    in_shape = _shape(table["in_shape"], f"{name}: in_shape") if "in_shape" in table else ()
    folder = Path(os.path.dirname(name) or ".")
    arrays: Arrays = {}
    for key, value in files.items():
        if not isinstance(value, str):
            raise InputError(f"{name}: array '{key}' is not the path of a file", f'write {key} = "file.npy"')
        path = folder / value
        if path.suffix.lower() in _CHECKPOINTS and read_checkpoint is not None:
            arrays[key] = read_checkpoint(path)
        else:
            arrays |= _load(key, os.fspath(path), kind, in_shape)
    return OperatorSpec(kind, params, in_shape, arrays)


def _load(key: str, path: str, kind: str, in_shape: tuple[int, ...]) -> Arrays:
    """Return one array of a TOML file's list, or the three of a sparse matrix."""
    with open_source(path) as opened:
        form = sniff_source(opened)
        if form == "npy":
            return {key: npy.read_array(opened)}
        if form == "npz":
            with npz.open_npz(opened) as archive:
                return _load_from(archive, opened, key, kind, in_shape)
        if form == "hdf5" or form in HDF5_LAYOUTS:
            with hdf5.open_hdf5(opened) as file:
                return _load_from(file, opened, key, kind, in_shape)
        if form == "matlab":
            with matlab.open_matlab(opened) as file:
                return _load_from(file, opened, key, kind, in_shape)
        if form == "bart":
            return {key: bart.read_array(opened)}
    return {key: _load_picture(path)}


def _load_from(file: ArrayFile, source: Source, key: str, kind: str, in_shape: tuple[int, ...]) -> Arrays:
    if kind == "matrix" and key == "matrix" and source.inner is None and set(CSR) <= set(file.keys()):
        return _csr(file, in_shape)
    return {key: file.array(choose(file, source.inner, key, least_dims=0))}


def _load_picture(path: str) -> np.ndarray:
    """Return a picture or volume as [Z,] Y, X[, C]; PNG values, coded for display, become 0..1."""
    volume = read_volume(path)
    array, _ = arrange(volume, ("n", "z", "y", "x", "c"), drop=("n", "z", "c"))
    limits = volume.geometry.value_range
    if volume.geometry.meta.get("format") == "png" and limits is not None:
        array = array.astype(np.float32) / np.float32(limits[1])
    return np.ascontiguousarray(array)


def _read_matrix(file: ArrayFile, source: Source) -> OperatorSpec:
    """Return the operator of an npz or HDF5 file that holds a dense or CSR matrix, or a whole measurement."""
    keys = set(file.keys())
    if is_measurement(file):
        spec = load_measurement(source, None).operator
        if spec is None:
            raise InputError(f"{file.name}: this measurement does not say its operator", "give another operator file")
        return spec
    in_shape = _shape(file.array("in_shape").tolist(), f"{file.name}: in_shape") if "in_shape" in keys else ()
    params: dict[str, Any] = {}
    if "out_shape" in keys:
        params["out_shape"] = list(_shape(file.array("out_shape").tolist(), f"{file.name}: out_shape"))
    if "complex_image" in keys:
        params["complex_image"] = bool(file.numbers("complex_image", ()))
    if "matrix" in keys:
        return OperatorSpec("matrix", params, in_shape, {"matrix": file.array(choose(file, "matrix", "matrix"))})
    if set(CSR) <= keys:
        return OperatorSpec("matrix", params, in_shape, _csr(file, in_shape))
    raise InputError(
        f"{file.name}: no matrix in it",
        f"an operator's {FORMATS[file.form].name} file holds 'matrix', or {', '.join(CSR)} and shape; and in_shape",
    )


def _csr(file: ArrayFile, in_shape: tuple[int, ...]) -> Arrays:
    """Return the arrays of a CSR matrix, after holding its declared shape against them and against the image."""
    keys = file.keys()
    if "format" in keys:
        if file.text("format") != "csr":
            raise InputError(f"{file.name}: a sparse matrix of another kind than CSR", "convert it with .tocsr()")
    arrays = {name: file.array(name) for name in CSR}
    if not in_shape:
        raise InputError(
            f"{file.name}: a sparse matrix without the shape of its images", "add in_shape = (C, [Z,] Y, X)"
        )
    if "shape" in keys:
        shape = _shape(file.array("shape").tolist(), f"{file.name}: shape")
        rows = max(arrays["indptr"].size - 1, 0)
        if shape != (rows, math.prod(in_shape)):
            raise InputError(
                f"{file.name}: a matrix of shape {shape}, expected ({rows}, {math.prod(in_shape)}) from indptr and "
                f"images {in_shape}",
                "set in_shape to the image that the matrix was made for",
            )
    return arrays


def _check_matrix(arrays: Arrays, name: str) -> None:
    """Raise InputError unless a matrix is two-dimensional, or its CSR arrays fit each other."""
    if "matrix" in arrays and arrays["matrix"].ndim != 2:
        raise InputError(f"{name}: a matrix of shape {arrays['matrix'].shape}, expected (M, N)")
    if not set(CSR) <= set(arrays):
        return
    data, indices, indptr = (arrays[key] for key in CSR)
    if data.ndim != 1 or any(a.ndim != 1 or a.dtype.kind not in "iu" for a in (indices, indptr)):
        raise InputError(f"{name}: data, indices and indptr need one axis, and the last two whole numbers")
    fits = indices.size == data.size and indptr.size > 1 and indptr[0] == 0 and indptr[-1] == data.size
    if not fits or np.any(indptr[1:] < indptr[:-1]):
        raise InputError(
            f"{name}: CSR arrays of {data.size} data, {indices.size} indices and {indptr.size} indptr do not fit",
            "indptr rises from 0 to the number of data, which is also the number of indices",
        )


def _shape(value: Any, what: str) -> tuple[int, ...]:
    sizes = value if isinstance(value, list) else [value]
    if not sizes or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sizes):
        raise InputError(f"{what} is not a list of positive whole numbers", "write it as [channels, rows, columns]")
    return tuple(sizes)


def _require_json(params: dict[str, Any], name: str) -> None:
    try:
        json.dumps(params)
    except TypeError as err:
        raise InputError(f"{name}: a parameter is not a number, text, list or table", "dates are not used") from err
