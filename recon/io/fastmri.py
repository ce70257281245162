"""fastMRI HDF5 files: k-space of slices and coils, the mask of columns, and reconstructions.

    kspace (slices, [coils,] h, w) complex, mask (w,), reconstruction_rss or _esc (slices, y, x), ismrmrd_header (XML)

k-space is centred and orthonormal; rows are the readout, oversampled, columns the phase encoding. The image is the
centre of the inverse transform, as large as the header's reconSpace. A reconstruction is written as the data set
`reconstruction`, as the leaderboards of fastMRI took it. Source: Zbontar et al. 2018, arXiv 1811.08839.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np

from recon.data import Geometry, Measurement, OperatorSpec, Scan, Volume
from recon.errors import InputError
from recon.io.axes import grey_slices, known_steps, to_float32
from recon.io.hdf5 import Hdf5File, open_hdf5, write_items
from recon.io.mrd_header import Header, Space, header_xml, parse_header
from recon.io.source import Source, native

IMAGES = ("reconstruction_rss", "reconstruction_esc", "reconstruction")
_FACTS = ("acquisition", "max", "norm")
_HINT = "see docs/formats.md for the layout of fastMRI files"


def read(source: Source, axes: tuple[str, ...] | None = None) -> Volume:
    """Return the stored reconstruction (z, y, x). Raises InputError where the file holds none."""
    with open_hdf5(source) as file:
        keys = file.keys()
        key = source.inner or next((name for name in IMAGES if name in keys), None)
        if key is None:
            raise InputError(f"{source.name}: it holds k-space, expected an image", "reconstruct it with: recon run")
        array = file.array(key)
        header = _header(file)
        facts = {name: value for name in _FACTS if (value := file.attribute(name)) is not None}
    named = axes or ("z", "y", "x")[-array.ndim :]
    spacing = None
    if header is not None and axes is None and array.ndim in (2, 3):
        spacing = _steps(header)[-array.ndim :]
    meta = {"format": "fastmri", "dtype": str(array.dtype), "fastmri": facts}
    return Volume(array, Geometry(named, spacing=spacing, units=None if spacing is None else "mm", meta=meta))


def read_measurement(source: Source) -> Measurement | None:
    """Return k-space (slices, coils, h, w), mapped from disk where it can be; None where the file holds none."""
    with open_hdf5(source) as file:
        if source.inner is not None or "kspace" not in file.keys():
            return None
        shape, dtype = file.info("kspace")
        if len(shape) not in (3, 4) or min(shape) < 1 or dtype.kind != "c":
            raise InputError(
                f"{source.name}: kspace has type {dtype} and shape {shape}, expected complex (slices, [coils,] h, w)",
                _HINT,
            )
        kspace = file.mapped("kspace")
        y = kspace if kspace.ndim == 4 else kspace[:, None]
        arrays: dict[str, np.ndarray] = {name: file.array(name) for name in ("mask", "maps") if name in file.keys()}
        if "mask" in arrays:
            arrays["mask"] = _mask(arrays["mask"], y.shape[-1], source.name)
        header = _header(file)
        acquisition = file.attribute("acquisition")
    scan, geometry = _scan(header, y.shape, str(dtype))
    spec = OperatorSpec("mri", {"mask": "given", "axis": "x"}, (1, *y.shape[-2:]), arrays)
    provenance = {"format": "fastmri"} | ({} if acquisition is None else {"acquisition": str(acquisition)})
    return Measurement(y, spec, None, geometry, provenance, scan)


def write(stream: BinaryIO, volume: Volume) -> dict[str, Any]:
    """Write a reconstruction as the data set `reconstruction` (z, y, x), float32, with a header of its sizes."""
    array = to_float32(grey_slices(volume, "a fastMRI reconstruction"))
    items = {"reconstruction": array}
    steps = known_steps(volume.geometry)
    if steps is not None:
        shown = _space(array.shape[1:], steps)
        items["ismrmrd_header"] = np.array(header_xml(shown, shown))
    write_items(stream, items)
    return {"dtype": str(array.dtype)}


def check(volume: Volume) -> None:
    """Raise InputError where a fastMRI file cannot hold such an image."""
    grey_slices(volume, "a fastMRI reconstruction")


def write_measurement(stream: BinaryIO, measurement: Measurement) -> None:
    """Write k-space, mask, maps and header. Raises InputError for data that are no k-space of lines."""
    y, spec = measurement.y, measurement.operator
    if y.ndim != 4 or y.dtype.kind != "c" or (spec is not None and spec.kind != "mri"):
        kind = "unknown" if spec is None else spec.kind
        raise InputError(
            f"fastMRI files hold k-space, got data of operator '{kind}', type {y.dtype}, shape {y.shape}",
            "write .h5 or .npz, which hold any measurement",
        )
    arrays = {} if spec is None else spec.arrays
    kspace = y if y.shape[1] > 1 or "maps" in arrays else y[:, 0]
    items = {"kspace": native(kspace, "kspace").astype(np.complex64, copy=False)}
    if "mask" in arrays:
        items["mask"] = _columns(arrays["mask"], y.shape[-2:])
    if "maps" in arrays:
        items["maps"] = arrays["maps"]
    geometry, scan = measurement.geometry, measurement.scan or Scan()
    steps = None if geometry is None else known_steps(geometry)
    if steps is not None:
        shown = scan.crop or y.shape[-2:]
        items["ismrmrd_header"] = np.array(header_xml(_space(y.shape[-2:], steps), _space(shown, steps)))
    write_items(stream, items)


def _header(file: Hdf5File) -> Header | None:
    return parse_header(file.text("ismrmrd_header"), file.name) if "ismrmrd_header" in file.keys() else None


def _steps(header: Header) -> tuple[float, ...]:
    """Return the spacing along (z, y, x) of the image: its rows are the readout, the header's x."""
    readout, phase, slices = header.shown.steps
    return slices, readout, phase


