"""NumPy .npy files: one array; never pickled objects."""

from __future__ import annotations

import math
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from recon.data import AXES, Volume
from recon.errors import InputError
from recon.io import disk
from recon.io.axes import arrange, plain_geometry
from recon.io.source import Source, check_dtype, is_numeric, native, reading


def read(source: Source, axes: tuple[str, ...] | None = None) -> Volume:
    """Return the array with the axes given, or those that its shape leaves no doubt about; see `resolve_axes`."""
    array = read_array(source)
    return Volume(array, plain_geometry(array, axes, source.name, "npy"))


def read_array(source: Source) -> np.ndarray:
    """Return the array of a .npy file. Raises InputError if it is damaged or holds anything but numbers."""
    with reading(source.name, ".npy file"):
        source.stream.seek(0)
        found = _mapped(source)
        array = read_stream(source.stream, source.size, source.name) if found is None else found
    return native(array, source.name)


def _mapped(source: Source) -> np.ndarray | None:
    """Return the array mapped from its file, where it is large and lies there as it is used; else None."""
    shape, column_major, dtype = read_header(source.stream)
    offset = source.stream.tell()
    source.stream.seek(0)
    if source.path is None or not dtype.isnative or not is_numeric(dtype) or any(n < 0 for n in shape):
        return None
    if not disk.is_large(shape, dtype) or offset + math.prod(shape) * dtype.itemsize != source.size:
        return None
    return disk.mapped(source.path, dtype, offset, shape, "F" if column_major else "C")


def read_stream(stream: BinaryIO, size: int, name: str) -> np.ndarray:
    """Return the array of a .npy stream of `size` bytes, which its header must account for exactly."""
    start = stream.tell()
    shape, _, dtype = read_header(stream)
    if dtype.kind not in "SU":
        check_dtype(dtype, name)
    header = stream.tell() - start
    expected = header + math.prod(shape) * dtype.itemsize
    if expected != size or any(n < 0 for n in shape):
        raise InputError(
            f"{name}: shape {shape} of {dtype} needs {expected} bytes, got {size}: truncated or damaged",
            "get the file again",
        )
    stream.seek(start)
    return np.asarray(npy_format.read_array(stream, allow_pickle=False))


def read_header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return (shape, column-major, type) and leave the stream at the first value."""
    version = npy_format.read_magic(stream)
    if version == (1, 0):
        return npy_format.read_array_header_1_0(stream)
    return npy_format.read_array_header_2_0(stream)


def write(stream: BinaryIO, volume: Volume) -> dict[str, Any]:
    """Write the array; an image from a format with named axes is put in the order n,z,c,y,x first."""
    array = volume.array
    if volume.geometry.meta.get("format") != "npy":
        array, _ = arrange(volume, AXES)
    write_array(stream, array)
    return {"dtype": str(array.dtype)}


def write_array(stream: BinaryIO, array: np.ndarray) -> None:
    """Write one array as .npy, in C order; a large one part by part."""
    header = {"shape": array.shape, "fortran_order": False, "descr": npy_format.dtype_to_descr(array.dtype)}
    npy_format.write_array_header_1_0(stream, header)
    if array.ndim < 2:
        stream.write(array.tobytes())
        return
    for part in disk.in_parts(array):
        stream.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
