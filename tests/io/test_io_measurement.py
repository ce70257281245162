"""Measurement files: exact round trips in both forms, readable without us, bad ones refused."""

import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recon.data import Geometry, Measurement, NoiseSpec, OperatorSpec, Volume
from recon.errors import InputError, OutputExistsError, UsageError
from recon.io import measurement as layout
from recon.io.registry import read_measurement, read_volume, write_measurement, write_volume

DTYPES = ("bool", "u1", "i2", "i8", "f2", "f4", "f8", "c8", "c16")
FINITE = {"allow_nan": False, "allow_infinity": False}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(**FINITE) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def arrays(min_dims: int = 0) -> st.SearchStrategy[np.ndarray]:
    def elements(dtype: str) -> st.SearchStrategy[np.ndarray]:
        kind = np.dtype(dtype).kind
        finite = FINITE if kind in "fc" else {}
        values = hnp.from_dtype(np.dtype(dtype), **finite)
        return hnp.arrays(dtype, hnp.array_shapes(min_dims=min_dims, max_dims=4, max_side=4), elements=values)

    return st.sampled_from(DTYPES).flatmap(elements)


OPERATORS = st.builds(
    OperatorSpec,
    st.text("abc-", min_size=1),
    st.dictionaries(st.text(max_size=6), JSON, max_size=3),
    st.lists(st.integers(1, 512), max_size=4).map(tuple),
    st.dictionaries(st.text("mask_1", min_size=1), arrays(), max_size=3),
)
LEVELS = st.floats(0, 1e9)
NOISES = st.one_of(
    st.builds(NoiseSpec, st.sampled_from(["gaussian", "poisson", "none"]), LEVELS, LEVELS),
    st.builds(NoiseSpec, st.just("transmission"), LEVELS, LEVELS, st.floats(1e-9, 1e9)),
)
GEOMETRIES = st.builds(
    Geometry,
    st.permutations(["z", "y", "x"]).map(tuple),
    st.none() | hnp.arrays(np.float64, (4, 4), elements=st.floats(-1e6, 1e6)),
    st.none() | st.tuples(*[st.floats(1e-6, 1e6)] * 3),
    st.none() | st.sampled_from(["mm", "µm"]),
    st.none() | st.just((0.0, 255.0)),
    st.dictionaries(st.text(max_size=5), JSON, max_size=2),
)
MEASUREMENTS = st.builds(
    Measurement,
    arrays(min_dims=1),
    st.none() | OPERATORS,
    st.none() | NOISES,
    st.none() | GEOMETRIES,
    st.dictionaries(st.text(max_size=5), JSON, max_size=2),
)


def same(a: np.ndarray, b: np.ndarray) -> None:
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_array_equal(a, b)


def example() -> Measurement:
    rng = np.random.default_rng(0)
    y = (rng.normal(size=(2, 4, 6, 5)) + 1j * rng.normal(size=(2, 4, 6, 5))).astype(np.complex64)
    maps = rng.normal(size=(4, 6, 5)).astype(np.complex64)
    operator = OperatorSpec(
        "mri", {"acceleration": 4, "seed": None}, (1, 6, 5), {"mask": maps[0].real > 0, "maps": maps}
    )
    geometry = Geometry(
        ("x", "y", "z"), np.diag([1.0, 2, 3, 1]), (1.0, 2.0, 3.0), "mm", None, {"nifti": {"sform_code": 1}}
    )
    return Measurement(y, operator, NoiseSpec("gaussian", 0.25), geometry, {"command": "recon simulate"})


