"""Arrays on disk: the same values as in memory, and none of its memory once they are let go of."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from recon.data import Geometry, Volume, to_stack
from recon.errors import ResourceError
from recon.io import disk
from recon.io.disk import converted, in_parts, is_large, let_go, mapped, scratch
from recon.io.registry import read_measurement, read_volume, write_volume

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Return the bytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def on_disk(array: np.ndarray) -> bool:
    """Tell whether an array is a view of one that is mapped."""
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap)


def test_scratch_is_on_disk_where_it_is_large():
    assert isinstance(scratch((2, 2**21), np.float32), np.memmap)
    assert type(scratch((2, 2**20), np.float32)) is np.ndarray
    assert is_large((2, 2**21), np.dtype(np.float32)) and not is_large((2, 2**21 - 1), np.dtype(np.float32))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is told by Linux alone")
def test_what_was_let_go_is_not_held_and_not_lost():
    array = scratch((16, 2**20), np.float32)
    before = resident()
    for index in range(16):
        array[index] = index
        let_go(array[index].reshape(2, -1))
    assert resident() - before < 16 * 2**20
    assert [float(part[0]) for part in in_parts(array)] == list(range(16))
    assert [float(part[-1]) for part in in_parts(array)] == list(range(16))
    assert resident() - before < 16 * 2**20
    array[...] = 1.0
    assert resident() - before > 48 * 2**20
    let_go(np.ones(3))


def test_a_full_disk_leaves_memory(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert type(scratch((4, 2**21), np.float32)) is np.ndarray
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert type(scratch((4, 2**21), np.float32)) is np.ndarray


def test_a_mapped_file_is_not_written(tmp_path):
    path = tmp_path / "values.bin"
    values = np.arange(24, dtype=np.int16)
    path.write_bytes(b"head" + values.tobytes())
    found = mapped(path, values.dtype, 4, (2, 3, 4), "F")
    assert np.array_equal(found, values.reshape(4, 3, 2).T)
    found[...] = 0
    assert path.read_bytes()[4:] == values.tobytes()


@pytest.mark.parametrize("extension", ["h5", "npy", "nii", "npz", "zarr"])
def test_large_files_hold_the_bytes_of_small_ones_and_are_read_from_disk(tmp_path, monkeypatch, extension):
    values = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
    volume = Volume(values, Geometry(("z", "y", "x"), spacing=(2.0, 1.0, 1.0), units="mm"))
    write_volume(tmp_path / f"small.{extension}", volume)
    small = read_volume(tmp_path / f"small.{extension}", "z,y,x" if extension == "npy" else None)
    monkeypatch.setattr(disk, "LEAST_BYTES", 1)
    write_volume(tmp_path / f"large.{extension}", volume)
    if extension != "zarr":
        assert (tmp_path / f"large.{extension}").read_bytes() == (tmp_path / f"small.{extension}").read_bytes()
    large = read_volume(tmp_path / f"large.{extension}", "z,y,x" if extension == "npy" else None)
    assert np.array_equal(large.array, small.array) and large.geometry.axes == small.geometry.axes
    stack = to_stack(large)
    assert np.array_equal(stack[:, 0], values)
    if extension != "npz":
        assert on_disk(stack)


def test_compressed_datasets_are_unpacked_on_disk(tmp_path, monkeypatch):
    values = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(">f4")
    with h5py.File(tmp_path / "packed.h5", "w") as file:
        file.create_dataset("y", data=values, chunks=(2, 7, 3), compression="gzip")
    monkeypatch.setattr(disk, "LEAST_BYTES", 1)
    found = read_measurement(tmp_path / "packed.h5").y
    assert isinstance(found, np.memmap) and found.dtype.isnative and np.array_equal(found, values)


def test_a_large_file_on_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "LEAST_BYTES", 1)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ResourceError, match="disk is full"):
        write_volume(tmp_path / "image.h5", Volume(np.ones((3, 4), np.float32), Geometry(("y", "x"))))
    assert not list(tmp_path.iterdir())


def test_a_conversion_gives_the_same_values_in_parts(monkeypatch):
    values = np.random.default_rng(0).integers(-9, 9, (5, 7, 3)).astype(np.int16)
    assert converted(values, np.int16) is values
    whole = converted(values, np.float32)
    monkeypatch.setattr(disk, "LEAST_BYTES", 1)
    parts = converted(values, np.float32)
    assert isinstance(parts, np.memmap) and parts.dtype == np.float32
    assert np.array_equal(parts, whole) and np.array_equal(whole, values)
