"""MATLAB variables and Zarr stores, as SciPy, h5py and zarr write them; damaged, huge and linked ones refused."""

import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recon.data import Geometry, Volume
from recon.errors import InputError, OutputExistsError, ResourceError
from recon.io.describe import describe
from recon.io.operator_file import read_operator_file
from recon.io.registry import check_volume, read_measurement, read_volume, sniff, write_volume

STACK = np.arange(24, dtype=np.float64).reshape(2, 3, 4) + 0.5


def modern(path: Path, **variables: np.ndarray) -> Path:
    """Write a file of version 7.3 as MATLAB does: dimensions reversed, complex values as records, 512 bytes ahead."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in variables.items():
            stored = np.ascontiguousarray(array.T)
            if stored.dtype.kind == "c":
                stored = stored.view([("real", "<f8"), ("imag", "<f8")]).reshape(stored.shape)
            file[name] = stored
            kind = "char" if array.dtype == np.uint16 else "double"
            file[name].attrs["MATLAB_class"] = np.bytes_(kind)
        file.create_group("#refs#")["a"] = np.zeros(3)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: today".ljust(116))
        file.seek(124)
        file.write(b"\0\2IM")
    return path


@pytest.mark.parametrize("version", ["5", "5 compressed", "4", "7.3"])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_variables_keep_matlabs_order(tmp_path, version, dtype):
    array = (STACK[0] * (1 + 2j if dtype is np.complex128 else 1)).astype(dtype)
    path = tmp_path / "a.mat"
    if version == "7.3":
        modern(path, picture=array)
    else:
        form = {"format": "4"} if version == "4" else {"do_compression": "compressed" in version}
        scipy.io.savemat(path, {"picture": array}, **form)
    if version == "4":
        with pytest.raises(InputError, match="no known format"):
            sniff(path)
        return
    found = read_volume(path)
    assert sniff(path) == "matlab" and found.geometry.axes == ("y", "x")
    np.testing.assert_array_equal(found.array, array)
    np.testing.assert_array_equal(read_volume(path.read_bytes()).array, array)
    assert describe(path)["shape"] == [3, 4]


@pytest.mark.parametrize("write", [lambda p, **v: scipy.io.savemat(p, v), modern])
def test_one_of_several_variables_is_named(tmp_path, write):
    path = tmp_path / "a.mat"
    write(path, volume=STACK, y=STACK + 1, word=np.array([104, 105], np.uint16))
    np.testing.assert_array_equal(read_volume(f"{path}::volume", "yxz").array, STACK)
    np.testing.assert_array_equal(read_measurement(path).y, STACK + 1)
    with pytest.raises(InputError, match="no array 'nothing'"):
        read_volume(f"{path}::nothing")
    with pytest.raises(InputError, match=r"arrays in it: volume, y|arrays in it: volume, word, y"):
        read_volume(path)
    (tmp_path / "op.toml").write_text('kind = "matrix"\nin_shape = [1, 3, 4]\n[arrays]\nmatrix = "m.mat"\n')
    scipy.io.savemat(tmp_path / "m.mat", {"matrix": np.ones((2, 12))})
    assert read_operator_file(tmp_path / "op.toml").arrays["matrix"].shape == (2, 12)


def test_structures_and_objects_are_left_out(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"s": {"x": 1}, "c": np.array([1, "a"], object), "image": STACK[0]})
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mat").array, STACK[0])
    scipy.io.savemat(tmp_path / "b.mat", {"s": {"x": 1}})
    with pytest.raises(InputError, match="no array of numbers"):
        read_volume(tmp_path / "b.mat")


def test_damaged_and_huge_matlab_files_are_one_error(tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"image": STACK[0]}, do_compression=True)
    data = path.read_bytes()
    for length in (130, 140, len(data) - 5):
        with pytest.raises(InputError):
            read_volume(data[:length])
    size = 3 * 2**30
    bomb = zlib.compress((14).to_bytes(4, "little") + size.to_bytes(4, "little") + bytes(100))
    path.write_bytes(data[:128] + (15).to_bytes(4, "little") + len(bomb).to_bytes(4, "little") + bomb)
    with pytest.raises(InputError, match="bomb"):
        read_volume(path)


@settings(max_examples=20, deadline=None)
@given(
    array=hnp.arrays(st.sampled_from(["f4", "c8", "u1", "i2"]), hnp.array_shapes(min_dims=2, max_dims=3, max_side=4)),
    placed=st.booleans(),
)
def test_ome_zarr_round_trips(tmp_path_factory, array, placed):
    pytest.importorskip("zarr")
    axes = ("z", "y", "x")[-array.ndim :]
    geometry = Geometry(axes)
    if placed:
        affine = np.diag([1.5, -2.0, 3.0, 1.0])
        geometry = Geometry(axes, affine, (3.0, 2.0, 1.5)[-array.ndim :], "mm", (0.0, 7.0))
    path = tmp_path_factory.mktemp("z") / "a.zarr"
    write_volume(path, Volume(array, geometry))
    found = read_volume(path)
    np.testing.assert_array_equal(found.array, array, strict=True)
    assert sniff(path) == "zarr" and found.geometry.axes == axes
    if placed:
        np.testing.assert_array_equal(found.geometry.affine, geometry.affine)
        assert (found.geometry.spacing, found.geometry.units) == (geometry.spacing, "mm")
        assert found.geometry.value_range == (0.0, 7.0)


@pytest.mark.parametrize("version", [2, 3])
def test_stores_of_other_programs(tmp_path, version):
    zarr = pytest.importorskip("zarr")
    group = zarr.create_group(store=str(tmp_path / "a.zarr"), zarr_format=version)
    array = group.create_array("s0", shape=(1, 1, 2, 3, 4), chunks=(1, 1, 1, 3, 4), dtype="f8")
    array[...] = STACK[None, None]
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}]
    axes += [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    steps = [{"type": "scale", "scale": [1, 1, 5.0, 0.5, 0.25]}]
    about = [{"axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": steps}], "version": "0.4"}]
    group.attrs.update({"multiscales": about} if version == 2 else {"ome": {"multiscales": about}})
    found = read_volume(tmp_path / "a.zarr")
    np.testing.assert_array_equal(found.array, STACK)
    assert found.geometry.axes == ("z", "y", "x") and found.geometry.units == "um"
    assert found.geometry.spacing == (5.0, 0.5, 0.25)
    bare = zarr.create_array(store=str(tmp_path / "b"), shape=(3, 4), chunks=(3, 4), dtype="f8", zarr_format=version)
    bare[...] = STACK[0]
    np.testing.assert_array_equal(read_volume(tmp_path / "b").array, STACK[0])
    assert describe(tmp_path / "b")["format"] == "zarr"


def test_bad_stores_are_refused(tmp_path):
    zarr = pytest.importorskip("zarr")
    group = zarr.create_group(store=str(tmp_path / "a.zarr"))
    for name in ("one", "two"):
        group.create_array(name, shape=(3, 4), chunks=(3, 4), dtype="f8")[...] = STACK[0]
    with pytest.raises(InputError, match="2 arrays in it"):
        read_volume(tmp_path / "a.zarr")
    np.testing.assert_array_equal(read_volume(f"{tmp_path}/a.zarr::two").array, STACK[0])
    group.create_array("huge", shape=(10**6, 10**6), chunks=(10**3, 10**3), dtype="f8")
    with pytest.raises(InputError, match="bomb"):
        read_volume(f"{tmp_path}/a.zarr::huge")
    (tmp_path / "a.zarr" / "two" / "zarr.json").write_text("{")
    with pytest.raises(InputError, match="not a readable Zarr"):
        read_volume(f"{tmp_path}/a.zarr::two")
    (tmp_path / "a.zarr" / "out").symlink_to(tmp_path.parent)
    with pytest.raises(InputError, match="link out of the store"):
        read_volume(f"{tmp_path}/a.zarr::one")


def test_folders_are_replaced_whole_and_only_by_force(tmp_path):
    pytest.importorskip("zarr")
    path = tmp_path / "a.zarr"
    write_volume(path, Volume(STACK, Geometry(("z", "y", "x"))))
    with pytest.raises(OutputExistsError):
        write_volume(path, Volume(STACK[0], Geometry(("y", "x"))))
    write_volume(path, Volume(STACK[0], Geometry(("y", "x"))), force=True)
    np.testing.assert_array_equal(read_volume(path).array, STACK[0])
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_without_zarr_the_line_to_install_it_is_printed(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    with pytest.raises(ResourceError) as caught:
        check_volume(tmp_path / "a.zarr", Volume(STACK, Geometry(("z", "y", "x"))))
    assert caught.value.exit_code == 7 and "diffusion-recon[formats]" in caught.value.hint
