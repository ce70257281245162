"""PNG: full depth both ways, declared ranges, no stretching, no transparency."""

import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from recon.data import Geometry, Volume
from recon.errors import InputError
from recon.io import png
from recon.io.registry import read_volume, write_volume

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 6)) | st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(3))


def pillow_bytes(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def written(volume: Volume) -> tuple[Volume, dict[str, object]]:
    stream = io.BytesIO()
    facts = png.write(stream, volume)
    return read_volume(stream.getvalue()), facts


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=st.sampled_from([np.uint8, np.uint16]))
def test_pictures_round_trip_exactly(data: st.DataObject, dtype: type) -> None:
    array = data.draw(hnp.arrays(dtype, SHAPES))
    axes = ("y", "x", "c")[: array.ndim]
    back, facts = written(Volume(array, Geometry(axes)))
    assert back.array.dtype == dtype and back.geometry.axes == axes and facts["clipped"] == 0
    np.testing.assert_array_equal(back.array, array)
    again, _ = written(Volume(back.array.astype(np.float32), back.geometry))
    np.testing.assert_array_equal(again.array, array)
    assert again.array.dtype == dtype


def test_16_bit_rgb_is_read_at_16_bit() -> None:
    array = np.array([[[1, 256, 65535], [258, 0, 40_001]]], np.uint16)
    volume = read_volume(imagecodecs.png_encode(array))
    np.testing.assert_array_equal(volume.array, array)
    assert volume.geometry.value_range == (0, 65535) and volume.geometry.meta["bit_depth"] == 16


def test_values_are_clipped_and_rounded_and_never_stretched() -> None:
    array = np.array([[-3.0, 0.4, 0.6, 100.0, 254.6, 300.0]], np.float32)
    back, facts = written(Volume(array, Geometry(("y", "x"), value_range=(0, 255))))
    np.testing.assert_array_equal(back.array, [[0, 0, 1, 100, 255, 255]])
    assert facts["clipped"] == 2
    dim, _ = written(Volume(np.full((2, 2), 7.0), Geometry(("y", "x"), value_range=(0, 255))))
    np.testing.assert_array_equal(dim.array, np.full((2, 2), 7))


def test_a_declared_range_maps_to_the_full_depth() -> None:
    array = np.array([[0.0, 0.5, 1.0]])
    eight, _ = written(Volume(array, Geometry(("y", "x"), value_range=(0, 1))))
    np.testing.assert_array_equal(eight.array, [[0, 128, 255]])
    sixteen, _ = written(Volume(array, Geometry(("y", "x"), value_range=(0, 1), meta={"bit_depth": 16})))
    np.testing.assert_array_equal(sixteen.array, [[0, 32768, 65535]])


@pytest.mark.parametrize(
    ("array", "geometry", "message"),
    [
        (np.zeros((2, 2), np.float32), Geometry(("y", "x")), "black and white"),
        (np.zeros((2, 2), np.complex64), Geometry(("y", "x"), value_range=(0, 1)), "complex"),
        (np.full((2, 2), np.nan), Geometry(("y", "x"), value_range=(0, 1)), "NaN"),
        (np.zeros((3, 2, 2)), Geometry(("z", "y", "x"), value_range=(0, 1)), "one grey or RGB picture"),
        (np.zeros((2, 2, 2)), Geometry(("y", "x", "c"), value_range=(0, 1)), "one grey or RGB picture"),
        (np.zeros((2, 2)), Geometry(("y", "x"), value_range=(1, 1)), "black and white"),
    ],
)
def test_what_a_png_cannot_hold_is_refused(array: np.ndarray, geometry: Geometry, message: str) -> None:
    with pytest.raises(InputError, match=message):
        written(Volume(array, geometry))


def test_single_slices_of_other_formats_are_written_upright() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    back, _ = written(Volume(array, Geometry(("x", "y", "z"), value_range=(0, 255))))
    np.testing.assert_array_equal(back.array, array[..., 0].T)


def test_palettes_and_few_bits_are_expanded() -> None:
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5) * 12
    colours = np.stack([grey, 255 - grey, grey // 2], axis=-1)
    image = Image.fromarray(colours).quantize(32)
    volume = read_volume(pillow_bytes(image))
    np.testing.assert_array_equal(volume.array, np.asarray(image.convert("RGB")))
    bits = read_volume(pillow_bytes(Image.fromarray(grey > 100)))
    np.testing.assert_array_equal(bits.array, (grey > 100) * 255)
    assert bits.geometry.value_range == (0, 255)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_dropped_only_where_it_is_opaque(mode: str) -> None:
    channels = len(mode)
    array = np.full((3, 4, channels), 255, np.uint8)
    array[..., 0] = 17
    volume = read_volume(pillow_bytes(Image.fromarray(array, mode)))
    np.testing.assert_array_equal(volume.array, array[..., 0] if channels == 2 else array[..., :3])
    array[1, 1, -1] = 254
    with pytest.raises(InputError, match="transparent"):
        read_volume(pillow_bytes(Image.fromarray(array, mode)))


def test_transparent_colour_keys_and_animations_are_refused() -> None:
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    with pytest.raises(InputError, match="transparent"):
        read_volume(pillow_bytes(Image.fromarray(grey), transparency=3))
    frames = [Image.fromarray(grey + k) for k in range(2)]
    with pytest.raises(InputError, match="animated"):
        read_volume(pillow_bytes(frames[0], save_all=True, append_images=frames[1:]))


def test_absurd_sizes_and_wrong_checksums_are_refused() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 16, 6, 0, 0, 0))
    bomb = png.SIGNATURE + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    with pytest.raises(InputError, match="bomb"):
        read_volume(bomb)
    good = bytearray(imagecodecs.png_encode(np.zeros((4, 4), np.uint8)))
    good[29] ^= 1
    with pytest.raises(InputError, match="checksum"):
        read_volume(bytes(good))


def test_writing_a_picture_onto_itself_changes_nothing(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 65536, (7, 6, 3)).astype(np.uint16)
    write_volume(tmp_path / "a.png", Volume(array, Geometry(("y", "x", "c"))))
    write_volume(tmp_path / "a.png", read_volume(tmp_path / "a.png"), force=True)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.png").array, array)
