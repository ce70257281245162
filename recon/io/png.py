"""PNG pictures: 8 and 16 bit, grey and RGB, read and written at their full depth; values are never stretched.

A value v is stored as round(clip((v - black) / (white - black), 0, 1) (2^depth - 1)) with (black, white) declared by
the geometry; 8-bit pictures read as 0..255 and 16-bit ones as 0..65535 are stored as they are.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, BinaryIO

import numpy as np

from recon.data import Geometry, Volume
from recon.errors import InputError
from recon.io.axes import arrange, declared_range, resolve_axes
from recon.io.source import Source, check_declared, native, reading, require_finite

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 4, 4: 2, 6: 4}


def read(source: Source, axes: tuple[str, ...] | None = None) -> Volume:
    """Return a picture with axes y,x or y,x,c, in uint8 or uint16; palettes and fewer bits are expanded to 8 bit.

    Raises InputError for damaged, animated or partly transparent pictures.
    """
    import imagecodecs

    with reading(source.name, "PNG picture"):
        source.stream.seek(0)
        data = source.stream.read()
        _check_chunks(data, source.name)
        array = native(np.asarray(imagecodecs.png_decode(data)), source.name)
    array = opaque(array, source.name)
    named = resolve_axes(array.shape, axes or (("y", "x", "c") if array.ndim == 3 else None), source.name)
    meta = {"format": "png", "dtype": str(array.dtype), "bit_depth": 8 * array.dtype.itemsize}
    return Volume(array, Geometry(named, value_range=declared_range(array.dtype), meta=meta))


def write(stream: BinaryIO, volume: Volume) -> dict[str, Any]:
    """Write one picture at the depth of its source; return the depth, the range and how many values were clipped.

    Raises InputError for complex or non-finite values, stacks, and values whose black and white are not known.
    """
    import imagecodecs

    array, (low, high), depth = _picture(volume)
    require_finite(array, "picture for PNG")
    top = 2**depth - 1
    scaled = (array.astype(np.float64) - low) * (top / (high - low))
    clipped = int(np.count_nonzero((scaled < 0) | (scaled > top)))
    levels = np.rint(np.clip(scaled, 0, top)).astype(np.uint8 if depth == 8 else np.uint16)
    stream.write(imagecodecs.png_encode(np.ascontiguousarray(levels)))
    return {"dtype": str(levels.dtype), "bit_depth": depth, "value_range": [low, high], "clipped": clipped}


def check(volume: Volume) -> None:
    """Raise InputError where a PNG file cannot hold such an image."""
    _picture(volume)


def opaque(array: np.ndarray, name: str) -> np.ndarray:
    """Drop the last channel of grey+alpha or RGB+alpha if it is fully opaque. Raises InputError otherwise."""
    if array.ndim != 3 or array.shape[2] not in (2, 4):
        return array
    full = 1 if array.dtype.kind == "f" else np.iinfo(array.dtype).max
    if np.any(array[..., -1] != full):
        raise InputError(f"{name}: the picture has transparent parts", "flatten it onto a background first")
    rest = array[..., :-1]
    return np.ascontiguousarray(rest[..., 0] if rest.shape[2] == 1 else rest)


def _picture(volume: Volume) -> tuple[np.ndarray, tuple[float, float], int]:
    """Return the array (Y, X) or (Y, X, 3), the values of black and white, and the bit depth."""
    array, axes = arrange(volume, ("n", "z", "y", "x", "c"), drop=("n", "z", "c"))
    if axes not in (("y", "x"), ("y", "x", "c")) or (axes[-1] == "c" and array.shape[2] != 3):
        raise InputError(
            f"PNG holds one grey or RGB picture, got axes {','.join(volume.geometry.axes)}, shape {volume.array.shape}",
            "write .tiff, .nii or .npz, or make a contact sheet with: recon view",
        )
    if array.dtype.kind == "c":
        raise InputError("PNG cannot hold complex values", "write .npy, .npz, .h5 or .nii")
    limits = volume.geometry.value_range or declared_range(array.dtype)
    if limits is None or not limits[0] < limits[1]:
        raise InputError(
            "PNG needs to know which values are black and white, and the image does not declare them",
            "write .tiff, .nii or .npz, or make a picture with: recon view",
        )
    depth = volume.geometry.meta.get("bit_depth")
    if depth not in (8, 16):
        depth = 16 if limits[1] > 255 else 8
    return array, limits, depth


def _check_chunks(data: bytes, name: str) -> None:
    """Walk the chunks: complete, checksums right, one picture, and no more pixels than the file can hold."""
    if data[:8] != SIGNATURE:
        raise ValueError("no PNG signature")
    position, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        body = memoryview(data)[position + 4 : position + 8 + length]
        (checksum,) = struct.unpack_from(">I", data, position + 8 + length)
        if zlib.crc32(body) != checksum:
            raise ValueError(f"chunk {kind.decode('latin-1')} has a wrong checksum")
        if position == 8:
            _check_header(kind, bytes(body[4:]), len(data), name)
        if kind == b"acTL":
            raise InputError(f"{name}: an animated PNG", "save its frames as single pictures")
        position += 12 + length


def _check_header(kind: bytes, body: bytes, stored: int, name: str) -> None:
    if kind != b"IHDR":
        raise ValueError("no header chunk")
    width, height, depth, colour = struct.unpack_from(">IIBB", body)
    check_declared(width * height * _CHANNELS[colour] * max(depth, 8) // 8, stored, name)