def _scan(header: Header | None, shape: tuple[int, ...], dtype: str) -> tuple[Scan, Geometry]:
    meta = {"format": "fastmri", "dtype": dtype}
    if header is None:
        notes = ("the file has no header: pixel size unknown, the full field of view is reconstructed",)
        return Scan(readout="y", notes=notes), Geometry(("z", "y", "x"), meta=meta)
    crop = (min(header.shown.matrix[0], shape[-2]), min(header.shown.matrix[1], shape[-1]))
    # columns that were cut off or zero-filled do not change the field of view along the readout
    oversampling = max(header.encoded.fov[0] / header.shown.fov[0], 1.0)
    found: tuple[str, ...] = ()
    if header.encoded.matrix[0] != shape[-2]:
        found = (f"the header declares {header.encoded.matrix[0]} readout points, k-space has {shape[-2]}",)
    geometry = Geometry(("z", "y", "x"), spacing=_steps(header), units="mm", meta=meta)
    return Scan(crop, "y", oversampling, notes=found), geometry


def _mask(mask: np.ndarray, width: int, name: str) -> np.ndarray:
    flat = mask.reshape(-1)
    if flat.size != width:
        raise InputError(f"{name}: mask has shape {mask.shape}, expected ({width},), one number a column", _HINT)
    return (flat != 0).astype(np.uint8)


def _columns(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return a mask of columns (w,) from one of columns or (h, w)."""
    full = np.broadcast_to(mask, size) if mask.ndim == 2 or mask.shape == size[1:] else None
    if full is None or (full != full[:1]).any():
        raise InputError(
            f"fastMRI masks are of columns, got one of shape {mask.shape} that differs between rows",
            "write .h5 or .npz, which hold any mask",
        )
    return (full[0] != 0).astype(np.uint8)


def _space(size: tuple[int, ...], steps: tuple[float, ...]) -> Space:
    """Return a space of (rows, columns) with steps along (z, y, x); rows are the readout."""
    rows, columns = size
    return Space((rows, columns, 1), (rows * steps[1], columns * steps[2], steps[0]))
