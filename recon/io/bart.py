"""BART files: NAME.cfl, complex64 in column-major order, and NAME.hdr, text with up to 16 sizes.

    0 READ  1 PHS1  2 PHS2  3 COIL  4 MAPS  5 TE  6 COEFF  7 COEFF2  8 ITER  9 CSHIFT  10 TIME  11 TIME2  12 LEVEL
    13 SLICE  14 AVG  15 BATCH

An image has x, y, z along READ, PHS1 and PHS2 or SLICE, items along BATCH. k-space becomes (slices, coils, PHS1, READ);
of a 3-D scan (PHS2 > 1) the readout is transformed to slices, for it is fully measured. The transforms of BART with -u
are those of `recon.operators.mri`. Other dimensions are refused by name, never flattened.
Source: BART 0.8, src/misc/mri.h and the manual of cfl files.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from recon import __version__
from recon.data import Geometry, Measurement, OperatorSpec, Scan, Volume
from recon.errors import InputError
from recon.io.axes import arrange
from recon.io.kspace import readout_to_slices
from recon.io.source import Source, reading

NAMES = (
    *("READ", "PHS1", "PHS2", "COIL", "MAPS", "TE", "COEFF", "COEFF2"),
    *("ITER", "CSHIFT", "TIME", "TIME2", "LEVEL", "SLICE", "AVG", "BATCH"),
)
READ, PHS1, PHS2, COIL, SLICE, BATCH = 0, 1, 2, 3, 13, 15
MARK = b"# Dimensions"
_MAX_HEADER = 2**16


def is_pair(source: Source) -> bool:
    """Tell whether a path is one of a pair of BART's files, whose header says the size of its data exactly."""
    if source.path is None or source.path.suffix not in (".cfl", ".hdr"):
        return False
    header, data = source.path.with_suffix(".hdr"), source.path.with_suffix(".cfl")
    try:
        with open(header, "rb") as stream:
            return stream.read(len(MARK)) == MARK
    except OSError:
        return source.path.suffix == ".cfl" and data.exists()


def read(source: Source, axes: tuple[str, ...] | None = None) -> Volume:
    """Return an image with axes x, y[, z][, n]; a file of one slice has two. Raises InputError for other dimensions."""
    array = read_cfl(source)
    _refuse(array, (READ, PHS1, PHS2, SLICE, BATCH), source.name)
    if array.shape[PHS2] > 1 and array.shape[SLICE] > 1:
        raise InputError(f"{source.name}: PHS2 and SLICE in one file, expected one of them", "take one: bart slice")
    third = SLICE if array.shape[SLICE] > 1 else PHS2
    order = [READ, PHS1] + ([third] if array.shape[third] > 1 else []) + ([BATCH] if array.shape[BATCH] > 1 else [])
    image = np.array(_axes(array, order))
    if axes is not None and len(axes) != image.ndim:
        raise InputError(
            f"{source.name}: axes {','.join(axes)} do not fit shape {image.shape}", "name one axis a dimension (--axes)"
        )
    names = {READ: "x", PHS1: "y", PHS2: "z", SLICE: "z", BATCH: "n"}
    named = axes or tuple(names[d] for d in order)
    if not image.imag.any():
        image = np.ascontiguousarray(image.real)
    return Volume(image, Geometry(named, meta={"format": "bart", "dtype": str(image.dtype)}))


def read_measurement(source: Source) -> Measurement:
    """Return k-space (slices, coils, Y, X), mapped from disk for slices. Raises InputError for other dimensions."""
    array = read_cfl(source)
    _refuse(array, (READ, PHS1, PHS2, COIL, SLICE), source.name)
    notes: tuple[str, ...] = ()
    if array.shape[PHS2] > 1:
        if array.shape[SLICE] > 1:
            raise InputError(f"{source.name}: PHS2 and SLICE in one file, expected one of them", "take one: bart slice")
        y = readout_to_slices(_axes(array, [READ, COIL, PHS1, PHS2]), source.name)
        notes = (f"3-D k-space: its readout became {y.shape[0]} slices, z; PHS1 is y, PHS2 is x",)
        geometry, readout = Geometry(("z", "y", "x"), meta={"format": "bart"}), None
    else:
        y = _axes(array, [SLICE, COIL, PHS1, READ])
        geometry, readout = Geometry(("z", "y", "x"), meta={"format": "bart"}), "x"
    spec = OperatorSpec("mri", {"mask": "given", "axis": "y"}, (1, *y.shape[-2:]), {})
    return Measurement(y, spec, None, geometry, {"format": "bart"}, Scan(readout=readout, notes=notes))


def holds_image(source: Source) -> bool:
    """Tell whether a file has one coil, so that it may be an image as well as k-space."""
    return read_cfl(source).shape[COIL] == 1


def read_array(source: Source) -> np.ndarray:
    """Return maps (coils, Y, X), a mask (Y, X) and the like: dimensions of length 1 dropped, the last one first."""
    array = np.array(read_cfl(source).T)
    array = array.reshape([n for n in array.shape if n > 1] or [1])
    return array if array.imag.any() else np.ascontiguousarray(array.real)


