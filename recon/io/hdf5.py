"""HDF5 files: named datasets; links to other files, external and virtual storage are refused."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, final

import numpy as np

from recon.data import Volume
from recon.errors import InputError
from recon.io import disk
from recon.io.arrays import ArrayFile, Items, image_items, read_image
from recon.io.source import Source, check_declared, check_dtype, is_numeric, native, reading

if TYPE_CHECKING:
    import h5py


@final
class Hdf5File(ArrayFile):
    """The datasets of an opened HDF5 file, by their full names without the leading `/`."""

    def __init__(self, file: h5py.File, source: Source) -> None:
        name = source.name
        self.name = name
        self.form = "hdf5"
        self._file = file
        self._source = source
        self._keys = tuple(sorted(_walk(file, name, "", set())))

    def keys(self) -> tuple[str, ...]:
        return self._keys

    def info(self, key: str) -> tuple[tuple[int, ...], np.dtype]:
        with reading(f"{self.name}::{key}", "dataset"):
            dataset = self._file[key]
            return tuple(dataset.shape or ()), dataset.dtype

    def attribute(self, key: str, group: str = "") -> Any:
        """Return an attribute of a group or dataset as a number, a text or an array; None where there is none."""
        with reading(f"{self.name}::{group}", "attribute"):
            found = self._file[group or "/"].attrs
            if key not in found:
                return None
            value = found[key]
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def mapped(self, key: str) -> np.ndarray:
        """Return an array: mapped from disk where it lies there in one piece, in native order, else read."""
        name = f"{self.name}::{key}"
        with reading(name, "dataset"):
            dataset = self._file[key]
            _refuse_foreign_storage(dataset, name)
            check_dtype(dataset.dtype, name)
            offset, nbytes = dataset.id.get_offset(), dataset.size * dataset.dtype.itemsize
            path = self._source.path if self._file.userblock_size == 0 and dataset.dtype.isnative else None
            if offset is None or path is None or offset + nbytes > self._source.size or not nbytes:
                return self.array(key)
            return disk.mapped(path, dataset.dtype, offset, dataset.shape)

    def bulk(self, key: str) -> np.ndarray:
        shape, dtype = self.info(key) if key in self.keys() else ((), np.dtype(float))
        if len(shape) < 2 or not is_numeric(dtype) or not disk.is_large(shape, dtype):
            return self.array(key)
        chunks = self._file[key].chunks
        return self.mapped(key) if chunks is None else self._unpacked(key, chunks[0])

    def _unpacked(self, key: str, step: int) -> np.ndarray:
        """Return a dataset that is stored in chunks as an array on disk; `step` rows are read at a time."""
        name = f"{self.name}::{key}"
        with reading(name, "dataset"):
            dataset = self._file[key]
            _refuse_foreign_storage(dataset, name)
            found = disk.scratch(dataset.shape, dataset.dtype.newbyteorder("="))
            for first in range(0, len(found), step):
                found[first : first + step] = dataset[first : first + step]
                disk.let_go(found)
        return found

    def part(self, key: str, index: Any) -> np.ndarray:
        """Return a part of a dataset, also of records, without reading the rest."""
        name = f"{self.name}::{key}"
        with reading(name, "dataset"):
            dataset = self._file[key]
            _refuse_foreign_storage(dataset, name)
            return np.asarray(dataset[index])

    def _read(self, key: str) -> np.ndarray:
        import h5py

        name = f"{self.name}::{key}"
        with reading(name, "dataset"):
            dataset = self._file[key]
            _refuse_foreign_storage(dataset, name)
            if h5py.check_string_dtype(dataset.dtype) is not None:
                if dataset.size != 1:
                    raise InputError(f"{name}: expected numbers or one text, got texts of shape {dataset.shape}")
                return np.array(dataset.asstr()[(0,) * len(dataset.shape)])
            check_dtype(dataset.dtype, name)
            return native(np.asarray(dataset[()]), name)


@contextmanager
def open_hdf5(source: Source) -> Iterator[Hdf5File]:
    """Yield the datasets of an HDF5 file. Raises InputError if it is damaged or leads outside itself."""
    import h5py

    with reading(source.name, "HDF5 file"):
        source.stream.seek(0)
        file = h5py.File(source.stream, "r")
    with file:
        with reading(source.name, "HDF5 file"):
            opened = Hdf5File(file, source)
        yield opened


def write_items(stream: BinaryIO, items: Items) -> None:
    """Write named arrays and texts as datasets; equal content gives equal bytes.

    The file is made in memory, so that a full disk is met by a plain write and not inside the HDF5 library; a large
    one is made in place, once the disk has shown that it has room. The layout is that of HDF5 1.10, which protects its
    structure by checksums. Texts have a fixed length: texts of variable length lie in a heap without checksums, where
    damage can make the HDF5 library loop for ever.
    """
    total = sum(array.nbytes for array in items.values())
    if total >= disk.LEAST_BYTES and disk.has_room(stream, total):
        _write_items(stream, items)
        return
    buffer = io.BytesIO()
    _write_items(buffer, items)
    stream.write(buffer.getbuffer())


def _write_items(stream: BinaryIO, items: Items) -> None:
    import h5py

    with h5py.File(stream, "w", libver=("v110", "v110")) as file:
        for key, array in items.items():
            if array.dtype.kind == "U":
                text = str(array[()]).encode()
                file.create_dataset(key, data=text, dtype=h5py.string_dtype(length=max(len(text), 1)))
            elif array.ndim < 2 or not disk.is_large(array.shape, array.dtype):
                file.create_dataset(key, data=array)
            else:
                dataset = file.create_dataset(key, array.shape, array.dtype)
                for index, part in enumerate(disk.in_parts(array)):
                    dataset[index] = part


def read(source: Source, axes: tuple[str, ...] | None = None) -> Volume:
    """Return the image: the dataset `image`, the one named with `::`, or the only one of two or more dimensions."""
    with open_hdf5(source) as file:
        return read_image(file, source.inner, axes)


def write(stream: BinaryIO, volume: Volume) -> dict[str, Any]:
    """Write the array as the dataset `image` with its geometry beside it."""
    write_items(stream, image_items(volume))
    return {"dtype": str(volume.array.dtype)}


def _walk(group: h5py.Group, name: str, prefix: str, seen: set[int]) -> Iterator[str]:
    """Yield the names of all datasets that hard links reach, each group once; soft links are aliases and left out."""
    import h5py

    address = h5py.h5o.get_info(group.id).addr
    if address in seen:
        return
    seen.add(address)
    for key in group:
        link = group.get(key, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise InputError(
                f"{name}: '{prefix}{key}' is a link to another file, refused", "copy the data into one file"
            )
        if not isinstance(link, h5py.HardLink):
            continue
        member = group[key]
        if isinstance(member, h5py.Dataset):
            yield prefix + key
        elif isinstance(member, h5py.Group):
            yield from _walk(member, name, f"{prefix}{key}/", seen)


def _refuse_foreign_storage(dataset: h5py.Dataset, name: str) -> None:
    """Raise InputError for data kept in other files, never written, or declared far beyond what is stored."""
    if dataset.external or dataset.is_virtual:
        raise InputError(f"{name}: its data lie in other files, refused", "copy the data into one file")
    if dataset.shape is None or (dataset.size and not dataset.id.get_storage_size()):
        raise InputError(f"{name}: it holds no data", "write the file again")
    check_declared(dataset.size * dataset.dtype.itemsize, dataset.id.get_storage_size(), name)
