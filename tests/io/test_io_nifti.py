"""NIfTI: order, affine, codes, units and description kept exactly; floats never re-quantised; onto itself safe."""

import gzip
import io
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recon.data import Geometry, Volume, from_stack, to_stack
from recon.errors import InputError
from recon.io import nifti
from recon.io.registry import read_volume, write_volume

AFFINE = np.array([[-1.5, 0.1, 0.0, 90.25], [0.0, 2.0, -0.2, -126.5], [0.05, 0.3, 2.5, -72.0], [0, 0, 0, 1]])


def scan(
    path: Path,
    array: np.ndarray,
    sform: int = 4,
    qform: int = 1,
    image_class: type = nib.Nifti1Image,
    slope: float | None = None,
) -> nib.Nifti1Image:
    image = image_class(array, AFFINE)
    image.set_sform(AFFINE, sform)
    image.set_qform(np.diag([2.0, 2.0, 2.5, 1.0]), qform)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"T1, 3T; repeat 2"
    if slope is not None:
        image.header.set_slope_inter(slope, 0)
    nib.save(image, path)
    return nib.load(path, mmap=False)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(["f4", "c8", "u1", "i2", "bool"]), ndim=st.integers(2, 3))
def test_images_round_trip_exactly(data: st.DataObject, dtype: str, ndim: int) -> None:
    array = data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=ndim, max_dims=ndim, max_side=5)))
    affine = data.draw(st.none() | st.just(AFFINE.astype(np.float32).astype(np.float64)))
    volume = Volume(array, Geometry(("x", "y", "z")[:ndim], affine, units="mm"))
    stream = io.BytesIO()
    nifti.write(stream, volume)
    back = read_volume(stream.getvalue())
    assert back.geometry.axes == volume.geometry.axes and back.geometry.units == "mm"
    assert back.array.dtype == (np.complex64 if dtype == "c8" else np.float32)
    np.testing.assert_array_equal(back.array, array)
    if affine is not None:
        np.testing.assert_array_equal(back.geometry.affine, affine)


@pytest.mark.parametrize(("sform", "qform"), [(4, 1), (0, 1), (2, 0), (0, 0), (1, 3)])
@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_a_float_result_keeps_the_place_of_an_int16_scan(
    tmp_path: Path, sform: int, qform: int, extension: str
) -> None:
    rng = np.random.default_rng(0)
    source = scan(tmp_path / f"in{extension}", rng.integers(-500, 3000, (5, 6, 4)).astype(np.int16), sform, qform)
    volume = read_volume(tmp_path / f"in{extension}")
    assert volume.array.dtype == np.int16 and volume.geometry.value_range is None
    result = rng.normal(size=to_stack(volume).shape).astype(np.float32)
    write_volume(tmp_path / f"out{extension}", from_stack(result, volume.geometry))
    image = nib.load(tmp_path / f"out{extension}", mmap=False)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), result[:, 0].transpose(2, 1, 0))
    assert image.get_data_dtype() == np.float32
    assert (float(image.dataobj.slope), float(image.dataobj.inter)) == (1.0, 0.0)
    np.testing.assert_array_equal(image.affine, source.affine)
    for name in (
        *("sform_code", "qform_code", "xyzt_units", "descrip", "pixdim", "quatern_b", "quatern_c", "quatern_d"),
        *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
    ):
        np.testing.assert_array_equal(image.header[name], source.header[name], err_msg=name)
    assert image.header.get_xyzt_units() == ("mm", "sec")


def test_a_changed_affine_is_written_with_the_codes_of_the_source(tmp_path: Path) -> None:
    scan(tmp_path / "in.nii", np.zeros((5, 6, 4), np.float32), 4, 1)
    volume = read_volume(tmp_path / "in.nii")
    shifted = np.array(volume.geometry.affine)
    shifted[:3, 3] += 8
    geometry = Geometry(volume.geometry.axes, shifted, volume.geometry.spacing, "mm", meta=volume.geometry.meta)
    write_volume(tmp_path / "out.nii", Volume(volume.array, geometry))
    image = nib.load(tmp_path / "out.nii")
    np.testing.assert_array_equal(image.affine, shifted)
    assert int(image.header["sform_code"]) == 4 and int(image.header["qform_code"]) == 1


@pytest.mark.parametrize("code", [1, 2])
def test_an_affine_with_shear_survives_a_source_that_had_only_a_qform(tmp_path: Path, code: int) -> None:
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), None)
    image.set_qform(np.diag([2.0, 2.0, 2.5, 1.0]), code)
    nib.save(image, tmp_path / "in.nii")
    volume = read_volume(tmp_path / "in.nii")
    assert volume.geometry.meta["nifti"]["sform_code"] == 0
    sheared = AFFINE.astype(np.float32).astype(np.float64)
    write_volume(
        tmp_path / "out.nii", Volume(volume.array, Geometry(("x", "y", "z"), sheared, meta=volume.geometry.meta))
    )
    np.testing.assert_array_equal(nib.load(tmp_path / "out.nii").affine, sheared)


def test_scaled_integers_are_read_in_their_units(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.float32).reshape(3, 4, 5) / 7
    image = nib.Nifti1Image(array, np.eye(4))
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "a.nii")
    expected = np.asanyarray(nib.load(tmp_path / "a.nii", mmap=False).dataobj)
    volume = read_volume(tmp_path / "a.nii")
    np.testing.assert_array_equal(volume.array, expected)
    assert np.abs(volume.array - array).max() < 1e-3 and volume.geometry.meta["dtype"] == "int16"


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_saving_a_scan_onto_itself_is_safe(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a{extension}"
    array = np.random.default_rng(0).normal(size=(40, 41, 42)).astype(np.float32)
    scan(path, array)
    volume = read_volume(path)
    base: object = volume.array
    while isinstance(base, np.ndarray):
        assert not isinstance(base, np.memmap)
        base = base.base
    write_volume(path, volume, force=True)
    write_volume(path, read_volume(path), force=True)
    np.testing.assert_array_equal(read_volume(path).array, array)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 4, 1), (5, 6, 1, 1), (5, 6, 4, 1, 1)])
