"""Arrays on disk: the same values as in memory, and none of its memory once they are let go of."""

from __future__ import annotations

import gzip
import os
import tempfile
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
import tifffile

from recon.data import Geometry, Volume, to_stack
from recon.errors import InputError, ResourceError
from recon.io import disk
from recon.io.axes import to_float32
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


@pytest.mark.parametrize("extension", ["h5", "npy", "nii", "nii.gz", "npz", "tiff", "zarr", "dicom"])
def test_large_files_hold_the_bytes_of_small_ones_and_are_read_from_disk(tmp_path, monkeypatch, extension):
    if extension == "dicom":
        pytest.importorskip("pydicom")
    values = np.random.default_rng(0).integers(-900, 900, (5, 7, 3)).astype(np.int16 if extension == "dicom" else "f4")
    volume = Volume(values, Geometry(("z", "y", "x"), spacing=(2.0, 1.0, 1.0), units="mm"))
    write_volume(tmp_path / f"small.{extension}", volume)
    small = read_volume(tmp_path / f"small.{extension}", "z,y,x" if extension == "npy" else None)
    monkeypatch.setattr(disk, "LEAST_BYTES", 1)
    write_volume(tmp_path / f"large.{extension}", volume)
    if extension == "dicom":
        pairs = zip(*(sorted((tmp_path / f"{size}.dicom").iterdir()) for size in ("small", "large")), strict=True)
        assert all(small.read_bytes() == large.read_bytes() for small, large in pairs)
    elif extension != "zarr":
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


def packed(path: Path, values: np.ndarray) -> dict[str, Path]:
    """Write a stack as the files that cannot be mapped as they lie, and return their names."""
    found = {
        name: path / name for name in ("deflated.tiff", "swapped.tiff", "tiled.tiff", "scaled.nii", "scaled.nii.gz")
    }
    told: dict[str, Any] = {"photometric": "minisblack", "metadata": {"axes": "ZYX"}}
    tifffile.imwrite(found["deflated.tiff"], values, compression="zlib", rowsperstrip=3, **told)
    tifffile.imwrite(found["swapped.tiff"], values, byteorder=">", **told)
    tifffile.imwrite(found["tiled.tiff"], values, tile=(16, 16), **told)
    for name in ("scaled.nii", "scaled.nii.gz"):
        image = nib.Nifti1Image(values.T, np.eye(4))
        image.header.set_slope_inter(0.5, -3.0)
        image.to_filename(found[name])
    return found


def test_what_cannot_be_mapped_is_unpacked_slice_by_slice(tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(-900, 900, (5, 7, 3)).astype(np.int16)
    files = packed(tmp_path, values)
    small = {name: read_volume(path) for name, path in files.items()}
    monkeypatch.setattr(disk, "LEAST_BYTES", 1)
    for name, path in files.items():
        large = read_volume(path)
        assert on_disk(large.array), name
        assert large.array.dtype == small[name].array.dtype and large.geometry.axes == small[name].geometry.axes
        np.testing.assert_array_equal(large.array, small[name].array, name)
        np.testing.assert_array_equal(to_stack(large)[:, 0], 0.5 * values - 3 if "scaled" in name else values)


def test_a_series_with_slopes_of_its_own_is_unpacked_slice_by_slice(tmp_path, monkeypatch):
    pydicom = pytest.importorskip("pydicom")
    values = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    volume = Volume(values, Geometry(("z", "y", "x"), spacing=(2.0, 1.0, 1.0), units="mm"))
    write_volume(tmp_path / "series.dicom", volume)
    last = tmp_path / "series.dicom" / "IM0004.dcm"
    data = pydicom.dcmread(last)
    data.RescaleSlope, data.RescaleIntercept = 1e35, 1e36  # beyond single precision: all slices become double
    data.save_as(last)
    small = read_volume(tmp_path / "series.dicom").array
    monkeypatch.setattr(disk, "LEAST_BYTES", 1)
    large = read_volume(tmp_path / "series.dicom").array
    assert on_disk(large) and large.dtype == small.dtype == np.float64
    np.testing.assert_array_equal(large, small)
    np.testing.assert_allclose(large[:3], values[:3], atol=1e-4)


@pytest.mark.parametrize("change", ["cut", "checksum", "flood"])
def test_damaged_compressed_volumes_are_refused_slice_by_slice_as_well(tmp_path, monkeypatch, change):
    path = tmp_path / "a.nii.gz"
    volume = Volume(np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32), Geometry(("z", "y", "x")))
    write_volume(path, volume)
    content = path.read_bytes()
    flood = gzip.compress(gzip.decompress(content) + bytes(70 * 2**20))
    path.write_bytes({"cut": content[:-60], "checksum": content[:-8] + bytes(8), "flood": flood}[change])
    monkeypatch.setattr(disk, "LEAST_BYTES", 1)
    with pytest.raises(InputError, match="not a readable NIfTI"):
        read_volume(path)


@pytest.mark.parametrize("told", [{"imagej": True}, {"ome": True}, {}, {"compression": "zlib"}])
def test_truncated_stacks_are_refused_slice_by_slice_as_well(tmp_path, monkeypatch, told):
    path = tmp_path / "a.tiff"
    values = np.random.default_rng(0).normal(size=(9, 40, 30)).astype(np.float32)
    tifffile.imwrite(path, values, metadata={"axes": "ZYX"}, **({"photometric": "minisblack"} | told))
    np.testing.assert_array_equal(read_volume(path).array, values)
    path.write_bytes(path.read_bytes()[:-3000])
    monkeypatch.setattr(disk, "LEAST_BYTES", 1)
    with pytest.raises(InputError, match="truncated or damaged"):
        read_volume(path)


def test_colour_stacks_are_written_plane_by_plane_with_the_same_bytes(tmp_path, monkeypatch):
    values = np.random.default_rng(0).integers(0, 255, (4, 6, 5, 3)).astype(np.uint8)
    volume = Volume(values, Geometry(("z", "y", "x", "c")))
    write_volume(tmp_path / "small.tiff", volume)
    monkeypatch.setattr(disk, "LEAST_BYTES", 1)
    write_volume(tmp_path / "large.tiff", volume)
    assert (tmp_path / "large.tiff").read_bytes() == (tmp_path / "small.tiff").read_bytes()
    np.testing.assert_array_equal(read_volume(tmp_path / "large.tiff").array, values)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([[1, -(2**15)]], np.int16), np.float32),
        (np.array([[1, 2**24]], np.int32), np.float32),
        (np.array([[1], [2**24 + 1]], np.int32), np.float64),
        (np.array([[1.1, np.inf, np.nan]]), np.float32),
        (np.array([[1.0], [1e39]]), np.float64),
        (np.array([[True, False]]), np.float32),
    ],
)
def test_single_precision_is_taken_where_it_holds_the_values(monkeypatch, values, dtype):
    assert to_float32(values).dtype == dtype
    np.testing.assert_array_equal(to_float32(values), values.astype(dtype))
    monkeypatch.setattr(disk, "LEAST_BYTES", 1)
    found = to_float32(values)
    assert found.dtype == dtype and (values.dtype == dtype or isinstance(found, np.memmap))
    np.testing.assert_array_equal(found, values.astype(dtype))
