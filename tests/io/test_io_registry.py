"""Every format: known by its content, damaged files are one InputError, facts are strict JSON, listing is light."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from recon.data import Geometry, Measurement, NoiseSpec, OperatorSpec, Volume
from recon.errors import InputError, ReconError, ResourceError
from recon.io.describe import describe
from recon.io.registry import (
    FORMATS,
    check_volume,
    read_measurement,
    read_volume,
    sniff,
    write_measurement,
    write_volume,
)

RNG = np.random.default_rng(0)
STACK = RNG.normal(size=(3, 8, 9)).astype(np.float32)
PICTURE = RNG.integers(0, 65536, (8, 9, 3)).astype(np.uint16)
SPEC = OperatorSpec("inpaint", {"keep": 0.5}, (1, 8, 9), {"mask": STACK[0] > 0})
MEASURED = Measurement(STACK[:, None], SPEC, NoiseSpec("gaussian", 0.1), Geometry(("z", "y", "x"), np.eye(4)))
KSPACE = Measurement(
    (STACK[:, None] + 1j).astype(np.complex64), OperatorSpec("mri", {}, (1, 8, 9), {"mask": np.ones(9, np.uint8)})
)
WRITTEN: dict[str, Volume] = {
    "npy": Volume(STACK[0], Geometry(("y", "x"))),
    "npz": Volume(STACK, Geometry(("z", "y", "x"))),
    "h5": Volume(STACK, Geometry(("z", "y", "x"))),
    "png": Volume(PICTURE, Geometry(("y", "x", "c"))),
    "tif": Volume(STACK, Geometry(("z", "y", "x"))),
    "nii": Volume(STACK, Geometry(("x", "y", "z"))),
    "nii.gz": Volume(STACK, Geometry(("x", "y", "z"))),
}
NAMES = {"h5": "hdf5", "tif": "tiff", "nii.gz": "nifti", "nii": "nifti"}
TIFFS: dict[str, dict[str, object]] = {
    "compressed.tif": {"compression": "zlib", "metadata": {"axes": "ZYX"}},
    "tiled.tif": {"tile": (16, 16), "metadata": {"axes": "ZYX"}},
    "imagej.tif": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "ome.tif": {"ome": True, "metadata": {"axes": "ZYX"}},
    "pages.tif": {"metadata": None},
}


def encoded(name: str) -> bytes:
    """Return the bytes of a sample file of each kind."""
    stream = io.BytesIO()
    if name in TIFFS:
        photometric = {} if name == "imagej.tif" else {"photometric": "minisblack"}
        tifffile.imwrite(stream, STACK, **photometric, **TIFFS[name])
        return stream.getvalue()
    if name.startswith("measurement."):
        from recon.io.measurement import write_stream

        write_stream(stream, MEASURED, {"h5": "hdf5"}.get(name[12:], name[12:]))
        return stream.getvalue()
    raise KeyError(name)


def sample(folder: Path, name: str) -> bytes:
    if name in WRITTEN:
        write_volume(folder / f"sample.{name}", WRITTEN[name])
        return (folder / f"sample.{name}").read_bytes()
    return encoded(name)


def load(name: str) -> Callable[[bytes], np.ndarray]:
    if name.startswith("measurement."):
        return lambda data: read_measurement(data).y
    return lambda data: read_volume(data, "zyx" if name == "pages.tif" else None).array


SAMPLES = [*WRITTEN, *TIFFS, "measurement.npz", "measurement.h5"]


@pytest.mark.parametrize("name", SAMPLES)
def test_truncated_files_are_one_error_and_never_part_of_an_image(tmp_path: Path, name: str) -> None:
    data, read = sample(tmp_path, name), load(name)
    whole = read(data)
    lengths = {*range(0, 64, 7), *np.linspace(64, len(data) - 1, 25).astype(int), *range(len(data) - 12, len(data))}
    failed = 0
    for length in sorted(lengths):
        try:
            found = read(data[:length])
        except InputError as err:
            failed += 1
            assert "\n" not in err.message and len(err.message) < 400
        else:
            np.testing.assert_array_equal(found, whole, strict=True)
            assert length > len(data) * 0.75
    assert failed > len(lengths) / 2


@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_bytes_raise_nothing_but_our_errors(tmp_path: Path, name: str) -> None:
    data, read = sample(tmp_path, name), load(name)
    rng = np.random.default_rng(1)
    failed = 0
    for _ in range(60):
        damaged = bytearray(data)
        for place in rng.integers(0, min(len(data), 600), 3):
            damaged[place] = rng.choice([0, 1, 127, 128, 255])
        try:
            read(bytes(damaged))
        except (InputError, ResourceError) as err:
            failed += 1
            assert "\n" not in err.message
    assert failed > 0


@pytest.mark.parametrize("name", list(WRITTEN))
@pytest.mark.parametrize("extension", [".npy", ".nii.gz", ".toml", ".dat", ""])
def test_content_decides_whatever_the_extension(tmp_path: Path, name: str, extension: str) -> None:
    path = tmp_path / f"wrong{extension}"
    path.write_bytes(sample(tmp_path, name))
    assert sniff(path) == NAMES.get(name, name)
    np.testing.assert_array_equal(read_volume(path).array, WRITTEN[name].array, strict=True)


def test_the_extension_breaks_ties(tmp_path: Path) -> None:
    data = bytearray(sample(tmp_path, "h5"))
    both = bytes(344) + b"n+1\0" + bytes(164) + bytes(data)
    (tmp_path / "a.h5").write_bytes(both)
    (tmp_path / "a.nii").write_bytes(both)
    assert (sniff(tmp_path / "a.h5"), sniff(tmp_path / "a.nii")) == ("hdf5", "nifti")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"hello world" * 40, "no known format"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "JPEG"),
        (bytes(128) + b"DICM" + bytes(100), "DICOM"),
        (b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x80\x04\x95" + bytes(100), "pickle"),
        (b"\x1f\x8b\x08\x00" + bytes(100), "no known format"),
        (b"PK\x03\x04" + bytes(100), "not a readable .npz"),
        (b"\x93NUMPY" + bytes(100), "not a readable .npy"),
    ],
)
def test_unknown_contents_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(InputError, match=message) as caught:
            read_volume(source)
        assert caught.value.exit_code == 3 and caught.value.hint


def test_unknown_contents_list_the_formats() -> None:
    with pytest.raises(InputError) as caught:
        sniff(b"hello world")
    assert all(name in str(caught.value.hint) for name in FORMATS)


@pytest.mark.parametrize("name", ["absent.npy", ".", "absent/a.npy", "a\0b.npy", ""])
def test_paths_that_cannot_be_opened_are_input_errors(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot read") as caught:
        read_volume(f"{tmp_path}/{name}" if name else "")
    assert "\n" not in caught.value.message


def test_reading_from_a_pipe(tmp_path: Path) -> None:
    data = sample(tmp_path, "npz")
    command = "import sys; from recon.io.registry import read_volume; print(read_volume('/dev/stdin').array.shape)"
    done = subprocess.run([sys.executable, "-c", command], input=data, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "(3, 8, 9)"


def test_listing_formats_imports_nothing_heavy() -> None:
    heavy = {"torch", "nibabel", "h5py", "tifffile", "imagecodecs", "scipy", "skimage", "PIL"}
    command = f"import sys, recon.io.registry as r; assert r.FORMATS; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


def test_every_format_of_the_table_keeps_its_promises(tmp_path: Path) -> None:
    for form in FORMATS.values():
        assert form.line and all(extension.startswith(".") for extension in form.extensions)
        for extension in form.extensions + form.folders:
            path = tmp_path / f"a{extension}"
            if "image" in form.writes:
                write_volume(path, Volume(np.zeros((4, 5), np.uint8), Geometry(("y", "x"), None, (2.0, 3.0), "mm")))
                assert sniff(path) == form.name and read_volume(path).array.squeeze().shape in ((4, 5), (5, 4))
            if "measurement" in form.writes:
                # the field's own formats hold k-space alone
                written = MEASURED if form.name in ("npz", "hdf5") else KSPACE
                write_measurement(path, written, force=True)
                assert sniff(path) == form.name
                np.testing.assert_array_equal(read_measurement(path).y, written.y)


def test_check_volume_refuses_before_anything_is_computed(tmp_path: Path) -> None:
    template = Volume(np.broadcast_to(np.float32(0), (500, 600, 700)), Geometry(("z", "y", "x"), value_range=(0, 1)))
    check_volume(tmp_path / "a.nii", template)
    check_volume(tmp_path / "a.tif", template)
    for name in ("a.png", "a.doc"):
        with pytest.raises(ReconError):
            check_volume(tmp_path / name, template)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*WRITTEN, "compressed.tif", "imagej.tif", "ome.tif"])
def test_description_of_images(tmp_path: Path, name: str) -> None:
    data = sample(tmp_path, name)
    facts = describe(data)
    array = read_volume(data).array
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["shape"] == list(array.shape) and facts["dtype"] == str(array.dtype)
    assert facts["axes"] == list(read_volume(data).geometry.axes) and facts["bytes"] == len(data)
    assert (facts["min"], facts["max"], facts["finite"]) == (array.min().item(), array.max().item(), array.size)


@pytest.mark.parametrize("name", ["measurement.npz", "measurement.h5"])
def test_description_of_measurements(name: str) -> None:
    facts = describe(encoded(name))
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["kind"] == "measurement" and facts["shape"] == [3, 1, 8, 9]
    assert facts["noise"] == {"kind": "gaussian", "sigma": 0.1, "gain": 0.0}
    assert facts["operator"] == {
        "kind": "inpaint",
        "params": {"keep": 0.5},
        "in_shape": [1, 8, 9],
        "arrays": {"mask": {"shape": [8, 9], "dtype": "bool"}},
    }
    assert facts["geometry"]["axes"] == ["z", "y", "x"]


def test_description_of_arrays_operators_and_values_that_are_not_finite(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[[1, np.nan]], [[np.inf, -4]]]))
    facts = describe(tmp_path / "a.npy")
    assert (facts["kind"], facts["axes"], facts["finite"], facts["size"]) == ("array", None, 2, 4)
    assert (facts["min"], facts["max"]) == (-4, 1)
    np.save(tmp_path / "c.npy", np.array([[3 + 4j, 0]]))
    assert describe(tmp_path / "c.npy")["max"] == 5
    np.savez(tmp_path / "two.npz", one=np.zeros(3), two=np.zeros((2, 2), np.int16))
    assert describe(tmp_path / "two.npz")["arrays"]["two"] == {"shape": [2, 2], "dtype": "int16"}
    np.savez(tmp_path / "matrix.npz", matrix=np.ones((2, 4)), in_shape=np.array([1, 2, 2]))
    assert describe(tmp_path / "matrix.npz")["operator"]["in_shape"] == [1, 2, 2]
    (tmp_path / "a.toml").write_text('kind = "blur"\n[params]\nsigma = 2.0\n')
    facts = describe(tmp_path / "a.toml")
    assert (facts["kind"], facts["operator"]["params"]) == ("operator", {"sigma": 2.0})
    assert facts["operator"]["in_shape"] is None
