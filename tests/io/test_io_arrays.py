"""npy, npz and HDF5 images: exact round trips, axes named or refused, hostile files refused with bounded memory."""

import io
import os
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recon.data import Geometry, Volume
from recon.errors import InputError
from recon.io import hdf5, npy, npz
from recon.io.registry import read_volume, write_volume

DTYPES = ("bool", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "c16", ">f4", ">i2", ">c16")
AXES = {2: ("y", "x"), 3: ("z", "y", "x"), 4: ("n", "c", "y", "x")}


@st.composite
def volumes(draw: st.DrawFn) -> Volume:
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    array = draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5)))
    axes = draw(st.permutations(AXES[array.ndim]))
    spacing = draw(st.none() | st.tuples(*[st.floats(1e-3, 1e3)] * array.ndim))
    affine = draw(st.none() | hnp.arrays(np.float64, (4, 4), elements=st.floats(-1e6, 1e6)))
    limits = draw(st.just((0.0, 2.5)) | st.just((-1.0, 1.0)))
    units = draw(st.none() | st.sampled_from(["mm", "µm", "voxel size"]))
    meta = draw(st.dictionaries(st.text("abc", min_size=1), st.integers() | st.text() | st.booleans(), max_size=3))
    return Volume(array, Geometry(tuple(axes), affine, spacing, units, limits, meta))


def same(a: np.ndarray, b: np.ndarray) -> None:
    assert a.dtype == b.dtype.newbyteorder("=") and a.shape == b.shape
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("module", [npz, hdf5])
@settings(max_examples=40, deadline=None)
@given(volume=volumes())
def test_npz_and_hdf5_images_round_trip_exactly(module: object, volume: Volume) -> None:
    stream = io.BytesIO()
    module.write(stream, volume)  # type: ignore[attr-defined]
    back = read_volume(stream.getvalue())
    same(back.array, volume.array)
    one, two = back.geometry, volume.geometry
    assert (one.axes, one.spacing, one.units, one.value_range, one.meta) == (
        two.axes,
        two.spacing,
        two.units,
        two.value_range,
        two.meta,
    )
    assert (one.affine is None) == (two.affine is None)
    if one.affine is not None:
        np.testing.assert_array_equal(one.affine, two.affine)


@settings(max_examples=60, deadline=None)
@given(volume=volumes())
def test_npy_round_trips_exactly_and_equal_content_gives_equal_bytes(volume: Volume) -> None:
    volume = Volume(volume.array, Geometry(volume.geometry.axes, meta={"format": "npy"}))
    first, second = io.BytesIO(), io.BytesIO()
    npy.write(first, volume)
    npy.write(second, volume)
    assert first.getvalue() == second.getvalue()
    same(read_volume(first.getvalue(), volume.geometry.axes).array, volume.array)
    np.testing.assert_array_equal(np.load(io.BytesIO(first.getvalue())), volume.array)


def test_column_major_npy_is_read_as_it_is() -> None:
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    np.save(stream := io.BytesIO(), array)
    same(read_volume(stream.getvalue()).array, np.ascontiguousarray(array))


def test_npy_of_an_image_with_named_axes_is_in_the_default_order(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(2, 3)
    write_volume(tmp_path / "out.npy", Volume(array, Geometry(("x", "y"))))
    back = read_volume(tmp_path / "out.npy")
    assert back.geometry.axes == ("y", "x")
    np.testing.assert_array_equal(back.array, array.T)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((4, 5), ("y", "x")),
        ((1, 4, 5), ("z", "y", "x")),
        ((4, 5, 1), ("y", "x", "c")),
        ((1, 1, 4, 5), ("n", "c", "y", "x")),
    ],
)
def test_axes_without_doubt_are_taken(shape: tuple[int, ...], axes: tuple[str, ...]) -> None:
    np.save(stream := io.BytesIO(), np.zeros(shape))
    assert read_volume(stream.getvalue()).geometry.axes == axes


@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 5, 3), (1, 4, 1), (2, 1, 4, 5), (7,), (1, 1, 1, 4, 5)])
def test_axes_in_doubt_are_an_error_that_names_the_option(shape: tuple[int, ...]) -> None:
    np.save(stream := io.BytesIO(), np.zeros(shape))
    with pytest.raises(InputError, match="does not say which axis") as caught:
        read_volume(stream.getvalue())
    assert "--axes" in str(caught.value.hint) or len(shape) not in (3, 4)


def test_given_axes_win_and_must_fit() -> None:
    np.save(stream := io.BytesIO(), np.zeros((3, 4, 5)))
    data = stream.getvalue()
    assert read_volume(data, "zyx").geometry.axes == ("z", "y", "x")
    assert read_volume(data, "c, y, x").geometry.axes == ("c", "y", "x")
    for axes in ("yx", "zzy", "qyx", ""):
        with pytest.raises(InputError, match="axes"):
            read_volume(data, axes)


def test_only_pictures_types_declare_a_range() -> None:
    found = {}
    for dtype in ("u1", "u2", "bool", "i2", "f4"):
        np.save(stream := io.BytesIO(), np.zeros((2, 2), dtype))
        found[dtype] = read_volume(stream.getvalue()).geometry.value_range
    assert found == {"u1": (0, 255), "u2": (0, 65535), "bool": (0, 1), "i2": None, "f4": None}


