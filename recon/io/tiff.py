"""TIFF pictures and stacks, also OME and ImageJ: axes from the file's metadata, pixel size kept.

Written as grey planes with named axes (a stack of three slices is never taken for colours), or as RGB where the
channel axis has length 3; float32 by default, integers as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from recon.data import Geometry, Volume
from recon.errors import InputError
from recon.io.axes import arrange, axes_hint, declared_range, to_float32
from recon.io.disk import converted, is_large, let_go, mapped, scratch
from recon.io.png import opaque
from recon.io.source import Source, check_declared, native, reading
from recon.io.tiff_scale import file_scale, scale_tags

if TYPE_CHECKING:
    import tifffile

_NAMES = {"X": "x", "Y": "y", "Z": "z", "C": "c", "S": "c", "T": "n"}
_CODES = {"x": "X", "y": "Y", "z": "Z", "c": "C", "n": "T"}


def read(source: Source, axes: tuple[str, ...] | None = None) -> Volume:
    """Return the picture or stack in file order, with the axes that its OME, ImageJ or tifffile metadata name.

    Raises InputError for damaged files, several unequal images, unnamed axes without `axes`, palettes, transparency.
    """
    import tifffile

    with reading(source.name, "TIFF file"), _errors_raised():
        source.stream.seek(0)
        with tifffile.TiffFile(source.stream, name=source.name) as tif:
            series = _only_series(tif, source)
            array = native(_values(series, source), source.name)
            codes, page = series.axes, series.keyframe
            scale = file_scale(tif)
            array = _colours(array, codes, page, axes is not None, source.name)
    named = _named(codes[: array.ndim], array, axes, source.name)
    spacing = tuple(scale.steps.get(name, 1.0) for name in named)
    known = all(name in scale.steps for name in named if name in "xyz")
    meta: dict[str, Any] = {"format": "tiff", "dtype": str(array.dtype)}
    if scale.tags:
        meta["tiff"] = scale.tags
    return Volume(
        array,
        Geometry(
            named,
            affine=scale.affine,
            spacing=spacing if known else None,
            units=scale.units,
            value_range=scale.value_range or declared_range(array.dtype),
            meta=meta,
        ),
    )


def write(stream: BinaryIO, volume: Volume) -> dict[str, Any]:
    """Write the image with its axes and pixel size. Raises InputError for complex values."""
    import tifffile

    array, codes = _layout(volume)
    if array.dtype.kind == "f":
        array = to_float32(array)
    tags, facts = scale_tags(volume.geometry)
    tifffile.imwrite(
        stream,
        _pages(array, 3 if "S" in codes else 2) if is_large(array.shape, array.dtype) else np.ascontiguousarray(array),
        shape=array.shape,
        dtype=array.dtype,
        photometric="rgb" if "S" in codes else "minisblack",
        planarconfig="contig" if "S" in codes else None,
        metadata={"axes": codes, **facts},
        software="recon",
        **tags,
    )
    return {"dtype": str(array.dtype)}


def check(volume: Volume) -> None:
    """Raise InputError where a TIFF file cannot hold such an image."""
    _layout(volume)


def _layout(volume: Volume) -> tuple[np.ndarray, str]:
    """Return the array in the order of TIFF's dimensions, and their codes."""
    if volume.array.dtype.kind == "c":
        raise InputError("TIFF cannot hold complex values that other programs read", "write .npy, .npz, .h5 or .nii")
    axes = volume.geometry.axes
    if not {"y", "x"} <= set(axes):
        raise InputError(f"TIFF needs axes y and x, got {','.join(axes)}", "name the axes with --axes")
    colours = "c" in axes and volume.array.shape[axes.index("c")] == 3 and volume.array.dtype != bool
    array, names = arrange(volume, ("n", "z", "y", "x", "c") if colours else ("n", "z", "c", "y", "x"))
    return array, "".join("S" if colours and name == "c" else _CODES[name] for name in names)