def test_dimensions_of_length_one_are_restored(tmp_path: Path, shape: tuple[int, ...]) -> None:
    scan(tmp_path / "in.nii", np.random.default_rng(0).normal(size=shape).astype(np.float32))
    volume = read_volume(tmp_path / "in.nii")
    assert volume.array.ndim <= 3
    stack = to_stack(volume)
    assert stack.shape == (4 if 4 in shape else 1, 1, 6, 5)
    write_volume(tmp_path / "out.nii", from_stack(stack, volume.geometry))
    assert nib.load(tmp_path / "out.nii").shape == shape
    np.testing.assert_array_equal(read_volume(tmp_path / "out.nii").array, volume.array)


def test_complex_images_keep_their_imaginary_part(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    array = (rng.normal(size=(3, 4, 5)) + 1j * rng.normal(size=(3, 4, 5))).astype(np.complex64)
    write_volume(tmp_path / "a.nii", Volume(array, Geometry(("x", "y", "z"), np.eye(4))))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").array, array)
    np.testing.assert_array_equal(np.asanyarray(nib.load(tmp_path / "a.nii").dataobj), array)


def test_series_need_axes_and_items_become_the_fourth_dimension(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(4, 5, 3, 2)).astype(np.float32)
    scan(tmp_path / "a.nii", array)
    with pytest.raises(InputError, match="a series of shape") as caught:
        read_volume(tmp_path / "a.nii")
    assert "--axes" in str(caught.value.hint)
    volume = read_volume(tmp_path / "a.nii", "xyzn")
    samples = Volume(np.moveaxis(volume.array, -1, 0), Geometry(("n", "x", "y", "z"), volume.geometry.affine))
    write_volume(tmp_path / "b.nii", samples)
    np.testing.assert_array_equal(read_volume(tmp_path / "b.nii", "xyzn").array, array)


def test_nifti2_stays_nifti2_and_long_axes_need_it(tmp_path: Path) -> None:
    scan(tmp_path / "a.nii", np.zeros((4, 5, 3), np.float32), image_class=nib.Nifti2Image)
    volume = read_volume(tmp_path / "a.nii")
    write_volume(tmp_path / "b.nii", volume)
    assert isinstance(nib.load(tmp_path / "b.nii"), nib.Nifti2Image)
    np.testing.assert_array_equal(read_volume(tmp_path / "b.nii").geometry.affine, volume.geometry.affine)
    write_volume(tmp_path / "c.nii", Volume(np.zeros((40_000, 2), np.float32), Geometry(("x", "y"))))
    assert read_volume(tmp_path / "c.nii").array.shape == (40_000, 2)


def test_other_formats_get_their_spacing_as_an_affine(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    geometry = Geometry(("z", "y", "x"), spacing=(4.0, 0.5, 0.25), units="mm")
    write_volume(tmp_path / "a.nii", Volume(array, geometry))
    image = nib.load(tmp_path / "a.nii")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), array.T)
    np.testing.assert_array_equal(image.affine, np.diag([0.25, 0.5, 4.0, 1.0]))
    assert image.header.get_xyzt_units()[0] == "mm" and image.header.get_zooms() == (0.25, 0.5, 4.0)


def test_wide_integers_are_not_rounded(tmp_path: Path) -> None:
    labels = np.array([[2**24 + 1, 3], [5, 2**31 - 1]], np.int64)
    write_volume(tmp_path / "a.nii", Volume(labels, Geometry(("x", "y"))))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").array, labels)


def test_equal_images_give_equal_compressed_bytes(tmp_path: Path) -> None:
    volume = Volume(np.ones((3, 4, 5), np.float32), Geometry(("x", "y", "z")))
    for name in ("a", "b"):
        write_volume(tmp_path / f"{name}.nii.gz", volume)
    data = (tmp_path / "a.nii.gz").read_bytes()
    assert data == (tmp_path / "b.nii.gz").read_bytes() and data[4:8] == bytes(4)


def test_the_checksum_of_compressed_files_is_compared(tmp_path: Path) -> None:
    scan(tmp_path / "a.nii.gz", np.zeros((3, 4, 5), np.float32))
    data = bytearray((tmp_path / "a.nii.gz").read_bytes())
    data[-6] ^= 1
    with pytest.raises(InputError, match="truncated or damaged"):
        read_volume(bytes(data))


def test_colours_pairs_and_odd_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="grey images"):
        write_volume(tmp_path / "a.nii", Volume(np.zeros((4, 5, 3)), Geometry(("y", "x", "c"))))
    nib.save(nib.Nifti1Pair(np.zeros((3, 4, 5), np.float32), np.eye(4)), tmp_path / "pair.hdr")
    with pytest.raises(InputError, match="pair of files"):
        read_volume(tmp_path / "pair.hdr")
    colours = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colours, np.eye(4)), tmp_path / "rgb.nii")
    with pytest.raises(InputError, match="expected numbers"):
        read_volume(tmp_path / "rgb.nii")


def test_absurd_headers_are_refused_without_allocating() -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((30_000, 30_000, 30_000))
    header.set_data_dtype(np.float32)
    header["magic"], header["vox_offset"] = b"n+1", 352
    plain = header.binaryblock + bytes(1000)
    tracemalloc.start()
    for data in (plain, gzip.compress(plain)):
        with pytest.raises(InputError):
            read_volume(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22