def test_npz_from_numpy_is_read(tmp_path: Path) -> None:
    array = np.arange(24.0).reshape(2, 3, 4)
    np.savez_compressed(tmp_path / "a.npz", image=array, axes=np.array(["z", "y", "x"]))
    np.savez(tmp_path / "b.npz", only=array[0])
    np.savez(tmp_path / "c.npz", one=array[0], two=array[1])
    volume = read_volume(tmp_path / "a.npz")
    assert volume.geometry.axes == ("z", "y", "x")
    same(volume.array, array)
    same(read_volume(tmp_path / "b.npz").array, array[0])
    with pytest.raises(InputError, match="2 arrays in it: one, two") as caught:
        read_volume(tmp_path / "c.npz")
    assert str(caught.value.hint).endswith("c.npz::one")
    same(read_volume(f"{tmp_path}/c.npz::two").array, array[1])
    with pytest.raises(InputError, match="no array 'three'"):
        read_volume(f"{tmp_path}/c.npz::three")


def test_plain_hdf5_finds_the_one_dataset_or_the_named_one(tmp_path: Path) -> None:
    array = np.arange(12.0).reshape(3, 4)
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512) as file:
        file["entry/data"] = array
        file["entry/angle"] = np.zeros(3)
        file["entry/alias"] = h5py.SoftLink("/entry/data")
    same(read_volume(tmp_path / "a.h5").array, array)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.create_dataset("entry/more", data=array + 1, chunks=(2, 2), compression="gzip")
    with pytest.raises(InputError, match="2 arrays in it"):
        read_volume(tmp_path / "a.h5")
    same(read_volume(f"{tmp_path}/a.h5::/entry/more").array, array + 1)


def test_pickles_are_refused(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}, None], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", y=objects)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(InputError, match="pickled"):
            read_volume(f"{tmp_path}/{name}" + ("::y" if name.endswith("z") else ""))


@pytest.mark.parametrize(
    "array", [np.array(["a"]), np.zeros(2, "f4,i4"), np.zeros((2, 2), "M8[s]"), np.zeros((2, 2), "g")]
)
def test_other_types_are_refused(array: np.ndarray) -> None:
    np.save(stream := io.BytesIO(), array)
    with pytest.raises(InputError, match="expected numbers"):
        read_volume(stream.getvalue())


def npy_header(shape: str) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize("shape", ["(1099511627776, 1099511627776)", "(-4, 4)", "(4294967296, 4294967296, 4)", "(9,9)"])
def test_absurd_npy_headers_are_refused_without_allocating(shape: str) -> None:
    data = npy_header(shape) + bytes(64)
    tracemalloc.start()
    with pytest.raises(InputError):
        read_volume(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_bytes_after_the_array_are_refused() -> None:
    np.save(stream := io.BytesIO(), np.zeros((2, 2)))
    np.save(stream, np.ones((2, 2)))
    with pytest.raises(InputError, match="needs 160 bytes, got 320"):
        read_volume(stream.getvalue())


@pytest.mark.parametrize("filler", [0, 3 * 2**20])
def test_zip_bombs_are_refused_before_they_are_unpacked(tmp_path: Path, filler: int) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("filler.npy", os.urandom(filler), zipfile.ZIP_STORED)
        with archive.open("image.npy", "w") as member:
            member.write(npy_header("(6400, 6400)"))
            for _ in range(320):
                member.write(bytes(2**20))
    assert os.path.getsize(path) < 2 * 2**20 + filler
    tracemalloc.start()
    with pytest.raises(InputError, match="decompression bomb"):
        read_volume(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_members_that_lie_about_their_size_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", image=np.zeros((64, 64)))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    place = data.rindex(b"PK\x01\x02") + 24
    for size in (10, 20_000, 2**31):
        data[place : place + 4] = size.to_bytes(4, "little")
        with pytest.raises(InputError):
            read_volume(bytes(data))


def test_zip_archives_of_other_things_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("readme.txt", "no arrays")
    with pytest.raises(InputError, match="not one of NumPy arrays"):
        read_volume(tmp_path / "a.npz")


def test_hdf5_that_leads_to_other_files_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(128))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = np.zeros((4, 4))
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["image"] = h5py.ExternalLink("other.h5", "/image")
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("image", (4, 4), "f8", external=[(str(secret), 0, 128)])
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout((4, 4), "f8")
        layout[:] = h5py.VirtualSource("other.h5", "image", (4, 4))
        file.create_virtual_dataset("image", layout)
    for name in ("link", "external", "virtual"):
        with pytest.raises(InputError, match="refused"):
            read_volume(tmp_path / f"{name}.h5")


def test_hdf5_that_declares_what_it_does_not_hold_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("image", (2**20, 2**20), "f4", chunks=(64, 64))[0, 0] = 1
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file.create_dataset("image", (8, 8), "f4")
    with h5py.File(tmp_path / "loop.h5", "w") as file:
        group = file.create_group("a")
        group["again"], group["twice"] = group, file["/"]
    for name, message in (("huge", "bomb"), ("empty", "holds no data"), ("loop", "no array of numbers")):
        with pytest.raises(InputError, match=message):
            read_volume(tmp_path / f"{name}.h5")