def _pages(array: np.ndarray, ndim: int) -> Iterator[np.ndarray]:
    """Yield the planes of a stack one by one, and let go of each after its use."""
    for index in np.ndindex(array.shape[:-ndim]):
        yield np.ascontiguousarray(array[index])
        let_go(array)


def _only_series(tif: tifffile.TiffFile, source: Source) -> Any:
    """Return the one image of the file, with all of its data present and no more than the file can hold."""
    if len(tif.series) != 1:
        raise InputError(
            f"{source.name}: {len(tif.series)} unequal images in one TIFF", "save the one to read as a file of its own"
        )
    series = tif.series[0]
    check_declared(series.nbytes, source.size, source.name)
    for page in series.pages:
        if page is None:
            continue
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            if count == 0 or offset + count > source.size:
                raise ValueError("data of a page are missing")
    return series


def _values(series: Any, source: Source) -> np.ndarray:
    """Return the values of a series; of a large one mapped where they lie in one piece, else unpacked page by page."""
    page, shape = series.keyframe, tuple(series.shape)
    if not is_large(shape, series.dtype):
        return np.asarray(series.asarray())
    if series.dataoffset is not None and source.path is not None:
        stored = np.dtype(series.parent.byteorder + series.dtype.char)
        return converted(mapped(source.path, stored, series.dataoffset, shape), series.dtype.newbyteorder("="))
    if tuple(shape[-page.ndim :]) != tuple(page.shape) or len(series.pages) * page.size != series.size:
        return np.asarray(series.asarray())
    found = scratch((len(series.pages), *page.shape), series.dtype)
    for index, plane in enumerate(series.pages):
        if plane is None:
            raise ValueError("a page is missing")
        found[index] = plane.asarray()
        let_go(found)
    return found.reshape(shape)


def _colours(array: np.ndarray, codes: str, page: Any, axes_given: bool, name: str) -> np.ndarray:
    """Return grey or RGB values: alpha dropped where opaque, white-is-zero turned; refuse what is no plain colour."""
    from tifffile import PHOTOMETRIC

    photometric = page.photometric
    if photometric == PHOTOMETRIC.MINISWHITE:
        limits = declared_range(array.dtype)
        if limits is None:
            raise InputError(f"{name}: white-is-zero values of type {array.dtype}", "save them with black as zero")
        return ~array if array.dtype == bool else np.asarray(limits[1] - array, array.dtype)
    if photometric not in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR):
        raise InputError(f"{name}: colours of kind {photometric.name.lower()}", "save the picture as grey or RGB")
    if photometric == PHOTOMETRIC.RGB and array.dtype.kind == "f" and not codes.endswith("S") and not axes_given:
        raise InputError(
            f"{name}: {array.shape} values of type {array.dtype} marked as colour planes: slices or colours?",
            "name the axes: --axes z,y,x for slices, --axes c,y,x for colours",
        )
    if 1 in page.extrasamples or 2 in page.extrasamples:
        if not codes.endswith("S"):
            raise InputError(f"{name}: transparency in a plane of its own", "flatten the picture onto a background")
        return opaque(array, name)
    return array


def _named(codes: str, array: np.ndarray, axes: tuple[str, ...] | None, name: str) -> tuple[str, ...]:
    """Return the axes given, or the file's own."""
    if axes is None:
        named = tuple(_NAMES.get(code, "") for code in codes)
        if "" not in named and len(set(named)) == len(named):
            return named
        raise InputError(f"{name}: shape {array.shape} has dimensions without a known name", axes_hint(array.ndim))
    if len(axes) != array.ndim:
        raise InputError(
            f"{name}: axes {','.join(axes)} do not fit shape {array.shape}", "name one axis a dimension (--axes)"
        )
    return axes


@contextmanager
def _errors_raised() -> Iterator[None]:
    """Make the errors that tifffile only logs (missing pages, unreadable tags) fail the reading."""
    problems: list[str] = []
    logger = logging.getLogger("tifffile")
    handler = _Collector(problems)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    if problems:
        raise ValueError(problems[0])


class _Collector(logging.Handler):
    """Collects the messages of errors."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__()
        self._problems = problems

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            self._problems.append(record.getMessage())
