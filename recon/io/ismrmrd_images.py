"""Images of ISMRMRD HDF5 files: GROUP/IMAGE/header, one record an image, and data (n, channels, z, y, x)."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np

from recon.data import Geometry, Volume
from recon.errors import InputError
from recon.io.axes import grey_slices, known_steps, to_float32
from recon.io.hdf5 import Hdf5File
from recon.io.mrd_header import Space, header_xml
from recon.io.source import check_dtype, native

# ISMRMRD's ImageHeader, version 1.15
HEADER = np.dtype(
    [
        *[("version", "<u2"), ("data_type", "<u2"), ("flags", "<u8"), ("measurement_uid", "<u4")],
        *[("matrix_size", "<u2", (3,)), ("field_of_view", "<f4", (3,)), ("channels", "<u2"), ("position", "<f4", (3,))],
        *[(name, "<f4", (3,)) for name in ("read_dir", "phase_dir", "slice_dir", "patient_table_position")],
        *[(name, "<u2") for name in ("average", "slice", "contrast", "phase", "repetition", "set")],
        *[("acquisition_time_stamp", "<u4"), ("physiology_time_stamp", "<u4", (3,))],
        *[(name, "<u2") for name in ("image_type", "image_index", "image_series_index")],
        *[("user_int", "<i4", (8,)), ("user_float", "<f4", (8,)), ("attribute_string_len", "<u4")],
    ]
)
FLOAT, COMPLEX = 5, 7
MAGNITUDE, COMPLEX_IMAGE = 1, 5
_PAIR = np.dtype([("real", "<f4"), ("imag", "<f4")])
_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_images(file: Hdf5File, inner: str | None, axes: tuple[str, ...] | None) -> Volume:
    """Return one series (z, y, x). Raises InputError where there is none, several, or several channels or volumes."""
    keys = set(file.keys())
    groups = sorted(k.removesuffix("/header") for k in keys if k.endswith("/header") and _group(k) + "/data" in keys)
    if inner is not None:
        groups = [g for g in groups if g in (inner, f"dataset/{inner}")]
    if not groups:
        raise InputError(f"{file.name}: it holds no image, expected one", "reconstruct k-space with: recon run")
    if len(groups) > 1:
        raise InputError(f"{file.name}: {len(groups)} image series in it: {', '.join(groups[:8])}", "name one with ::")
    group = groups[0]
    shape, dtype = file.info(f"{group}/data")
    if len(shape) != 5 or shape[1] != 1 or (shape[0] > 1 and shape[2] > 1) or min(shape) < 1:
        raise InputError(
            f"{file.name}: images of shape {shape}, expected (n, 1, z, y, x), n or z 1",
            "take one channel",
        )
    if dtype.names is None:
        array = file.array(f"{group}/data")
    elif dtype.names == ("real", "imag") and dtype["real"] == dtype["imag"] and dtype["real"].kind == "f":
        pairs = np.ascontiguousarray(file.part(f"{group}/data", ...))
        check_dtype(np.dtype(f"c{dtype.itemsize}"), file.name)
        array = pairs.view(np.dtype(f"c{dtype.itemsize}").newbyteorder(dtype["real"].byteorder)).reshape(shape)
        array = native(array, file.name)
    else:
        raise InputError(f"{file.name}: images of type {dtype}, expected numbers", "write the file again")
    heads = file.part(f"{group}/header", ...)
    array = array[:, 0].reshape(-1, *shape[-2:])
    named = axes or ("z", "y", "x")
    meta = {"format": "ismrmrd", "dtype": str(array.dtype)}
    geometry = Geometry(named, meta=meta)
    if axes is None and heads.dtype.names is not None and {"field_of_view", "matrix_size"} <= set(heads.dtype.names):
        geometry = _geometry(heads.reshape(-1), array.shape, meta)
    return Volume(array, geometry)


def write_images(stream: BinaryIO, volume: Volume) -> dict[str, Any]:
    """Write slices as images of their own in `dataset/image_0`, float32 or complex64, and a header of their sizes."""
    import h5py

    stack = grey_slices(volume, "an ISMRMRD image", complex_values=True)
    is_complex = stack.dtype.kind == "c"
    stack = stack.astype(np.complex64) if is_complex else to_float32(stack).astype(np.float32)
    heads = _heads(stack, volume.geometry, is_complex)
    depth, height, width = stack.shape
    fov = heads[0]["field_of_view"]
    space = Space((width, height, 1), (float(fov[0]), float(fov[1]), float(fov[2])))
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("v110", "v110")) as file:
        file.create_dataset("dataset/xml", data=[header_xml(space, space)], dtype=h5py.string_dtype())
        file.create_dataset("dataset/image_0/header", data=heads, maxshape=(None,))
        data = stack.reshape(depth, 1, 1, height, width)
        stored = data.view(_PAIR) if is_complex else data
        file.create_dataset("dataset/image_0/data", data=stored, maxshape=(None, *stored.shape[1:]))
        attributes = ["<?xml version='1.0'?><ismrmrdMeta/>"] * depth
        file.create_dataset("dataset/image_0/attributes", data=attributes, dtype=h5py.string_dtype(), maxshape=(None,))
    stream.write(buffer.getbuffer())
    return {"dtype": str(stack.dtype)}


def _group(key: str) -> str:
    return key.rpartition("/")[0]


def _heads(stack: np.ndarray, geometry: Geometry, is_complex: bool) -> np.ndarray:
    """Return one header a slice; position is the slice's centre, index n // 2, in LPS."""
    depth, height, width = stack.shape
    steps = known_steps(geometry) or (1.0, 1.0, 1.0)
    lps = _FLIP @ (np.diag([*steps[::-1], 1.0]) if geometry.affine is None else np.asarray(geometry.affine))
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    frame = lps[:3, :3] / np.where(lengths > 0, lengths, 1)
    heads = np.zeros(depth, HEADER)
    heads["version"], heads["channels"] = 1, 1
    heads["data_type"] = COMPLEX if is_complex else FLOAT
    heads["image_type"] = COMPLEX_IMAGE if is_complex else MAGNITUDE
    heads["matrix_size"] = (width, height, 1)
    heads["field_of_view"] = (lengths[0] * width, lengths[1] * height, lengths[2])
    heads["read_dir"], heads["phase_dir"], heads["slice_dir"] = frame.T
    heads["slice"] = heads["image_index"] = np.arange(depth)
    centre = lps[:3, 3] + lps[:3, 0] * (width // 2) + lps[:3, 1] * (height // 2)
    heads["position"] = centre + np.arange(depth)[:, None] * lps[:3, 2]
    heads["attribute_string_len"] = 35
    return heads


def _geometry(heads: np.ndarray, shape: tuple[int, ...], meta: dict[str, Any]) -> Geometry:
    """Return spacing, and the affine where the directions are at right angles and slices evenly spaced."""
    head, (depth, height, width) = heads[0], shape
    fov = np.asarray(head["field_of_view"], np.float64)
    if not (np.isfinite(fov).all() and fov.min() > 0):
        return Geometry(("z", "y", "x"), meta=meta)
    sizes = (fov[0] / width, fov[1] / height, fov[2] / max(int(head["matrix_size"][2]), 1))
    spacing = (float(sizes[2]), float(sizes[1]), float(sizes[0]))
    frame = np.stack([np.asarray(head[k], np.float64) for k in ("read_dir", "phase_dir", "slice_dir")])
    if np.abs(frame @ frame.T - np.eye(3)).max() > 1e-3:
        return Geometry(("z", "y", "x"), spacing=spacing, units="mm", meta=meta)
    step = frame[2] * sizes[2]
    places = heads["position"].astype(np.float64)
    if len(heads) == depth and depth > 1:
        moves = np.diff(places, axis=0)
        step = moves.mean(axis=0)
        if not np.linalg.norm(step) > 0 or np.abs(moves - step).max() > 0.02 * float(np.linalg.norm(step)):
            return Geometry(("z", "y", "x"), spacing=spacing, units="mm", meta=meta)
    lps = np.eye(4)
    lps[:3, :3] = np.stack([frame[0] * sizes[0], frame[1] * sizes[1], step], axis=1)
    lps[:3, 3] = places[0] - lps[:3, 0] * (width // 2) - lps[:3, 1] * (height // 2)
    if len(heads) == 1 and depth > 1:
        lps[:3, 3] -= lps[:3, 2] * (depth // 2)
    spacing = (float(np.linalg.norm(step)), spacing[1], spacing[2])
    return Geometry(("z", "y", "x"), _FLIP @ lps, spacing, "mm", meta=meta)
