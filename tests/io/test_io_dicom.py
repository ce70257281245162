"""DICOM: series as pydicom and scanners write them, derived series back, and every irregular series refused."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recon.data import Geometry, Volume
from recon.errors import InputError, ResourceError
from recon.io import source as io_source
from recon.io.describe import describe
from recon.io.registry import check_volume, read_measurement, read_volume, sniff, write_volume

pydicom = pytest.importorskip("pydicom")
MR, CT = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2"


def image(plane: np.ndarray, position: tuple[float, ...], number: int, **tags: object) -> "pydicom.Dataset":
    """Return one MR image as a scanner stores it; tags replace or, as None, remove what is set here."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MR, f"1.2.3.{number + 1}"
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = MR, f"1.2.3.{number + 1}", "MR"
    data.PatientName, data.SeriesInstanceUID, data.SeriesNumber = "Some^Body", "1.2.9", 4
    data.InstanceNumber = number
    data.ImagePositionPatient, data.ImageOrientationPatient = list(position), [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness = [2.0, 1.5], 3.0
    data.Rows, data.Columns = plane.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(plane.dtype == np.int16)
    data.PixelData = plane.tobytes()
    for key, value in tags.items():
        if value is None:
            del data[key]
        else:
            setattr(data, key, value)
    return data


def series(folder: Path, positions: list[tuple[float, ...]], **tags: object) -> np.ndarray:
    """Write a series whose files lie in another order than its slices; return the stack in order of position given."""
    folder.mkdir()
    stack = np.arange(len(positions) * 12, dtype=np.uint16).reshape(-1, 3, 4)
    for number, (plane, position) in enumerate(zip(stack, positions, strict=True)):
        data = image(plane, position, number, **tags)
        data.save_as(folder / f"{(7 * number) % 11:03d}.dcm", enforce_file_format=True)
    return stack


STRAIGHT = [(10.0, -20.0, 5.0 + 3 * i) for i in range(4)]


def test_a_series_is_sorted_by_position_and_placed_in_ras(tmp_path):
    stack = series(tmp_path / "s", STRAIGHT[::-1])
    (tmp_path / "s" / "notes.txt").write_text("no image")
    found = read_volume(tmp_path / "s")
    assert sniff(tmp_path / "s") == "dicom" and found.geometry.axes == ("z", "y", "x")
    np.testing.assert_array_equal(found.array, stack[::-1])
    assert found.geometry.spacing == (3.0, 2.0, 1.5) and found.geometry.units == "mm"
    expected = [[-1.5, 0, 0, -10], [0, -2, 0, 20], [0, 0, 3, 5], [0, 0, 0, 1]]
    np.testing.assert_allclose(found.geometry.affine, expected)
    assert "Body" not in str(describe(tmp_path / "s"))
    assert read_measurement(tmp_path / "s").y.shape == (4, 1, 3, 4)


def test_oblique_slices_keep_their_place(tmp_path):
    a, b = np.deg2rad(25), np.deg2rad(-10)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    start = np.array([12.0, -7.0, 3.0])
    places = [tuple(start + 2.5 * i * turn[:, 2]) for i in range(3)]
    series(tmp_path / "s", places, ImageOrientationPatient=[*turn[:, 0], *turn[:, 1]])
    affine = read_volume(tmp_path / "s").geometry.affine
    corner = np.diag([-1, -1, 1]) @ (start + turn @ [3 * 1.5, 2 * 2.0, 2 * 2.5])
    np.testing.assert_allclose((affine @ [3, 2, 2, 1])[:3], corner, atol=1e-4)


def test_slope_and_intercept_are_applied_slice_by_slice(tmp_path):
    (tmp_path / "s").mkdir()
    plane = np.arange(12, dtype=np.int16).reshape(3, 4) - 5
    for i, slope in enumerate((0.5, 2.0)):
        data = image(plane, STRAIGHT[i], i, RescaleSlope=slope, RescaleIntercept=-1024)
        data.save_as(tmp_path / "s" / f"{i}.dcm", enforce_file_format=True)
    found = read_volume(tmp_path / "s")
    np.testing.assert_array_equal(found.array, np.stack([plane * 0.5 - 1024, plane * 2.0 - 1024]))
    assert found.array.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "shape"), [("CT_small.dcm", (128, 128)), ("MR_small.dcm", (64, 64)), ("MR_small_RLE.dcm", (64, 64))]
)
def test_files_of_scanners_that_pydicom_ships(name, shape):
    path = pydicom.data.get_testdata_file(name, download=False)
    if path is None:
        pytest.skip("this pydicom does not ship the file")
    found = read_volume(path)
    data = pydicom.dcmread(path)
    assert found.array.shape == shape and found.geometry.axes == ("y", "x")
    slope, intercept = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
    np.testing.assert_allclose(found.array, data.pixel_array * slope + intercept)
    np.testing.assert_array_equal(read_volume(Path(path).read_bytes()).array, found.array)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("JPEG2000.dcm", "compressed pixels .JPEG 2000"),
        ("JPEG-lossy.dcm", "compressed pixels .JPEG"),
        ("emri_small.dcm", "10 frames in one file"),
        ("image_dfl.dcm", "deflated"),
        ("examples_rgb_color.dcm", "pixels of kind RGB"),
        ("rtplan.dcm", "no DICOM image"),
    ],
)
def test_what_is_not_read_says_so(name, message):
    path = pydicom.data.get_testdata_file(name, download=False)
    if path is None:
        pytest.skip("this pydicom does not ship the file")
    with pytest.raises(InputError, match=message) as caught:
        read_volume(path)
    assert caught.value.exit_code == 3 and "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([*STRAIGHT[:2], STRAIGHT[3]], "1 slice is missing, the first after slice 2 of 3|apart"),
        (
            [(0, 0, 0), (0, 0, 3), (0, 0, 9), (0, 0, 12), (0, 0, 15)],
            "1 slice is missing, the first after slice 2 of 5",
        ),
        ([(0, 0, 0), (0, 0, 3), (0, 0, 6.5), (0, 0, 9.5)], "slices 3 to 3.5 mm apart"),
        ([(0, 0, 0), (0, 0.6, 3), (0, 1.2, 6)], "gantry tilt of 11.3 degrees"),
        ([(0, 0, 0), (0, 0, 0), (0, 0, 3), (0, 0, 3)], "2 images lie where another one does"),
    ],
)
def test_irregular_series_are_refused(tmp_path, positions, message):
    series(tmp_path / "s", positions)
    with pytest.raises(InputError, match=message) as caught:
        read_volume(tmp_path / "s")
    assert caught.value.exit_code == 3 and caught.value.hint and "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"PixelSpacing": [2.0, 1.0]}, "different pixel spacing"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}, "different orientation"),
        ({"SeriesInstanceUID": "1.2.10", "SeriesNumber": 5}, "2 series mixed in it: 4 .4 images., 5 .1 images."),
        ({"ImagePositionPatient": None}, "order is not known"),
        ({"Rows": 4, "PixelData": bytes(32)}, "different rows"),
        ({"PixelData": bytes(10)}, "not a readable DICOM|truncated"),
        ({"RescaleSlope": float("nan")}, "not a finite|not a readable"),
        ({"PixelSpacing": [0, 1.5]}, "pixel spacing"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1"),
    ],
)
def test_a_series_with_an_image_that_does_not_fit(tmp_path, tags, message):
    series(tmp_path / "s", STRAIGHT)
    odd = image(np.zeros((3, 4), np.uint16), (10.0, -20.0, 17.0), 9, **tags)
    odd.save_as(tmp_path / "s" / "odd.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match=message):
        read_volume(tmp_path / "s")
    if "SeriesNumber" in tags:
        assert read_volume(f"{tmp_path}/s::4").array.shape == (4, 3, 4)


def test_damaged_files_are_one_error(tmp_path):
    whole = tmp_path / "a.dcm"
    image(np.arange(12, dtype=np.uint16).reshape(3, 4), STRAIGHT[0], 0).save_as(whole, enforce_file_format=True)
    data = whole.read_bytes()
    for length in (133, 200, 400, len(data) - 20, len(data) - 1):
        with pytest.raises(InputError):
            read_volume(data[:length])
    huge = image(np.zeros((3, 4), np.uint16), STRAIGHT[0], 0, Rows=65535, Columns=65535)
    huge.save_as(whole, enforce_file_format=True)
    with pytest.raises(InputError):
        read_volume(whole)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(["uint8", "uint16", "int16"]), flip=st.booleans())
