"""One door to all file formats: sniff, read and write images and measurements."""

from __future__ import annotations

import gzip
import importlib
import os
from pathlib import Path
from typing import Any

from recon.data import Measurement, Volume, to_stack
from recon.errors import InputError, UsageError
from recon.io.atomic import PathLike, atomic_files, is_several, is_stream, open_output
from recon.io.axes import Axes, parse_axes
from recon.io.catalog import FORMATS, HDF5_LAYOUTS, Format, format_of_name, supported
from recon.io.source import Input, Source, open_source, require_finite

__all__ = [
    "FORMATS",
    "Format",
    "check_volume",
    "holds_measurement",
    "output_format",
    "read_measurement",
    "read_volume",
    "sniff",
    "write_measurement",
    "write_volume",
]


def sniff(source: Input) -> str:
    """Return the name in `FORMATS` of a file's content, whatever its extension. Raises InputError if unknown."""
    from recon.io.sniffing import sniff_source

    with open_source(source) as opened:
        return sniff_source(opened)


def read_volume(source: Input, axes: Axes = None) -> Volume:
    """Read an image, stack or volume.

    source: a path, `path::array` for one array of an npz or HDF5 file, or the bytes of a file.
    axes: names of the dimensions, such as "z,y,x", where the file does not give them or gives them wrongly.
    Raises InputError for files that are damaged, hostile, of an unknown format, or whose axes are unknown.
    """
    named = parse_axes(axes)
    with open_source(source) as opened:
        return _read_image(opened, named)


def write_volume(path: PathLike, volume: Volume, force: bool = False) -> dict[str, Any]:
    """Write an image all or nothing, in the format of the file name; `-` writes npy to standard output.

    Returns what was stored: format, dtype, and for PNG the value range and the number of clipped values.
    Raises UsageError for an unknown extension, InputError where the format cannot hold the image,
    OutputExistsError where the file exists without `force`, ResourceError where it cannot be written.
    """
    form = output_format(path, "image")
    module = _module(form)
    check_volume(path, volume)
    if is_several(path):
        with atomic_files(path, force) as made:
            facts = module.write_files(made, volume)
        return {"format": form.name, **facts}
    with open_output(path, force) as stream:
        if os.fspath(path).lower().endswith(".gz"):
            with gzip.GzipFile(filename="", mode="wb", fileobj=stream, compresslevel=6, mtime=0) as zipped:
                facts = module.write(zipped, volume)
        else:
            facts = module.write(stream, volume)
    return {"format": form.name, **facts}


def check_volume(path: PathLike, volume: Volume) -> None:
    """Refuse early an output whose format cannot hold such an image; only shape, axes, type and range are looked at.

    Raises UsageError for an unknown extension, InputError where the format cannot hold it.
    """
    module = _module(output_format(path, "image"))
    _check(module, volume)
    if hasattr(module, "check_name") and not is_several(path):
        module.check_name(os.fspath(path), volume)


def read_measurement(source: Input, axes: Axes = None) -> Measurement:
    """Read a measurement: our .h5 or .npz layout, a bare array, or a picture or volume that was measured itself.

    A bare array (.npy, or `y` or the only array of .npz and .h5) is returned as it lies in the file, with nothing
    else known. A picture or volume, and an array whose `axes` are given, becomes y (N, C, Y, X) with its geometry.
    Raises InputError for unreadable files and for NaN or infinite values.
    """
    named = parse_axes(axes)
    with open_source(source) as opened:
        measurement = load_measurement(opened, named)
    require_finite(measurement.y, f"{opened.name}: y")
    if measurement.operator is not None:
        for name, array in measurement.operator.arrays.items():
            require_finite(array, f"{opened.name}: operator array '{name}'")
    return measurement


