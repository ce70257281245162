"""Conversion between formats: what is kept, what is refused."""

import numpy as np
import pytest

from recon.data import Geometry, Volume
from recon.errors import InputError, OutputExistsError, UsageError
from recon.io.registry import read_volume, write_volume
from recon.runs.convert import ConvertRequest, cast_exactly, convert, take_channel


@pytest.fixture
def scan(tmp_path):
    """A NIfTI volume with an affine."""
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    array = np.arange(4 * 3 * 2, dtype=np.float32).reshape(4, 3, 2)
    path = tmp_path / "scan.nii.gz"
    write_volume(path, Volume(array, Geometry(("x", "y", "z"), affine, (2.0, 3.0, 4.0), "mm")))
    return path


def test_values_and_affine_are_kept(scan, tmp_path):
    facts = convert(ConvertRequest(scan, tmp_path / "out.nii"))
    assert facts["format"] == "nifti" and facts["shape"] == [4, 3, 2]
    back, source = read_volume(tmp_path / "out.nii"), read_volume(scan)
    np.testing.assert_array_equal(back.array, source.array)
    np.testing.assert_array_equal(back.geometry.affine, source.geometry.affine)


def test_what_the_format_has_no_place_for_is_told(scan, tmp_path):
    place = "place in space (affine) not kept: fastmri files have no place for it"
    both = "pixel size and place in space (affine) not kept: {} files have no place for it"
    notes = {"a.npy": both.format("npy"), "a.cfl": both.format("bart"), "a.fastmri.h5": place}
    for name, note in notes.items():
        assert convert(ConvertRequest(scan, tmp_path / name))["note"] == note
        found = read_volume(tmp_path / name, "z,y,x" if name == "a.npy" else None).geometry
        assert found.affine is None and (found.spacing is None or name == "a.fastmri.h5")
    for name in ("a.nii", "a.tiff", "a.npz", "a.h5", "a.mrd"):
        assert "note" not in convert(ConvertRequest(scan, tmp_path / name))
        np.testing.assert_allclose(read_volume(tmp_path / name).geometry.affine, read_volume(scan).geometry.affine)
    np.save(tmp_path / "plain.npy", np.ones((3, 4)))
    assert "note" not in convert(ConvertRequest(tmp_path / "plain.npy", tmp_path / "b.npy"))


def test_the_type_is_the_one_asked_for(scan, tmp_path):
    facts = convert(ConvertRequest(scan, tmp_path / "out.npy", dtype="int16"))
    stored = np.load(tmp_path / "out.npy")
    assert facts["dtype"] == str(stored.dtype) == "int16"
    assert sorted(stored.ravel()) == list(range(24))


def test_one_slice_keeps_its_place_in_space(scan, tmp_path):
    convert(ConvertRequest(scan, tmp_path / "slice.nii", index=1))
    found = read_volume(tmp_path / "slice.nii")
    assert found.array.shape == (4, 3, 1) and found.geometry.affine[2, 3] == 4.0
    np.testing.assert_array_equal(found.array[..., 0], read_volume(scan).array[..., 1])


def test_an_output_that_exists_stays(scan, tmp_path):
    target = tmp_path / "out.npy"
    target.write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        convert(ConvertRequest(scan, target))
    assert target.read_bytes() == b"mine"
    convert(ConvertRequest(scan, target, force=True))
    assert np.load(target).size == 24


def test_what_cannot_be_is_refused_before_reading(tmp_path):
    with pytest.raises(UsageError, match="unknown type 'float8'"):
        convert(ConvertRequest(tmp_path / "none", tmp_path / "out.npy", dtype="float8"))
    with pytest.raises(UsageError):
        convert(ConvertRequest(tmp_path / "none", tmp_path / "out.xyz"))


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0.5], "uint8"),
        ([256.0], "uint8"),
        ([-1.0], "uint16"),
        ([np.nan], "int16"),
        ([1e300], "float32"),
        ([1 + 1j], "float32"),
        ([2**31], "int32"),
    ],
)
def test_a_cast_that_loses_values_is_refused(values, dtype):
    with pytest.raises(InputError, match=f"cannot be written as {dtype}"):
        cast_exactly(np.array(values), dtype)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([0.0, 255.0], "uint8"), ([np.nan, 1.5], "float32"), ([1 + 0j], "float64"), ([3], "complex64")],
)
def test_a_cast_that_keeps_values(values, dtype):
    cast = cast_exactly(np.array(values), dtype)
    assert cast.dtype == dtype
    np.testing.assert_array_equal(cast, np.array(values))


def test_channels():
    array = np.zeros((2, 3, 3), np.uint8)
    array[..., 0], array[..., 1], array[..., 2] = 100, 200, 50
    volume = Volume(array, Geometry(("y", "x", "c"), spacing=(1.0, 2.0, 1.0), value_range=(0, 255)))
    grey = take_channel(volume, "grey")
    np.testing.assert_allclose(grey.array, 0.299 * 100 + 0.587 * 200 + 0.114 * 50, rtol=1e-6)
    assert grey.geometry.axes == ("y", "x") and grey.geometry.spacing == (1.0, 2.0)
    assert grey.geometry.value_range == (0, 255)
    assert np.all(take_channel(volume, "-1").array == 50)
    for channel, error in (("3", InputError), ("red", UsageError)):
        with pytest.raises(error):
            take_channel(volume, channel)
    with pytest.raises(InputError, match="has no channels"):
        take_channel(grey, "0")
