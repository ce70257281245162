"""NIfTI-1 and NIfTI-2 files (.nii, .nii.gz): file order x,y,z, never reoriented; written as float32 or complex64.

The affine, both of its codes, the quaternion, pixel sizes, units and description travel in the geometry, so that a
reconstruction written with a scan's geometry lies exactly where the scan lies.
"""

from __future__ import annotations

import gzip
import io
import math
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from recon.data import Geometry, Volume
from recon.errors import InputError
from recon.io.axes import arrange, to_float32
from recon.io.disk import in_parts, is_large, let_go, mapped, scratch
from recon.io.source import Source, check_declared, check_dtype, native, reading

if TYPE_CHECKING:
    import nibabel as nib

_UNITS = {1: "m", 2: "mm", 3: "um"}
_FIELDS = (
    *("dim_info", "pixdim", "slice_start", "slice_end", "slice_code", "slice_duration", "toffset", "xyzt_units"),
    *("descrip", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def read(source: Source, axes: tuple[str, ...] | None = None) -> Volume:
    """Return the array with its scaling applied, in file order: x,y or x,y,z; a volume of one slice keeps its z.

    Raises InputError for damaged files, header/image pairs, colours, and series (4-D) unless axes are given.
    """
    from nibabel.imageglobals import LoggingOutputSuppressor

    with reading(source.name, "NIfTI file"), LoggingOutputSuppressor():
        stream, header = _open(source)
        image = _image_class(header).from_file_map({"image": _holder(stream)}, mmap=False)
        array = _mapped(source, stream, header)
        if array is None:
            array = native(_values(image.dataobj), source.name)
        if isinstance(stream, gzip.GzipFile):
            _verify_rest(stream)
        affine = np.asarray(image.affine, np.float64)
        array, trailing = _drop_trailing(array, axes)
        named = _named(array.shape, axes, source.name)
        zooms = [float(z) for z in header.get_zooms()[: array.ndim]]
        facts = {name: _plain(header[name]) for name in _FIELDS} | {"version": _version(header), "trailing": trailing}
    meta = {"format": "nifti", "dtype": str(header.get_data_dtype().newbyteorder("=")), "nifti": facts}
    units = _UNITS.get(int(header["xyzt_units"]) & 7)
    return Volume(array, Geometry(named, affine=affine, spacing=tuple(zooms), units=units, meta=meta))


def write(stream: BinaryIO, volume: Volume) -> dict[str, Any]:
    """Write the image with slope 1 and intercept 0; items (n) become the fourth dimension.

    Raises InputError for more than one channel.
    """
    array, facts = _layout(volume)
    array = to_float32(array.T).T
    made = _header(array, volume, facts)
    image = _image_class(made)(array, None, made)
    image.update_header()
    image.header.set_slope_inter(1, 0)
    image.header.write_to(stream)  # the values begin where it ends
    for part in in_parts(array.T):
        stream.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return {"dtype": str(array.dtype)}


def check(volume: Volume) -> None:
    """Raise InputError where a NIfTI file cannot hold such an image."""
    _layout(volume)


def is_header(head: bytes) -> bool:
    """Tell whether a file's first 544 bytes are a NIfTI header, alone or with its image."""
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def _layout(volume: Volume) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the array in NIfTI's order of dimensions, and the NIfTI facts of its source."""
    array, axes = arrange(volume, ("x", "y", "z", "n", "c"), drop=("n", "c"))
    if axes[:2] != ("x", "y") or "c" in axes:
        raise InputError(
            f"NIfTI holds grey images, got axes {','.join(volume.geometry.axes)}, shape {volume.array.shape}",
            "write .tiff, .npz or .h5",
        )
    facts = volume.geometry.meta.get("nifti", {})
    if "n" in axes and "z" not in axes:
        array = array[:, :, None]
    if "n" not in axes and array.ndim == 3:
        array = array[(..., *(None,) * int(facts.get("trailing", 0)))]
    return array, facts


def _header(array: np.ndarray, volume: Volume, facts: dict[str, Any]) -> nib.Nifti1Header:
    """Return a header for the array: the source's facts where they still hold, else made from the geometry."""
    import nibabel as nib

    large = max(array.shape) > np.iinfo(np.int16).max
    header = nib.Nifti2Header() if large or facts.get("version") == 2 else nib.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    for name in _FIELDS:
        if name in facts:
            header[name] = facts[name].encode("latin-1") if name == "descrip" else facts[name]
    geometry = volume.geometry
    if geometry.affine is not None:
        if not np.array_equal(header.get_best_affine(), geometry.affine):
            _set_affine(header, geometry.affine, facts)
    elif geometry.spacing is not None and not facts:
        steps = [dict(zip(geometry.axes, geometry.spacing, strict=True)).get(a, 1.0) for a in "xyz"]
        _set_affine(header, np.diag([*steps, 1.0]), facts)
    codes = {name: code for code, name in _UNITS.items()}
    if not facts and geometry.units in codes:
        header["xyzt_units"] = codes[geometry.units]
    return header


def _set_affine(header: nib.Nifti1Header, affine: np.ndarray, facts: dict[str, Any]) -> None:
    """Store an affine in both forms; the source's codes stay, a file without any gets code 2, aligned."""
    sform, qform = int(facts.get("sform_code", 0)), int(facts.get("qform_code", 0))
    header.set_qform(affine, code=qform, strip_shears=True)
    header.set_sform(affine, code=sform if sform or qform else 2)
    if qform and not sform and not np.allclose(header.get_qform(), affine, rtol=1e-5):
        header.set_sform(affine, code=qform)


def _open(source: Source) -> tuple[BinaryIO, nib.Nifti1Header]:
    """Return a stream of the uncompressed file and its header, with all of the declared data present."""
    source.stream.seek(0)
    zipped = source.stream.read(2) == b"\x1f\x8b"
    source.stream.seek(0)
    plain: Any = gzip.GzipFile(fileobj=source.stream) if zipped else source.stream
    head = plain.read(544)
    header = _parse(head, source.name)
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    check_dtype(dtype, source.name)
    if len(shape) < 2 or min(shape) < 1:
        raise InputError(f"{source.name}: expected an image of 2 or more dimensions, got shape {tuple(shape)}")
    expected = int(header["vox_offset"]) + math.prod(int(n) for n in shape) * dtype.itemsize
    if not zipped:
        if expected > source.size:
            raise ValueError(f"shape {tuple(shape)} needs {expected} bytes, got {source.size}")
        source.stream.seek(0)
        return source.stream, header
    check_declared(expected, source.size, source.name)
    if is_large(shape, dtype):
        return plain, header
    data = head + plain.read(max(expected - len(head), 0))
    if len(data) < expected:
        raise ValueError(f"shape {tuple(shape)} needs {expected} bytes, got {len(data)}")
    _verify_rest(plain)
    return io.BytesIO(data), header


def _mapped(source: Source, stream: BinaryIO, header: nib.Nifti1Header) -> np.ndarray | None:
    """Return the array mapped from an uncompressed file, where it is large and lies there as it is used; else None."""
    shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), int(header["vox_offset"])
    scaled = header.get_slope_inter() not in ((None, None), (1.0, 0.0))
    if stream is not source.stream or source.path is None or scaled or not dtype.isnative:
        return None
    return mapped(source.path, dtype, offset, shape, "F") if is_large(shape, dtype) else None


def _values(stored: Any) -> np.ndarray:
    """Return the values of a file, scaled; of a large one slice by slice, into an array on disk."""
    shape = tuple(stored.shape)
    if not is_large(shape, stored.dtype):
        return np.asanyarray(stored)
    last = max(axis for axis, size in enumerate(shape) if size > 1)
    tail = (0,) * (len(shape) - last - 1)
    first = np.asanyarray(stored[(..., 0, *tail)])
    found = scratch((shape[last], *first.shape[::-1]), first.dtype.newbyteorder("="))
    for index in range(shape[last]):
        found[index] = np.asanyarray(stored[(..., index, *tail)]).T
        let_go(found)
    return found.T.reshape(shape, order="F")


def _parse(head: bytes, name: str) -> nib.Nifti1Header:
    import nibabel as nib

    if head[344:347] == b"ni1" or head[4:7] == b"ni2":
        raise InputError(f"{name}: one of a pair of files (.hdr, .img)", "convert the pair to one .nii file")
    if head[4:7] == b"n+2":
        return nib.Nifti2Header(head[:540])
    return nib.Nifti1Header(head[:348])


def _verify_rest(stream: BinaryIO) -> None:
    """Read to the end of a compressed file, so that its checksum is compared; padding is allowed, a flood is not."""
    for _ in range(64):
        if not stream.read(2**20):
            return
    raise ValueError("much more data than its header declares")


def _drop_trailing(array: np.ndarray, axes: tuple[str, ...] | None) -> tuple[np.ndarray, int]:
    """Drop dimensions of length 1 after the third, unless the axes given name them; return how many."""
    dropped = 0
    while array.ndim > 3 and array.shape[-1] == 1 and (axes is None or len(axes) < array.ndim):
        array, dropped = array[..., 0], dropped + 1
    return array, dropped


def _named(shape: tuple[int, ...], axes: tuple[str, ...] | None, name: str) -> tuple[str, ...]:
    if axes is not None:
        if len(axes) != len(shape):
            raise InputError(
                f"{name}: axes {','.join(axes)} do not fit shape {shape}", "name one axis a dimension (--axes)"
            )
        return axes
    if len(shape) > 3:
        raise InputError(
            f"{name}: a series of shape {shape}, expected one image or volume",
            "extract one volume, or read it as independent items with --axes x,y,z,n",
        )
    return ("x", "y", "z")[: len(shape)]


def _plain(value: np.ndarray) -> Any:
    """Return a header field as JSON-able numbers or text."""
    found = value.tolist()
    return found.decode("latin-1") if isinstance(found, bytes) else found


def _version(header: nib.Nifti1Header) -> int:
    return 2 if int(header["sizeof_hdr"]) == 540 else 1


def _image_class(header: nib.Nifti1Header) -> Any:
    import nibabel as nib

    return nib.Nifti2Image if _version(header) == 2 else nib.Nifti1Image


def _holder(stream: Any) -> Any:
    from nibabel.fileholders import FileHolder

    return FileHolder(fileobj=stream)
