"""`recon convert`: read an image, take a part of it, change its type without loss, write it in another format."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recon.data import Geometry, Volume, take_item
from recon.errors import InputError, UsageError
from recon.io.atomic import check_writable
from recon.io.catalog import format_of_name
from recon.io.registry import (
    holds_measurement,
    output_format,
    read_measurement,
    read_volume,
    write_measurement,
    write_volume,
)

DTYPES = ("uint8", "uint16", "int16", "int32", "float32", "float64", "complex64", "complex128")
CONTENTS = ("image", "measurement")
GREY = "grey"
# what files of a format cannot say of an image
NO_PLACE = {
    "npy": ("pixel size", "place in space (affine)"),
    "png": ("pixel size", "place in space (affine)"),
    "bart": ("pixel size", "place in space (affine)"),
    "fastmri": ("place in space (affine)",),
}
# luma of ITU-R BT.601
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class ConvertRequest:
    """What the user asked for; `source` is a path or the bytes of standard input, `output` a path or "-".

    index: one slice alone.  channel: a number, or "grey" for the luma of RGB.  dtype: one of DTYPES.
    content: "image" or "measurement"; None: the measurement where the source holds one and the output's format can, and
    nothing is asked for that only images have.
    """

    source: str | os.PathLike[str] | bytes
    output: str | os.PathLike[str]
    axes: str | None = None
    index: int | None = None
    channel: str | None = None
    dtype: str | None = None
    force: bool = False
    content: str | None = None


def convert(request: ConvertRequest) -> dict[str, Any]:
    """Convert a file; return what was written: output, format, axes, shape, dtype.

    Raises UsageError for an unknown type or extension, OutputExistsError before reading, InputError where a value
    would be lost.
    """
    if request.dtype is not None and request.dtype not in DTYPES:
        raise UsageError(f"unknown type '{request.dtype}'", f"choose from: {', '.join(DTYPES)}")
    content = _content(request)
    output_format(request.output, content)
    check_writable([request.output], request.force)
    if content == "measurement":
        return _convert_measurement(request)
    volume = read_volume(request.source, request.axes)
    if request.index is not None:
        volume = take_item(volume, request.index)
    if request.channel is not None:
        volume = take_channel(volume, request.channel)
    if request.dtype is not None:
        volume = Volume(cast_exactly(volume.array, request.dtype), volume.geometry)
    facts = write_volume(request.output, volume, request.force)
    shape = {"axes": list(volume.geometry.axes), "shape": list(volume.array.shape)}
    return {"output": os.fspath(request.output), **shape, **facts, **_lost(volume.geometry, facts["format"])}


def _lost(geometry: Geometry, form: str) -> dict[str, str]:
    """Return a note of what the image has and a file of this format has no place for; {} where there is nothing."""
    known = {"pixel size": geometry.spacing is not None, "place in space (affine)": geometry.affine is not None}
    lost = [what for what in NO_PLACE.get(form, ()) if known[what]]
    return {"note": f"{' and '.join(lost)} not kept: {form} files have no place for it"} if lost else {}


def _content(request: ConvertRequest) -> str:
    """Return what is converted, the image or the measurement of the source. Raises UsageError for what cannot be."""
    for_images = {"--index": request.index, "--channel": request.channel, "--dtype": request.dtype}
    asked = [option for option, value in for_images.items() if value is not None]
    if request.content is not None:
        if request.content not in CONTENTS:
            raise UsageError(f"unknown content '{request.content}'", f"choose from: {', '.join(CONTENTS)}")
        if request.content == "measurement" and asked:
            raise UsageError(f"{', '.join(asked)} apply to images alone", "leave them out, or convert the image")
        return request.content
    form = format_of_name(os.fspath(request.output))
    if form is None or "measurement" not in form.writes or asked or request.axes is not None:
        return "image"
    return "measurement" if holds_measurement(request.source) else "image"


def _convert_measurement(request: ConvertRequest) -> dict[str, Any]:
    measurement = read_measurement(request.source, request.axes)
    write_measurement(request.output, measurement, request.force)
    operator = measurement.operator.kind if measurement.operator is not None else None
    form = output_format(request.output, "measurement").name
    facts = {"content": "measurement", "operator": operator, "shape": list(measurement.y.shape), "format": form}
    return {"output": os.fspath(request.output), **facts, "dtype": str(measurement.y.dtype)}


def take_channel(volume: Volume, channel: str) -> Volume:
    """Return one channel of an image, by number or "grey", without the channel axis.

    Raises InputError where there is no such channel, UsageError for another word.
    """
    geometry = volume.geometry
    if "c" not in geometry.axes:
        raise InputError(f"an image with axes {','.join(geometry.axes)} has no channels", "leave out --channel")
    axis = geometry.axes.index("c")
    count = volume.array.shape[axis]
    if channel == GREY:
        if count != len(LUMA):
            raise InputError(f"grey is made of 3 channels (red, green, blue), got {count}", "choose one by its number")
        array = np.moveaxis(volume.array, axis, -1).astype(np.float32) @ np.array(LUMA, np.float32)
    else:
        try:
            number = int(channel)
        except ValueError as err:
            raise UsageError(f"--channel {channel}: expected a number or '{GREY}'") from err
        if not -count <= number < count:
            raise InputError(f"channel {number} is outside 0..{count - 1}")
        array = volume.array.take(number, axis=axis)
    spacing = geometry.spacing and tuple(s for i, s in enumerate(geometry.spacing) if i != axis)
    axes = tuple(name for name in geometry.axes if name != "c")
    return Volume(array, replace(geometry, axes=axes, spacing=spacing))


def cast_exactly(array: np.ndarray, dtype: str) -> np.ndarray:
    """Return the array as `dtype`. Raises InputError where more than the rounding of real numbers would be lost."""
    target = np.dtype(dtype)
    with np.errstate(all="ignore"):
        lossy = np.iscomplexobj(array) and target.kind != "c" and bool(np.any(array.imag))
        cast = (array if target.kind == "c" else array.real).astype(target)
        if target.kind in "iu":
            lossy = lossy or not np.array_equal(cast.astype(array.dtype), array)
        else:
            lossy = lossy or not np.array_equal(np.isfinite(cast), np.isfinite(array))
    if lossy:
        raise InputError(
            f"the image ({array.dtype}) cannot be written as {dtype} without losing values",
            "write a type that holds them, such as float32 (complex64 for complex images)",
        )
    return cast