@pytest.mark.parametrize("form", ["npz", "hdf5"])
@settings(max_examples=40, deadline=None)
@given(measurement=MEASUREMENTS)
def test_measurements_round_trip_exactly(form: str, measurement: Measurement) -> None:
    stream = io.BytesIO()
    layout.write_stream(stream, measurement, form)
    back = read_measurement(stream.getvalue())
    same(back.y, measurement.y)
    assert back.provenance == measurement.provenance and back.noise == measurement.noise
    assert (back.operator is None) == (measurement.operator is None)
    if back.operator is not None and measurement.operator is not None:
        one, two = back.operator, measurement.operator
        assert (one.kind, one.params, one.in_shape) == (two.kind, two.params, two.in_shape)
        assert sorted(one.arrays) == sorted(two.arrays)
        for name in one.arrays:
            same(one.arrays[name], two.arrays[name])
    assert (back.geometry is None) == (measurement.geometry is None)
    if back.geometry is not None and measurement.geometry is not None:
        assert replace(back.geometry, affine=None) == replace(measurement.geometry, affine=None)
        np.testing.assert_array_equal(back.geometry.affine, measurement.geometry.affine)


@pytest.mark.parametrize("name", ["m.h5", "m.npz"])
def test_files_are_reproducible_and_never_overwritten(tmp_path: Path, name: str) -> None:
    write_measurement(tmp_path / name, example())
    first = (tmp_path / name).read_bytes()
    with pytest.raises(OutputExistsError):
        write_measurement(tmp_path / name, example())
    write_measurement(tmp_path / name, read_measurement(tmp_path / name), force=True)
    assert (tmp_path / name).read_bytes() == first


def test_h5py_and_numpy_alone_read_the_documented_layout(tmp_path: Path) -> None:
    write_measurement(tmp_path / "m.h5", example())
    write_measurement(tmp_path / "m.npz", example())
    keys = {
        *("format", "version", "y", "provenance", "operator/kind", "operator/params", "operator/in_shape"),
        *("operator/arrays/mask", "operator/arrays/maps", "noise/kind", "noise/sigma", "noise/gain"),
        *("geometry/axes", "geometry/affine", "geometry/spacing", "geometry/units", "geometry/meta"),
    }
    with h5py.File(tmp_path / "m.h5") as file:
        found: set[str] = set()
        file.visititems(lambda name, item: found.add(name) if isinstance(item, h5py.Dataset) else None)
        assert found == keys
        same(file["y"][()], example().y)
        assert file["operator/kind"].asstr()[()] == "mri" and file["noise/sigma"][()] == 0.25
        assert json.loads(file["operator/params"].asstr()[()]) == {"acceleration": 4, "seed": None}
    with np.load(tmp_path / "m.npz", allow_pickle=False) as file:
        assert set(file.files) == keys and str(file["geometry/axes"]) == "x,y,z"
        same(file["operator/arrays/maps"], example().operator.arrays["maps"])  # type: ignore[union-attr]


def test_a_file_made_with_h5py_alone_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["format"], file["version"], file["y"] = "recon-measurement", 1, np.ones((1, 4, 4), np.float32)
        file["operator/kind"], file["operator/params"] = "blur", '{"sigma": 2.0}'
        file["operator/in_shape"] = [1, 4, 4]
    found = read_measurement(tmp_path / "m.h5")
    assert found.operator == OperatorSpec("blur", {"sigma": 2.0}, (1, 4, 4), {})
    assert found.noise is None and found.geometry is None and found.provenance == {}


