"""MATLAB files, read: versions 5 to 7 (through SciPy) and 7.3 (HDF5, whose dimensions come back reversed).

Variables keep MATLAB's order of dimensions: an array of size (rows, columns, slices) is (y, x, slices) in either
version. Structures, cells, objects, texts and functions are left out, and nothing is executed.
Source: MAT-File Format, The MathWorks; complex values of 7.3 are records (real, imag).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import numpy as np

from recon.data import Measurement, Volume
from recon.errors import InputError
from recon.io.arrays import ArrayFile, choose, read_image
from recon.io.hdf5 import Hdf5File, open_hdf5
from recon.io.source import MAX_BYTES, Source, check_declared, check_dtype, native, reading

NUMBERS = ("double", "single", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "logical")
_COMPRESSED = 15


@final
class MatFile(ArrayFile):
    """The arrays of numbers of an opened file of version 5 to 7."""

    def __init__(self, source: Source) -> None:
        from scipy.io import whosmat

        self.name, self.form = source.name, "matlab"
        self._source = source
        source.stream.seek(0)
        found = whosmat(source.stream)
        self._shapes = {name: tuple(map(int, shape)) for name, shape, kind in found if kind in NUMBERS}
        self._kinds = {name: kind for name, _, kind in found}

    def keys(self) -> tuple[str, ...]:
        return tuple(self._shapes)

    def info(self, key: str) -> tuple[tuple[int, ...], np.dtype]:
        return self._shapes[key], np.dtype("bool" if self._kinds[key] == "logical" else self._kinds[key])

    def _read(self, key: str) -> np.ndarray:
        from scipy.io import loadmat

        with reading(f"{self.name}::{key}", "variable"):
            self._source.stream.seek(0)
            array = loadmat(self._source.stream, variable_names=[key], verify_compressed_data_integrity=True)[key]
            if not isinstance(array, np.ndarray):
                raise InputError(f"{self.name}::{key}: sparse, expected a full array", "save it with full()")
            return native(array, self.name)


@final
class Mat73File(ArrayFile):
    """The arrays of numbers of an opened file of version 7.3, their dimensions in MATLAB's order."""

    def __init__(self, file: Hdf5File) -> None:
        self.name, self.form = file.name, "matlab"
        self._file = file
        self._keys = tuple(k for k in file.keys() if not k.startswith("#") and _is_plain(file, k))

    def keys(self) -> tuple[str, ...]:
        return self._keys

    def info(self, key: str) -> tuple[tuple[int, ...], np.dtype]:
        shape, dtype = self._file.info(key)
        return shape[::-1], _complex_of(dtype)

    def _read(self, key: str) -> np.ndarray:
        _, stored = self._file.info(key)
        if stored.names is None:
            return self._file.array(key).T
        check_dtype(_complex_of(stored), self.name)
        pairs = np.ascontiguousarray(self._file.part(key, ...))
        kind = _complex_of(stored).newbyteorder(stored["real"].byteorder)
        return native(pairs.view(kind).reshape(pairs.shape), self.name).T


@contextmanager
def open_matlab(source: Source) -> Iterator[ArrayFile]:
    """Yield the variables of a MATLAB file. Raises InputError if it is damaged, or holds more than it can store."""
    with reading(source.name, "MATLAB file"):
        source.stream.seek(0)
        modern = b"MATLAB 7.3" in source.stream.read(116)
    if modern:
        with open_hdf5(source) as file:
            yield Mat73File(file)
        return
    with reading(source.name, "MATLAB file"):
        _check_compressed(source)
        opened = MatFile(source)
        for key in opened.keys():
            shape, dtype = opened.info(key)
            # complex values take twice this; what is compressed was measured before
            if np.prod(np.array(shape, dtype=float)) * dtype.itemsize > MAX_BYTES:
                raise InputError(f"{source.name}::{key}: declares {shape} numbers, more than is read", "split it")
    yield opened


def read(source: Source, axes: tuple[str, ...] | None = None) -> Volume:
    """Return the only array, or the one named with `::`; its axes as given, or y, x where it has two."""
    with open_matlab(source) as file:
        return read_image(file, source.inner, axes)


def read_measurement(source: Source) -> Measurement:
    """Return the array `y`, the only one, or the one named with `::`, as it lies in the file."""
    with open_matlab(source) as file:
        return Measurement(file.array(choose(file, source.inner, "y")))


def holds_image(source: Source) -> bool:
    """Tell that a variable may be an image: MATLAB does not say."""
    return True


def _is_plain(file: Hdf5File, key: str) -> bool:
    kind = file.attribute("MATLAB_class", key)
    return kind in NUMBERS and file.attribute("MATLAB_empty", key) is None and "/" not in key


def _complex_of(dtype: np.dtype) -> np.dtype:
    """Return the complex type that a record (real, imag) stands for, or the type itself."""
    if dtype.names == ("real", "imag") and dtype["real"] == dtype["imag"] and dtype["real"].kind == "f":
        return np.dtype(f"c{dtype.itemsize}")
    return dtype


def _check_compressed(source: Source) -> None:
    """Refuse compressed variables of a version 5 to 7 file that would take far more than is stored."""
    source.stream.seek(124)
    tail = source.stream.read(4)
    if tail[2:4] not in (b"IM", b"MI"):
        return
    order: Any = "little" if tail[2:4] == b"IM" else "big"
    place = 128
    while place + 8 <= source.size:
        source.stream.seek(place)
        tag = source.stream.read(8)
        kind, size = int.from_bytes(tag[:4], order), int.from_bytes(tag[4:], order)
        if kind == _COMPRESSED:
            head = zlib.decompressobj().decompress(source.stream.read(min(size, 4096)), 8)
            check_declared(int.from_bytes(head[4:8], order), size, source.name)
        place += 8 + size