def read_cfl(source: Source) -> np.ndarray:
    """Return the array with all of its 16 dimensions, mapped from disk. Raises InputError where the pair is damaged."""
    if source.path is None:
        raise InputError(f"{source.name}: BART's files are pairs and cannot be piped", "name the .cfl file")
    header, data = source.path.with_suffix(".hdr"), source.path.with_suffix(".cfl")
    with reading(source.name, "BART file"):
        if not header.exists() or not data.exists():
            lost = header if not header.exists() else data
            raise InputError(f"{source.name}: the other file of the pair, {lost.name}, is missing", "put it beside")
        sizes = _sizes(header)
        expected, found = 8 * math.prod(sizes), data.stat().st_size
        if expected != found:
            raise InputError(
                f"{source.name}: sizes {_shown(sizes)} need {expected} bytes, the .cfl has {found}: damaged",
                "get both files again",
            )
        return np.memmap(data, np.complex64, "r", shape=sizes, order="F")


def write_files(path: Path, volume: Volume) -> dict[str, Any]:
    """Write an image: x, y, z, n along READ, PHS1, PHS2, BATCH, as complex64; pixel sizes have no place there."""
    array, names = _layout(volume)
    sizes = [1] * 16
    for name, n in zip(names, array.shape, strict=True):
        sizes[{"x": READ, "y": PHS1, "z": PHS2, "n": BATCH}[name]] = n
    _write(path, array, sizes)
    return {"dtype": "complex64"}


def check(volume: Volume) -> None:
    """Raise InputError where a BART file cannot hold such an image."""
    _layout(volume)


def write_measurement_files(path: Path, measurement: Measurement) -> None:
    """Write k-space (N, coils, Y, X) along SLICE, COIL, PHS1, READ. Raises InputError for data that are none."""
    y, spec = measurement.y, measurement.operator
    if y.ndim != 4 or y.dtype.kind != "c" or (spec is not None and spec.kind != "mri"):
        raise InputError(
            f"BART files hold k-space, got data of type {y.dtype} and shape {y.shape}", "write .h5 or .npz"
        )
    if spec is not None and "maps" in spec.arrays:
        raise InputError("BART keeps coil maps in a file of their own, this measurement has both", "write .h5 or .npz")
    sizes = [1] * 16
    sizes[SLICE], sizes[COIL], sizes[PHS1], sizes[READ] = y.shape
    _write(path, y.transpose(3, 2, 1, 0), sizes)


def _write(path: Path, array: np.ndarray, sizes: list[int]) -> None:
    """Write the pair; `array` has the sizes other than 1 in BART's order."""
    with open(path, "wb") as stream:
        for part in np.moveaxis(array, -1, 0) if array.ndim > 2 else [array]:
            stream.write(np.asarray(part, np.complex64).tobytes(order="F"))
    about = ["# Command", "recon convert", "# Creator", f"recon {__version__}"]
    lines = ["# Dimensions", " ".join(map(str, sizes)), *about]
    path.with_suffix(".hdr").write_text("\n".join(lines) + "\n")


def _sizes(header: Path) -> tuple[int, ...]:
    with open(header, "rb") as stream:
        lines = stream.read(_MAX_HEADER).decode("ascii").splitlines()
    if not lines or lines[0].strip() != MARK.decode() or len(lines) < 2:
        raise ValueError("its header does not begin with '# Dimensions'")
    sizes = [int(word) for word in lines[1].split()]
    if not sizes or len(sizes) > 16 or min(sizes) < 1:
        raise ValueError(f"sizes {sizes[:17]}")
    return (*sizes, *(1,) * (16 - len(sizes)))


def _axes(array: np.ndarray, order: list[int]) -> np.ndarray:
    """Return the dimensions in `order`; all others have length 1."""
    rest = [d for d in range(16) if d not in order]
    return array.transpose([*rest, *order]).reshape([array.shape[d] for d in order])


def _refuse(array: np.ndarray, allowed: tuple[int, ...], name: str) -> None:
    odd = {d: f"{NAMES[d]} = {n}" for d, n in enumerate(array.shape) if n > 1 and d not in allowed}
    if odd:
        raise InputError(
            f"{name}: dimensions that are not used here: {', '.join(odd.values())}",
            f"take one of them: bart slice {min(odd)} 0",
        )


def _layout(volume: Volume) -> tuple[np.ndarray, tuple[str, ...]]:
    axes = volume.geometry.axes
    sizes = dict(zip(axes, volume.array.shape, strict=True))
    if sizes.get("c", 1) > 1 or not {"x", "y"} <= set(axes):
        raise InputError(f"BART files hold grey images, got axes {','.join(axes)}", "write .npz, .h5 or .tiff")
    return arrange(volume, ("x", "y", "z", "n"), drop=("c",))


def _shown(sizes: tuple[int, ...]) -> str:
    return ", ".join(f"{NAMES[d]} = {n}" for d, n in enumerate(sizes) if n > 1) or "1"


def write(stream: BinaryIO, volume: Volume) -> dict[str, Any]:
    """Raise InputError: a pair of files does not go into one stream."""
    raise InputError("BART's files are pairs and cannot be piped", "name an output .cfl")