def test_derived_series_keep_whole_numbers_and_their_place(tmp_path_factory, data, dtype, flip):
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)))
    limits = np.iinfo(dtype)
    stack = data.draw(hnp.arrays(dtype, shape, elements=st.integers(limits.min, limits.max)))
    turn = np.array([[0, 0, 3.0], [-1.5, 0, 0], [0, 2.0, 0]]) * (-1 if flip else 1)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn, [10.5, -3.25, 7]
    path = tmp_path_factory.mktemp("d") / "out.dicom"
    write_volume(path, Volume(stack, Geometry(("z", "y", "x"), affine, (3.0, 2.0, 1.5), "mm")))
    found = read_volume(path)
    # slices come back along the normal of their plane; the place in space of every value is the same
    order = 1 if np.linalg.det(found.geometry.affine[:3, :3]) * np.linalg.det(turn) > 0 else -1
    np.testing.assert_array_equal(found.array[::order], stack)
    last = [0, 0, (len(stack) - 1) if order < 0 else 0, 1]
    np.testing.assert_allclose((found.geometry.affine @ [0, 0, 0, 1])[:3], (affine @ last)[:3], atol=1e-9)


def test_a_derived_series_is_marked_and_names_nobody(tmp_path):
    series(tmp_path / "s", STRAIGHT)
    source = read_volume(tmp_path / "s")
    image_out = Volume(np.random.default_rng(0).normal(size=(4, 3, 4)).astype(np.float32) * 1e-4, source.geometry)
    facts = write_volume(tmp_path / "out.dicom", image_out)
    assert "not for diagnostic use" in facts["note"]
    data = pydicom.dcmread(tmp_path / "out.dicom" / "IM0002.dcm")
    assert list(data.ImageType) == ["DERIVED", "SECONDARY"] and "Not for diagnostic use" in data.ImageComments
    assert data.SeriesInstanceUID != "1.2.9" and data.Modality == "MR" and not data.PatientName
    found = read_volume(tmp_path / "out.dicom")
    np.testing.assert_allclose(found.geometry.affine, source.geometry.affine, atol=1e-9)
    step = np.ptp(image_out.array) / 65535
    assert np.abs(found.array - image_out.array).max() <= 0.51 * step
    again = tmp_path / "again.dicom"
    write_volume(again, image_out)
    assert all((again / p.name).read_bytes() == p.read_bytes() for p in (tmp_path / "out.dicom").iterdir())


