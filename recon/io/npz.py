"""NumPy .npz files: a zip archive of .npy members, checked against decompression bombs before anything is read."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast, final

import numpy as np

from recon.data import Volume
from recon.errors import InputError
from recon.io.arrays import ArrayFile, Items, image_items, read_image
from recon.io.npy import read_header, read_stream, write_array
from recon.io.source import Source, check_declared, native, reading


@final
class NpzFile(ArrayFile):
    """The arrays of an opened npz file; a member `a.npy` is the array `a`."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self.name = name
        self.form = "npz"
        self._archive = archive
        self._members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if len(self._members) != len(archive.infolist()):
            raise InputError(f"{name}: two members of the archive have the same name", "write the file again")
        if not all(info.filename.endswith(".npy") for info in archive.infolist()):
            raise InputError(f"{name}: a zip archive, but not one of NumPy arrays", "expected members ending in .npy")

    def keys(self) -> tuple[str, ...]:
        return tuple(self._members)

    def info(self, key: str) -> tuple[tuple[int, ...], np.dtype]:
        with reading(f"{self.name}::{key}", "array"), self._archive.open(self._members[key]) as stream:
            shape, _, dtype = read_header(cast(BinaryIO, stream))
        return shape, dtype

    def _read(self, key: str) -> np.ndarray:
        name = f"{self.name}::{key}"
        with reading(name, "array"), self._archive.open(self._members[key]) as stream:
            array = read_stream(cast(BinaryIO, stream), self._members[key].file_size, name)
            if stream.read(1):
                raise InputError(f"{name}: longer than the archive declares", "get the file again")
            return array.astype(str) if array.dtype.kind in "SU" else native(array, name)


@contextmanager
def open_npz(source: Source) -> Iterator[NpzFile]:
    """Yield the arrays of an npz file. Raises InputError if it is damaged, or declares more than it can hold."""
    with reading(source.name, ".npz file"):
        source.stream.seek(0)
        archive = zipfile.ZipFile(source.stream)
    with archive:
        members = archive.infolist()
        check_declared(sum(m.file_size for m in members), source.size, source.name)
        for member in members:
            stored = min(member.compress_size, source.size)
            check_declared(member.file_size, stored, f"{source.name}::{member.filename}")
        yield NpzFile(archive, source.name)


def write_items(stream: BinaryIO, items: Items) -> None:
    """Write named arrays as an uncompressed npz file; equal arrays give equal bytes."""
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for key, array in items.items():
            with archive.open(zipfile.ZipInfo(f"{key}.npy"), "w", force_zip64=True) as member:
                write_array(cast(BinaryIO, member), np.asarray(array))


def read(source: Source, axes: tuple[str, ...] | None = None) -> Volume:
    """Return the image: the array `image`, the one named with `::`, or the only one; axes from `axes` in the file."""
    with open_npz(source) as file:
        return read_image(file, source.inner, axes)


def write(stream: BinaryIO, volume: Volume) -> dict[str, Any]:
    """Write the array as `image` with its geometry beside it."""
    write_items(stream, image_items(volume))
    return {"dtype": str(volume.array.dtype)}
