"""DICOM series: files of one volume, sorted by position, values rescaled; written as a derived series.

    voxel (column, row, slice) -> LPS:  position_0 + column step_x X + row step_y Y + slice (position_1 - position_0)
    with X, Y the direction cosines; the affine is in RAS, as for NIfTI: x and y change their sign

Source: DICOM PS3.3, C.7.6.2 (image plane), C.11.1 (modality LUT). What is no regular stack of one series is refused:
mixed series, missing slices, uneven spacing, gantry tilt, several frames, colours, compressed pixels other than RLE.
What a patient or a device is called is never carried to an output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from recon.data import Geometry, Volume
from recon.errors import InputError
from recon.io.axes import grey_slices, known_steps, to_float32
from recon.io.dicom_output import check_geometry, slice_files
from recon.io.disk import converted, in_parts, let_go, scratch
from recon.io.layouts import dicom_files
from recon.io.source import Source, check_declared, library, reading

# of a direction cosine, and of a step between slices relative to the usual one
ALIGNED, EVEN = 1e-3, 0.02
RLE = "1.2.840.10008.1.2.5"
DEFLATED = "1.2.840.10008.1.2.1.99"
_CARRIED = ("Modality", "FrameOfReferenceUID", "RescaleType", "BodyPartExamined")


@dataclass(frozen=True)
class _Slice:
    """One image of a series: its header, and where its pixels are (a file, or the stream of a single one)."""

    header: Any
    file: Path | BinaryIO
    name: str

    def get(self, keyword: str, default: Any = None) -> Any:
        value = self.header.get(keyword, default)
        return default if value is None or value == "" else value


def read(source: Source, axes: tuple[str, ...] | None = None) -> Volume:
    """Return a series (z, y, x) or one picture (y, x), its values rescaled by the file's slope and intercept.

    `FOLDER::NUMBER` names a series by its number or UID.  Raises InputError where the files are no regular stack of
    one series, ResourceError without pydicom.
    """
    with reading(source.name, "DICOM file"):
        slices = _one_series(_slices(source), source)
        for item in slices:
            _check_pixels(item)
        _check_alike(slices, source.name)
        slices, affine = _placed(slices, source.name)
        stack = _pixels(slices)
    single = source.path is None or not source.path.is_dir()
    named = axes or (("y", "x") if single else ("z", "y", "x"))
    first = slices[0]
    meta: dict[str, Any] = {"format": "dicom", "dtype": str(stack.dtype)}
    meta["dicom"] = {key: str(first.get(key)) for key in _CARRIED if first.get(key) is not None}
    array = stack[0] if single and len(named) == 2 else stack
    spacing = None
    steps = _in_plane(first)
    if steps is not None:
        depth = float(np.linalg.norm(affine[:3, 2])) if affine is not None else float(first.get("SliceThickness", 1.0))
        spacing = dict(zip("zyx", (depth, *steps), strict=True))
    known = spacing is not None and set(named) <= set("zyx")
    return Volume(
        array,
        Geometry(
            named,
            affine=affine,
            spacing=tuple(spacing[a] for a in named) if known and spacing is not None else None,
            units="mm" if spacing is not None else None,
            meta=meta,
        ),
    )


def write(stream: BinaryIO, volume: Volume) -> dict[str, Any]:
    """Write one slice as a derived image; see `write_files`."""
    check_name("", volume)
    files, facts = _files(volume)
    stream.write(next(files))
    return facts


def write_files(path: Path, volume: Volume) -> dict[str, Any]:
    """Write a folder with one file a slice: a new series, derived, marked not for diagnostic use.

    Whole numbers of 16 bits are kept; other values become 16 bits with slope and intercept, to a step of the range
    over 65535 (`step` of the facts). Equal images give equal bytes.
    """
    files, facts = _files(volume)
    path.mkdir()
    for number, content in enumerate(files):
        (path / f"IM{number + 1:04d}.dcm").write_bytes(content)
    return facts


def check(volume: Volume) -> None:
    """Raise InputError where a DICOM series cannot hold such an image, ResourceError without pydicom."""
    library("pydicom", "pydicom", "DICOM")
    grey_slices(volume, "a DICOM series")
    check_geometry(volume.geometry)


def check_name(path: str, volume: Volume) -> None:
    """Raise InputError where one file is named for several slices."""
    count = len(grey_slices(volume, "a DICOM series"))
    if count != 1:
        raise InputError(f"a DICOM file holds one slice, got {count}", "write a series: name the output .dicom")


def _files(volume: Volume) -> tuple[Iterator[bytes], dict[str, Any]]:
    stack = grey_slices(volume, "a DICOM series")
    if not all(np.isfinite(part).all() for part in in_parts(stack)):
        raise InputError("DICOM cannot hold NaN or infinite values", "mask them first")
    return slice_files(stack, volume.geometry, known_steps(volume.geometry))


def _slices(source: Source) -> list[_Slice]:
    """Return the headers of all images of a folder, or of the one file."""
    pydicom = library("pydicom", "pydicom", "reading DICOM")
    if source.path is None or not source.path.is_dir():
        source.stream.seek(0)
        found = [_Slice(_header(pydicom, source.stream, source.name), source.stream, source.name)]
    else:
        found = [_Slice(_header(pydicom, path, path.name), path, path.name) for path in dicom_files(source.path)]
    return [item for item in found if item.get("Rows") is not None]


def _header(pydicom: Any, file: Path | BinaryIO, name: str) -> Any:
    with reading(name, "DICOM file"):
        syntax = pydicom.filereader.read_file_meta_info(file) if isinstance(file, Path) else _stream_meta(pydicom, file)
        if str(syntax.get("TransferSyntaxUID", "")) == DEFLATED:
            raise InputError(f"{name}: a deflated DICOM file, refused", "write it with: dcmconv +te")
        return pydicom.dcmread(file, stop_before_pixels=True)


def _stream_meta(pydicom: Any, stream: BinaryIO) -> Any:
    pydicom.filereader.read_preamble(stream, False)
    found = pydicom.filereader._read_file_meta_info(stream)
    stream.seek(0)
    return found


def _one_series(slices: list[_Slice], source: Source) -> list[_Slice]:
    """Return the images of the only series, or of the one that was named."""
    if not slices:
        raise InputError(f"{source.name}: no DICOM image in it", "name the folder of a series")
    if source.inner is not None:
        wanted = source.inner
        slices = [s for s in slices if wanted in (str(s.get("SeriesNumber")), str(s.get("SeriesInstanceUID")))]
        if not slices:
            raise InputError(f"{source.name}: no series {wanted} in it", "see: recon info FOLDER")
    series = Counter(str(s.get("SeriesInstanceUID")) for s in slices)
    if len(series) > 1:
        numbers = {str(s.get("SeriesInstanceUID")): s.get("SeriesNumber", "?") for s in slices}
        listed = ", ".join(f"{numbers[uid]} ({count} images)" for uid, count in series.most_common(6))
        raise InputError(
            f"{source.name}: {len(series)} series mixed in it: {listed}", f"name one: {source.name}::NUMBER"
        )
    return slices


def _check_pixels(item: _Slice) -> None:
    """Raise InputError for frames, colours, look-up tables and compression that are not read."""
    frames = int(item.get("NumberOfFrames", 1))
    if frames > 1:
        raise InputError(
            f"{item.name}: {frames} frames in one file (enhanced DICOM), expected one", "convert it with dcm2niix"
        )
    kind = str(item.get("PhotometricInterpretation", "MONOCHROME2"))
    if int(item.get("SamplesPerPixel", 1)) != 1 or kind != "MONOCHROME2":
        raise InputError(f"{item.name}: pixels of kind {kind}, expected grey MONOCHROME2", "convert it to grey")
    if item.get("ModalityLUTSequence") is not None:
        raise InputError(f"{item.name}: values in a look-up table", "export it with slope and intercept")
    if int(item.get("BitsAllocated", 16)) not in (8, 16, 32):
        raise InputError(f"{item.name}: {item.get('BitsAllocated')} bits a pixel, expected 8, 16 or 32")
    syntax = item.header.file_meta.get("TransferSyntaxUID")
    if syntax is None or (syntax.is_compressed and str(syntax) != RLE):
        name = "DICOM of an unknown transfer syntax" if syntax is None else f"{syntax.name}"
        raise InputError(f"{item.name}: compressed pixels ({name})", "decompress the series with dcmdjpeg or gdcmconv")


def _check_alike(slices: list[_Slice], name: str) -> None:
    """Raise InputError unless all images have one size, pixel spacing and orientation."""
    for keyword, what in (
        ("Rows", "rows"),
        ("Columns", "columns"),
        ("PixelSpacing", "pixel spacing"),
        ("ImageOrientationPatient", "orientation"),
    ):
        found = [_numbers(s.get(keyword)) for s in slices]
        if any(f is None for f in found) and any(f is not None for f in found):
            raise InputError(f"{name}: {what} is missing in some images of the series", "leave those images out")
        known = [f for f in found if f is not None]
        if known and any(f.shape != known[0].shape or np.abs(f - known[0]).max() > ALIGNED for f in known):
            shown = sorted({str(f.tolist() if f.size > 1 else f.item()) for f in known})[:3]
            raise InputError(f"{name}: images of different {what} in one series: {'; '.join(shown)}", "separate them")


def _placed(slices: list[_Slice], name: str) -> tuple[list[_Slice], np.ndarray | None]:
    """Return the images in order of their position, and the affine (4, 4) to RAS; None where it is unknown."""
    steps = _in_plane(slices[0])
    cosines = _numbers(slices[0].get("ImageOrientationPatient"))
    positions = [_numbers(s.get("ImagePositionPatient")) for s in slices]
    known = [p for p in positions if p is not None and p.size == 3]
    if steps is None or cosines is None or cosines.size != 6 or len(known) != len(slices):
        if len(slices) > 1:
            raise InputError(
                f"{name}: images without position, orientation or pixel spacing: their order is not known",
                "read a single file",
            )
        return slices, None
    across, down = cosines[:3], cosines[3:]
    normal = np.cross(across, down)
    if abs(np.linalg.norm(normal) - 1) > ALIGNED or abs(float(across @ down)) > ALIGNED:
        raise InputError(f"{name}: its directions are not at right angles: {cosines.tolist()}", "correct the header")
    order = sorted(range(len(slices)), key=lambda i: float(known[i] @ normal))
    slices, known = [slices[i] for i in order], [known[i] for i in order]
    step = _even_step(known, normal, slices, name)
    affine = np.eye(4)
    affine[:3] = np.stack([across * steps[1], down * steps[0], step, known[0]], axis=1)
    return slices, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _even_step(positions: list[np.ndarray], normal: np.ndarray, slices: list[_Slice], name: str) -> np.ndarray:
    """Return the vector from slice to slice. Raises InputError where slices lack, or lie unevenly or askew."""
    if len(positions) == 1:
        thickness = float(slices[0].get("SpacingBetweenSlices", 0) or slices[0].get("SliceThickness", 0) or 1.0)
        return normal * abs(thickness)
    moves = np.diff(np.stack(positions), axis=0)
    gaps = moves @ normal
    usual = float(np.median(gaps))
    doubles = int((gaps < EVEN * max(usual, 1e-6)).sum())
    if doubles or usual <= 0:
        raise InputError(
            f"{name}: {doubles} images lie where another one does: echoes, times or repeats in one series",
            "leave one of them: a folder for each",
        )
    off = np.abs(gaps / usual - 1) > EVEN
    if off.any():
        wide = gaps[off] / usual
        place = int(np.flatnonzero(off)[0])
        if np.all(wide > 1.5) and np.all(np.abs(wide - np.round(wide)) < 0.1):
            lost = int((np.round(wide) - 1).sum())
            words = "slice is" if lost == 1 else "slices are"
            raise InputError(
                f"{name}: {lost} {words} missing, the first after slice {place + 1} of {len(positions)}",
                "get the series again",
            )
        raise InputError(
            f"{name}: slices {gaps.min():.4g} to {gaps.max():.4g} mm apart, expected an even spacing",
            "resample the volume to even slices, for example with dcm2niix",
        )
    aside = moves - gaps[:, None] * normal
    tilt = float(np.degrees(np.arctan2(np.linalg.norm(aside, axis=1).max(), usual)))
    if tilt > 0.1:
        raise InputError(
            f"{name}: slices shifted against each other, a gantry tilt of {tilt:.1f} degrees",
            "resample the volume to upright slices, for example with dcm2niix",
        )
    return np.asarray((positions[-1] - positions[0]) / (len(positions) - 1))


def _pixels(slices: list[_Slice]) -> np.ndarray:
    """Return the values (z, y, x): as stored where there is no slope, else rescaled."""
    pydicom = library("pydicom", "pydicom", "reading DICOM")
    rows, columns = int(slices[0].get("Rows")), int(slices[0].get("Columns"))
    scales = [(float(s.get("RescaleSlope", 1.0)), float(s.get("RescaleIntercept", 0.0))) for s in slices]
    rescaled = any(scale != (1.0, 0.0) for scale in scales)
    if not np.isfinite(scales).all():
        raise InputError(f"{slices[0].name}: slope or intercept is not a finite number", "correct the header")
    found = np.empty(0)
    for index, (item, (slope, intercept)) in enumerate(zip(slices, scales, strict=True)):
        with reading(item.name, "DICOM file"):
            if not isinstance(item.file, Path):
                item.file.seek(0)
            data = pydicom.dcmread(item.file)
            check_declared(rows * columns * int(item.get("BitsAllocated", 16)) // 8, len(data.PixelData), item.name)
            plane = np.asarray(data.pixel_array)
        if plane.shape != (rows, columns):
            raise InputError(f"{item.name}: pixels of shape {plane.shape}, expected ({rows}, {columns})")
        plane = to_float32(plane * np.float64(slope) + intercept) if rescaled else plane
        # the type is that of all planes together, and is known with each one's values
        if index:
            found = converted(found, np.result_type(found, plane))
        else:
            found = scratch((len(slices), rows, columns), plane.dtype)
        found[index] = plane
        let_go(found)
    return found


def _in_plane(item: _Slice) -> tuple[float, float] | None:
    """Return the distance of rows and of columns in mm."""
    found = _numbers(item.get("PixelSpacing", item.get("ImagerPixelSpacing")))
    if found is None or found.size != 2:
        return None
    if not (np.isfinite(found).all() and found.min() > 0):
        raise InputError(f"{item.name}: pixel spacing {found.tolist()}, expected positive sizes", "correct the header")
    return float(found[0]), float(found[1])


def _numbers(value: Any) -> np.ndarray | None:
    if value is None:
        return None
    items: Sequence[Any] = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    found = np.array([float(v) for v in items])
    if not np.isfinite(found).all():
        raise ValueError(f"a number of its geometry is not finite: {found.tolist()}")
    return found