def test_one_file_holds_one_slice(tmp_path):
    picture = Volume(np.arange(12, dtype=np.uint16).reshape(3, 4), Geometry(("y", "x"), None, (2.0, 1.5), "mm"))
    write_volume(tmp_path / "a.dcm", picture)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.dcm").array, picture.array)
    stack = Volume(np.zeros((2, 3, 4), np.uint16), Geometry(("z", "y", "x"), None, (1.0, 2.0, 1.5), "mm"))
    with pytest.raises(InputError, match="one slice, got 2"):
        check_volume(tmp_path / "b.dcm", stack)
    with pytest.raises(InputError, match="pixel size in mm"):
        check_volume(tmp_path / "b.dicom", Volume(picture.array, Geometry(("y", "x"))))
    sheared = np.eye(4)
    sheared[0, 2] = 0.3
    with pytest.raises(InputError, match="right angles"):
        check_volume(tmp_path / "b.dicom", Volume(stack.array, Geometry(("z", "y", "x"), sheared)))


@pytest.mark.skipif(shutil.which("dcmconv") is None, reason="DCMTK is not installed")
@pytest.mark.parametrize("written", [("dcmconv", "+ti"), ("dcmconv", "+tb"), ("dcmconv", "+te", "-e"), ("dcmcrle",)])
def test_dcmtk_reads_our_series_and_we_read_what_it_writes(tmp_path, written):
    values = np.random.default_rng(0).integers(-900, 900, (3, 6, 5)).astype(np.int16)
    geometry = Geometry(("z", "y", "x"), np.diag([-1.5, -2.0, 3.0, 1.0]), (3.0, 2.0, 1.5), "mm")
    write_volume(tmp_path / "ours.dicom", Volume(values, geometry))
    (tmp_path / "theirs").mkdir()
    for path in (tmp_path / "ours.dicom").iterdir():
        told = subprocess.run(["dcmdump", "-q", str(path)], capture_output=True, text=True, check=True)
        assert "DERIVED\\SECONDARY" in told.stdout and "Not for diagnostic use" in told.stdout and not told.stderr
        subprocess.run([*written, str(path), str(tmp_path / "theirs" / path.name)], check=True)
    found = read_volume(tmp_path / "theirs")
    np.testing.assert_array_equal(found.array, values)
    np.testing.assert_allclose(found.geometry.affine, geometry.affine)


@pytest.mark.skipif(shutil.which("dcmcjpeg") is None, reason="DCMTK is not installed")
def test_what_dcmtk_compresses_is_refused_with_the_tool_that_undoes_it(tmp_path):
    series(tmp_path / "s", STRAIGHT[:1], BitsStored=12, HighBit=11)
    path, packed = next((tmp_path / "s").iterdir()), tmp_path / "packed.dcm"
    subprocess.run(["dcmcjpeg", "+e1", str(path), str(packed)], check=True)
    with pytest.raises(InputError, match=r"compressed pixels .JPEG Lossless") as caught:
        read_volume(packed)
    assert "dcmdjpeg" in caught.value.hint
    subprocess.run(["dcmdjpeg", str(packed), str(tmp_path / "plain.dcm")], check=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "plain.dcm").array, read_volume(path).array)


def test_without_pydicom_the_line_to_install_it_is_printed(tmp_path, monkeypatch):
    series(tmp_path / "s", STRAIGHT)
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(ResourceError) as caught:
        read_volume(tmp_path / "s")
    assert caught.value.exit_code == 7 and caught.value.hint == "pip install 'diffusion-recon[formats]'"
    assert io_source.library("json", "json", "reading").loads("1") == 1