def rewritten(tmp_path: Path, key: str, value: object) -> Path:
    """Return a measurement file with one dataset replaced, or removed where the value is None."""
    path = tmp_path / "m.h5"
    write_measurement(path, example(), force=True)
    with h5py.File(path, "a") as file:
        del file[key]
        if value is not None:
            file[key] = value
    return path


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "version 2, expected 1"),
        ("version", None, "version 0, expected 1"),
        ("version", "one", "text"),
        ("y", None, "lacks 'y'"),
        ("y", "text", "text"),
        ("y", np.full((2, 2), np.nan), "NaN"),
        ("y", np.array([1 + 1j * np.inf]), "NaN or infinite"),
        ("operator/arrays/maps", np.array([np.inf]), "'maps'"),
        ("operator/kind", None, "lacks 'operator/kind'"),
        ("operator/params", "{", "not valid JSON"),
        ("operator/params", "[1]", "not a JSON object"),
        ("operator/in_shape", [1.5, 2.0], "list of sizes"),
        ("operator/in_shape", [0, 2], "list of sizes"),
        ("noise/kind", "pink", "noise 'pink'"),
        ("noise/sigma", -1.0, "sigma -1.0"),
        ("noise/sigma", math.nan, "sigma nan"),
        ("geometry/axes", "x,y,w", "not valid"),
        ("geometry/affine", np.eye(3), "shape"),
        ("geometry/spacing", [1.0], "shape"),
    ],
)
def test_bad_contents_are_refused_with_one_line(tmp_path: Path, key: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_measurement(rewritten(tmp_path, key, value))
    assert "\n" not in caught.value.message and caught.value.exit_code == 3


def test_bare_arrays_stay_as_they_are(tmp_path: Path) -> None:
    y = np.arange(24, dtype=np.complex64).reshape(2, 3, 4)
    np.save(tmp_path / "a.npy", y)
    np.savez(tmp_path / "a.npz", y=y, other=np.zeros(3))
    np.savez(tmp_path / "b.npz", kspace=y)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"], file["weights"] = y, np.ones(4)
    for name in ("a.npy", "a.npz", "b.npz", "a.h5::kspace"):
        found = read_measurement(f"{tmp_path}/{name}")
        same(found.y, y)
        assert (found.operator, found.noise, found.geometry, found.provenance) == (None, None, None, {})
    same(read_measurement((tmp_path / "a.npy").read_bytes()).y, y)
    same(read_measurement((tmp_path / "a.npz").read_bytes()).y, y)
    with pytest.raises(InputError, match="2 arrays in it: kspace, weights"):
        read_measurement(tmp_path / "a.h5")


def test_nan_in_bare_arrays_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1.0, np.nan], [np.inf, 0]]))
    with pytest.raises(InputError, match=r"2 of 4 values are NaN or infinite \(shape \(2, 2\)\)"):
        read_measurement(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npz", "a.h5"])
def test_measured_pictures_bring_their_geometry(tmp_path: Path, name: str) -> None:
    array = np.random.default_rng(0).integers(0, 256, (6, 5, 3)).astype(np.uint8)
    write_volume(tmp_path / name, Volume(array, Geometry(("y", "x", "c"), value_range=(0, 255))))
    found = read_measurement(tmp_path / name)
    same(found.y, np.ascontiguousarray(array.transpose(2, 0, 1)[None]))
    assert found.geometry is not None and found.geometry.value_range == (0, 255)


def test_named_axes_make_an_array_a_stack(tmp_path: Path) -> None:
    array = np.arange(24.0).reshape(2, 3, 4)
    np.save(tmp_path / "a.npy", array)
    found = read_measurement(tmp_path / "a.npy", axes="cyx")
    assert found.y.shape == (1, 2, 3, 4) and found.geometry is not None and found.geometry.axes == ("c", "y", "x")


def test_dash_writes_npz_that_bytes_give_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdout:
        buffer = io.BytesIO()

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stdout", Stdout())
    write_measurement("-", example())
    same(read_measurement(Stdout.buffer.getvalue()).y, example().y)


def test_measurements_are_not_images_and_pictures_hold_none(tmp_path: Path) -> None:
    write_measurement(tmp_path / "m.h5", example())
    with pytest.raises(InputError, match="holds a measurement") as caught:
        read_volume(tmp_path / "m.h5")
    assert "recon run" in str(caught.value.hint)
    for name in ("m.npy", "m.tif", "m"):
        with pytest.raises(UsageError, match="measurement files"):
            write_measurement(tmp_path / name, example())


def test_names_that_would_leave_their_group_are_refused(tmp_path: Path) -> None:
    for name in ("../y", "a/b", "", ".hidden"):
        operator = OperatorSpec("blur", {}, (1, 2, 2), {name: np.ones(2)})
        with pytest.raises(InputError, match="cannot be stored"):
            write_measurement(tmp_path / "m.npz", replace(example(), operator=operator))
    assert list(tmp_path.iterdir()) == []
