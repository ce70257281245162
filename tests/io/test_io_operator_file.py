"""Operator files: TOML with arrays beside it, and matrices; every bad file is one InputError."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import sparse

from recon.data import Geometry, Measurement, OperatorSpec, Volume
from recon.errors import InputError
from recon.io.operator_file import read_operator_file
from recon.io.registry import write_measurement, write_volume


def toml(folder: Path, text: str) -> Path:
    path = folder / "operator.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_toml_with_parameters_and_arrays_beside_it(tmp_path: Path) -> None:
    kernel = np.arange(9.0).reshape(3, 3)
    (tmp_path / "parts").mkdir()
    np.save(tmp_path / "parts/kernel.npy", kernel)
    text = 'kind = "blur"\nin_shape = [1, 64, 48]\n[params]\nboundary = "circular"\n'
    text += '[arrays]\nkernel = "parts/kernel.npy"\n'
    spec = read_operator_file(toml(tmp_path, text))
    assert (spec.kind, spec.in_shape, spec.params) == ("blur", (1, 64, 48), {"boundary": "circular"})
    np.testing.assert_array_equal(spec.arrays["kernel"], kernel)
    absolute = text.replace("parts/", f"{tmp_path}/parts/")
    np.testing.assert_array_equal(read_operator_file(absolute.encode()).arrays["kernel"], kernel)


def test_in_shape_may_be_left_out(tmp_path: Path) -> None:
    assert read_operator_file(toml(tmp_path, 'kind = "denoise"\n')) == OperatorSpec("denoise", {}, (), {})


def test_arrays_come_from_every_format(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 1], [1, 0, 1]], np.float32)
    write_volume(tmp_path / "m.png", Volume(mask, Geometry(("y", "x"), value_range=(0, 1))))
    write_volume(tmp_path / "m.tif", Volume(mask, Geometry(("y", "x"))))
    write_volume(tmp_path / "m.nii", Volume(mask.T[..., None], Geometry(("x", "y", "z"))))
    np.savez(tmp_path / "m.npz", other=np.zeros(3), mask=mask)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["deep/inside"], file["angles"] = mask, np.zeros(4)
    for name in ("m.png", "m.tif", "m.nii", "m.npz", "m.h5::deep/inside"):
        spec = read_operator_file(toml(tmp_path, f'kind = "inpaint"\n[arrays]\nmask = "{name}"\n'))
        np.testing.assert_array_equal(spec.arrays["mask"], mask, err_msg=name)


@pytest.mark.parametrize("name", ["a.npz", "a.h5"])
def test_dense_matrices(tmp_path: Path, name: str) -> None:
    matrix = np.random.default_rng(0).normal(size=(6, 12))
    items = {"matrix": matrix, "in_shape": np.array([1, 3, 4]), "out_shape": np.array([2, 3])}
    if name.endswith("npz"):
        np.savez(tmp_path / name, **items)
    else:
        with h5py.File(tmp_path / name, "w") as file:
            for key, value in items.items():
                file[key] = value
    spec = read_operator_file(tmp_path / name)
    assert (spec.kind, spec.in_shape, spec.params) == ("matrix", (1, 3, 4), {"out_shape": [2, 3]})
    np.testing.assert_array_equal(spec.arrays["matrix"], matrix)


def test_a_bare_npy_matrix_leaves_in_shape_open(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 3)))
    spec = read_operator_file(tmp_path / "a.npy")
    assert spec.in_shape == () and spec.arrays["matrix"].shape == (2, 3)
    np.save(tmp_path / "a.npy", np.ones((2, 3, 4)))
    with pytest.raises(InputError, match=r"expected \(M, N\)"):
        read_operator_file(tmp_path / "a.npy")


def csr_items() -> dict[str, np.ndarray]:
    matrix = sparse.random(6, 12, 0.4, "csr", random_state=np.random.default_rng(0))
    items = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr, "shape": np.array(matrix.shape)}
    return items | {"in_shape": np.array([1, 3, 4])}


def test_sparse_matrices_and_files_of_scipy(tmp_path: Path) -> None:
    items = csr_items()
    np.savez(tmp_path / "a.npz", **items)
    spec = read_operator_file(tmp_path / "a.npz")
    assert spec.kind == "matrix" and spec.in_shape == (1, 3, 4) and sorted(spec.arrays) == ["data", "indices", "indptr"]
    matrix = sparse.csr_matrix(tuple(items[k] for k in ("data", "indices", "indptr")), tuple(items["shape"]))
    sparse.save_npz(tmp_path / "b.npz", matrix)
    sparse.save_npz(tmp_path / "c.npz", matrix.tocsc())
    text = 'kind = "matrix"\nin_shape = [1, 3, 4]\n[arrays]\nmatrix = "{}"\n'
    spec = read_operator_file(toml(tmp_path, text.format("b.npz")))
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(spec.arrays[name], items[name])
    with pytest.raises(InputError, match="CSR"):
        read_operator_file(toml(tmp_path, text.format("c.npz")))
    with pytest.raises(InputError, match="without the shape of its images"):
        read_operator_file(tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("in_shape", np.array([1, 3, 5]), "set in_shape|expected"),
        ("shape", np.array([7, 12]), "expected"),
        ("in_shape", np.array([-1, 3, 4]), "positive whole numbers"),
        ("in_shape", np.array([1.5, 8.0]), "positive whole numbers"),
        ("indptr", np.array([0, 99, 1, 2, 3, 4, 5]), "do not fit"),
        ("indices", np.zeros(3, np.int32), "do not fit"),
        ("indices", np.zeros(29), "whole numbers"),
        ("data", np.full(29, np.nan), "NaN"),
        ("data", np.array(["a"] * 29), "text"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(tmp_path: Path, key: str, value: np.ndarray, message: str) -> None:
    assert csr_items()["data"].size == 29
    np.savez(tmp_path / "a.npz", **(csr_items() | {key: value}))
    with pytest.raises(InputError, match=message) as caught:
        read_operator_file(tmp_path / "a.npz")
    assert "\n" not in caught.value.message


def test_a_measurement_file_gives_its_operator(tmp_path: Path) -> None:
    operator = OperatorSpec("blur", {"a": 1}, (1, 2, 2), {"kernel": np.ones((3, 3))})
    write_measurement(tmp_path / "m.h5", Measurement(np.zeros((1, 2, 2)), operator))
    spec = read_operator_file(tmp_path / "m.h5")
    assert (spec.kind, spec.params, spec.in_shape) == ("blur", {"a": 1}, (1, 2, 2))
    write_measurement(tmp_path / "n.h5", Measurement(np.zeros((1, 2, 2))))
    with pytest.raises(InputError, match="does not say its operator"):
        read_operator_file(tmp_path / "n.h5")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no kind"),
        ("kind = 3\n", "no kind"),
        ('kind = "blur"\nkind = "ct"\n', "not valid TOML"),
        ('kind = "blur\n', "not valid TOML"),
        ('kind = "blur"\nparam = 1\n', "did you mean 'params'"),
        ('kind = "blur"\nparams = 1\n', "tables"),
        ('kind = "blur"\nin_shape = [1, 0]\n', "positive whole numbers"),
        ('kind = "blur"\nin_shape = [true, 4]\n', "positive whole numbers"),
        ('kind = "blur"\n[params]\na = 2020-01-01\n', "not a number"),
        ('kind = "blur"\n[arrays]\nkernel = 3\n', "not the path"),
        ('kind = "blur"\n[arrays]\nkernel = "absent.npy"\n', "cannot read .*absent.npy: no such file"),
        ('kind = "blur"\n[arrays]\nkernel = "/absent/kernel.npy"\n', "cannot read /absent/kernel.npy"),
        ('kind = "blur"\n[arrays]\nkernel = "operator.toml"\n', "expected an image"),
        ("a = " + "[" * 5000, "not valid TOML"),
    ],
)
def test_bad_toml_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_operator_file(toml(tmp_path, text))
    assert "\n" not in caught.value.message and caught.value.exit_code == 3


def test_other_files_are_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.png", Volume(np.zeros((2, 2), np.uint8), Geometry(("y", "x"))))
    np.savez(tmp_path / "a.npz", something=np.zeros(3))
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\0")
    (tmp_path / "big.toml").write_bytes(b"#" * (2**20 + 1))
    np.save(tmp_path / "nan.npy", np.full((2, 2), np.nan))
    for name, message in (
        ("a.png", "a png file"),
        ("a.npz", "no matrix"),
        ("b.toml", "not valid TOML"),
        ("big.toml", "short TOML"),
        ("nan.npy", "NaN"),
        ("absent.toml", "cannot read"),
    ):
        with pytest.raises(InputError, match=message):
            read_operator_file(tmp_path / name)