def write_measurement(path: PathLike, measurement: Measurement, force: bool = False) -> None:
    """Write a measurement all or nothing in the format of the file name; `-` writes npz to standard output.

    Raises UsageError for an extension of no such format, InputError where the format cannot hold it; otherwise as
    `write_volume`.
    """
    from recon.io.measurement import write_stream

    form = output_format(path, "measurement")
    if is_several(path):
        with atomic_files(path, force) as made:
            _module(form).write_measurement_files(made, measurement)
        return
    with open_output(path, force) as stream:
        if form.name in ("npz", "hdf5"):
            write_stream(stream, measurement, form.name)
        else:
            _module(form).write_measurement(stream, measurement)


def output_format(path: PathLike, use: str) -> Format:
    """Return the format that an output's name asks for; `use` is "image" or "measurement".

    Streams without an extension get npy and npz. Raises UsageError where the extension is unknown or cannot hold it.
    """
    name = os.fspath(path)
    form = format_of_name(name)
    if form is None and is_stream(path):
        return FORMATS["npy" if use == "image" else "npz"]
    if form is None or use not in form.writes:
        found = "".join(Path(name).suffixes[-1:]) or "no extension"
        raise UsageError(f"cannot write {name}: {use} files do not end in '{found}'", f"use {supported(use, 'writes')}")
    return form


def load_measurement(source: Source, axes: tuple[str, ...] | None) -> Measurement:
    """Return the measurement of an opened file without looking at its values."""
    from recon.io import hdf5, measurement, npy, npz
    from recon.io.sniffing import sniff_source

    form = sniff_source(source)
    if form == "npy" and axes is None:
        return Measurement(npy.read_array(source))
    if form == "npz" and axes is None:
        with npz.open_npz(source) as archive:
            if not _is_image(archive.keys(), source):
                return measurement.read_file(archive, source.inner)
    if (form == "hdf5" or (form in HDF5_LAYOUTS and is_array_name(source.inner))) and axes is None:
        with hdf5.open_hdf5(source) as file:
            if not _is_image(file.keys(), source):
                return measurement.read_file(file, source.inner)
    found = scanned(source) if axes is None else None
    if found is not None:
        return found
    volume = _read_image(source, axes)
    return Measurement(to_stack(volume), geometry=volume.geometry)


def scanned(source: Source) -> Measurement | None:
    """Return the measurement of a scanner's own format; None where the file is of none, or holds an image alone."""
    from recon.io.sniffing import sniff_source

    form = FORMATS[sniff_source(source)]
    read = getattr(_module(form), "read_measurement", None) if form.module is not None else None
    found: Measurement | None = read(source) if read is not None else None
    return found


def holds_measurement(source: Input) -> bool:
    """Tell whether a file holds a measurement as such: our layout, or a scanner's own."""
    from recon.io import hdf5, npz
    from recon.io.arrays import is_measurement
    from recon.io.sniffing import sniff_source

    with open_source(source) as opened:
        form = sniff_source(opened)
        if is_array_name(opened.inner):
            return False
        if form in ("npz", "hdf5"):
            with npz.open_npz(opened) if form == "npz" else hdf5.open_hdf5(opened) as file:
                return is_measurement(file)
        return not _may_be_image(opened, form) and scanned(opened) is not None


def is_array_name(inner: str | None) -> bool:
    """Tell whether what follows `::` names one array; `counter=0` chooses among acquisitions."""
    return inner is not None and "=" not in inner


def _may_be_image(source: Source, form: str) -> bool:
    """Tell whether a file of a format that does not say what it holds may be an image."""
    ask = getattr(_module(FORMATS[form]), "holds_image", None) if FORMATS[form].module is not None else None
    return ask is not None and bool(ask(source))


def _is_image(keys: tuple[str, ...], source: Source) -> bool:
    return source.inner is None and {"image", "axes"} <= set(keys)


def _read_image(source: Source, axes: tuple[str, ...] | None) -> Volume:
    from recon.io.sniffing import sniff_source

    form = FORMATS[sniff_source(source)]
    if form.module is None:
        raise InputError(f"{source.name}: an operator file, expected an image", "give it with --operator")
    volume: Volume = _module(form).read(source, axes)
    return volume


def _module(form: Format) -> Any:
    return importlib.import_module(str(form.module))


def _check(module: Any, volume: Volume) -> None:
    if hasattr(module, "check"):
        module.check(volume)
