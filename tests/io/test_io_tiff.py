"""TIFF: axes from metadata, stacks are not colours, pixel sizes kept, integers and float32 exact."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recon.data import Geometry, Volume
from recon.errors import InputError
from recon.io import tiff
from recon.io.registry import read_volume, write_volume

AXES = st.sampled_from(
    [("y", "x"), ("z", "y", "x"), ("n", "y", "x"), ("c", "y", "x"), ("n", "c", "y", "x"), ("z", "c", "y", "x")]
)


def encoded(array: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def written(volume: Volume) -> Volume:
    stream = io.BytesIO()
    tiff.write(stream, volume)
    return read_volume(stream.getvalue())


@settings(max_examples=60, deadline=None)
@given(data=st.data(), axes=AXES, dtype=st.sampled_from(["u1", "u2", "i2", "i4", "f4", "bool"]))
def test_images_round_trip_exactly(data: st.DataObject, axes: tuple[str, ...], dtype: str) -> None:
    shape = tuple(data.draw(st.sampled_from([1, 2, 4, 5])) if a == "c" else data.draw(st.integers(1, 5)) for a in axes)
    array = data.draw(hnp.arrays(dtype, shape))
    spacing = data.draw(st.none() | st.tuples(*[st.floats(1e-3, 1e3)] * len(axes)))
    affine = data.draw(st.none() | hnp.arrays(np.float64, (4, 4), elements=st.floats(-1e6, 1e6)))
    geometry = Geometry(axes, affine, spacing, data.draw(st.sampled_from([None, "mm", "um"])), (0.0, 9.0))
    back = written(Volume(array, geometry))
    assert back.geometry.axes == axes and back.array.dtype == array.dtype and back.array.shape == shape
    np.testing.assert_array_equal(back.array, array)
    assert back.geometry.spacing == spacing and back.geometry.units == geometry.units
    assert back.geometry.value_range == (0.0, 9.0)
    np.testing.assert_array_equal(back.geometry.affine, affine)


def test_a_float_stack_of_three_slices_is_not_colours(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(3, 8, 9)).astype(np.float32)
    write_volume(tmp_path / "a.tif", Volume(array, Geometry(("z", "y", "x"))))
    volume = read_volume(tmp_path / "a.tif")
    assert volume.geometry.axes == ("z", "y", "x")
    np.testing.assert_array_equal(volume.array, array)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.series[0].axes == "ZYX" and len(file.pages) == 3
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.MINISBLACK


def test_a_float_stack_marked_as_colour_planes_needs_axes() -> None:
    array = np.zeros((3, 8, 9), np.float32)
    data = encoded(array, photometric="rgb", planarconfig="separate")
    with pytest.raises(InputError, match="slices or colours") as caught:
        read_volume(data)
    assert "--axes" in str(caught.value.hint)
    assert read_volume(data, "zyx").geometry.axes == ("z", "y", "x")


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_rgb_is_read_and_written_as_rgb(dtype: str) -> None:
    array = np.random.default_rng(0).uniform(0, 200, (6, 7, 3)).astype(dtype)
    volume = read_volume(encoded(array, photometric="rgb"))
    assert volume.geometry.axes == ("y", "x", "c")
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_array_equal(written(volume).array, array)
    planes = written(Volume(np.moveaxis(array, -1, 0), Geometry(("c", "y", "x"))))
    assert planes.geometry.axes == ("y", "x", "c")
    np.testing.assert_array_equal(planes.array, array)


def test_pages_without_names_need_axes() -> None:
    array = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    data = encoded(array, photometric="minisblack", metadata=None)
    with pytest.raises(InputError, match="without a known name") as caught:
        read_volume(data)
    assert "--axes" in str(caught.value.hint)
    volume = read_volume(data, "z,y,x")
    np.testing.assert_array_equal(volume.array, array)
    with pytest.raises(InputError, match="do not fit"):
        read_volume(data, "yx")


def test_imagej_and_ome_axes_and_pixel_sizes() -> None:
    array = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    metadata = {"axes": "ZYX", "spacing": 2.5, "unit": "micron"}
    imagej = read_volume(encoded(array, imagej=True, metadata=metadata, resolution=(4.0, 2.0)))
    assert imagej.geometry.axes == ("z", "y", "x")
    assert imagej.geometry.spacing == (2.5, 0.5, 0.25) and imagej.geometry.units == "um"
    sizes = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 2.0}
    units = {f"{key}Unit": "mm" for key in sizes}
    ome = read_volume(encoded(array, ome=True, photometric="minisblack", metadata={"axes": "ZYX", **sizes, **units}))
    assert ome.geometry.spacing == (2.0, 0.5, 0.25) and ome.geometry.units == "mm"
    np.testing.assert_array_equal(imagej.array, array)
    np.testing.assert_array_equal(ome.array, array)


def test_resolution_tags_are_kept(tmp_path: Path) -> None:
    array = np.zeros((4, 5), np.uint8)
    volume = read_volume(encoded(array, resolution=((254, 1), (508, 3)), resolutionunit=2, metadata=None))
    assert volume.geometry.spacing == pytest.approx((0.15, 0.1)) and volume.geometry.units == "mm"
    write_volume(tmp_path / "a.tif", volume)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = file.pages[0].tags
        assert tags["XResolution"].value == (254, 1) and tags["YResolution"].value == (508, 3)
        assert tags["ResolutionUnit"].value == 2
    assert read_volume(tmp_path / "a.tif").geometry.spacing == volume.geometry.spacing


def test_stale_resolution_tags_are_not_written(tmp_path: Path) -> None:
    data = encoded(np.zeros((4, 5), np.uint8), resolution=((254, 1), (254, 1)), resolutionunit=2, metadata=None)
    geometry = replace(read_volume(data).geometry, spacing=(0.5, 0.5))
    write_volume(tmp_path / "a.tif", Volume(np.zeros((4, 5), np.uint8), geometry))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].tags["XResolution"].value == (20, 1) and file.pages[0].tags["ResolutionUnit"].value == 3


def test_our_spacing_is_written_as_resolution_tags(tmp_path: Path) -> None:
    geometry = Geometry(("y", "x"), spacing=(0.5, 0.25), units="mm")
    write_volume(tmp_path / "a.tif", Volume(np.zeros((4, 5), np.float32), geometry))
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        x, y = (file.pages[0].tags[name].value for name in ("XResolution", "YResolution"))
        assert x[0] / x[1] == 40 and y[0] / y[1] == 20 and file.pages[0].tags["ResolutionUnit"].value == 3


@pytest.mark.parametrize(("dtype", "limits"), [("u1", (0, 255)), ("u2", (0, 65535)), ("i2", None), ("f4", None)])
def test_unsigned_integers_declare_their_range(dtype: str, limits: tuple[float, float] | None) -> None:
    data = encoded(np.zeros((4, 5), dtype), photometric="minisblack", metadata=None)
    assert read_volume(data).geometry.value_range == limits


def test_white_is_zero_is_turned() -> None:
    array = np.array([[0, 10], [255, 3]], np.uint8)
    np.testing.assert_array_equal(read_volume(encoded(array, photometric="miniswhite")).array, 255 - array)
    with pytest.raises(InputError, match="white-is-zero"):
        read_volume(encoded(array.astype(np.float32), photometric="miniswhite"))


def test_alpha_palettes_and_several_images_are_refused() -> None:
    array = np.full((4, 5, 4), 255, np.uint8)
    array[..., 0] = 9
    opaque = read_volume(encoded(array, photometric="rgb", extrasamples=["unassalpha"]))
    np.testing.assert_array_equal(opaque.array, array[..., :3])
    array[0, 0, 3] = 0
    with pytest.raises(InputError, match="transparent"):
        read_volume(encoded(array, photometric="rgb", extrasamples=["unassalpha"]))
    with pytest.raises(InputError, match="palette"):
        read_volume(encoded(array[..., 0], photometric="palette", colormap=np.zeros((3, 256), np.uint16)))
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        file.write(np.zeros((4, 5), np.uint8))
        file.write(np.zeros((6, 5), np.uint8))
    with pytest.raises(InputError, match="2 unequal images"):
        read_volume(stream.getvalue())


def test_float64_becomes_float32_and_complex_is_refused() -> None:
    array = np.random.default_rng(0).normal(size=(4, 5))
    back = written(Volume(array, Geometry(("y", "x"))))
    np.testing.assert_array_equal(back.array, array.astype(np.float32))
    assert back.array.dtype == np.float32
    with pytest.raises(InputError, match="complex"):
        written(Volume(array.astype(np.complex64), Geometry(("y", "x"))))


def test_compressed_data_are_read_and_absurd_sizes_refused() -> None:
    array = np.random.default_rng(0).normal(size=(3, 8, 9)).astype(np.float32)
    for compression in ("zlib", "lzw", "zstd"):
        data = encoded(array, photometric="minisblack", metadata={"axes": "ZYX"}, compression=compression)
        np.testing.assert_array_equal(read_volume(data).array, array)
    bomb = bytearray(encoded(np.zeros((8, 9), np.uint8), compression="zlib", metadata=None))
    with tifffile.TiffFile(io.BytesIO(bytes(bomb))) as file:
        places = [
            (file.pages[0].tags[n].valueoffset, file.pages[0].tags[n].dtype) for n in ("ImageWidth", "ImageLength")
        ]
    for place, kind in places:
        width = 2 if kind == 3 else 4
        bomb[place : place + width] = (60_000).to_bytes(width, "little")
    with pytest.raises(InputError, match="bomb"):
        read_volume(bytes(bomb))


def test_writing_onto_itself_changes_nothing(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(3, 8, 9)).astype(np.float32)
    path = tmp_path / "a.tiff"
    write_volume(path, Volume(array, Geometry(("z", "y", "x"), spacing=(3.0, 0.7, 0.3), units="mm")))
    first = path.read_bytes()
    write_volume(path, read_volume(path), force=True)
    assert path.read_bytes() == first


@pytest.mark.parametrize("missing", [1, 4, 100])
def test_tiles_cut_short_are_refused_and_never_filled_with_zeros(missing: int) -> None:
    array = np.random.default_rng(0).uniform(1, 2, (16, 32)).astype(np.float32)
    data = encoded(array, photometric="minisblack", tile=(16, 16), metadata=None)
    np.testing.assert_array_equal(read_volume(data).array, array)
    with pytest.raises(InputError, match="truncated or damaged"):
        read_volume(data[:-missing])


def test_planes_that_were_never_written_are_refused() -> None:
    array = np.ones((2, 16, 16), np.float32)
    data = bytearray(encoded(array, photometric="minisblack", tile=(16, 16), metadata={"axes": "ZYX"}))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tag = file.pages[1].tags["TileByteCounts"]
        data[tag.valueoffset : tag.valueoffset + tag.valuebytecount] = bytes(tag.valuebytecount)
    with pytest.raises(InputError, match="data of a page are missing"):
        read_volume(bytes(data))
