"""One DICOM file a slice, of a derived series: geometry in LPS, 16 bits with slope and intercept, no names."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from recon.data import Geometry
from recon.errors import InputError
from recon.io.disk import in_parts
from recon.io.source import library

MARK = "Not for diagnostic use"
# MR and CT images keep their class, so that viewers place them; all others are secondary captures
_CLASSES = {"MR": "1.2.840.10008.5.1.4.1.1.4", "CT": "1.2.840.10008.5.1.4.1.1.2"}
_SECONDARY = "1.2.840.10008.5.1.4.1.1.7"
_EXPLICIT = "1.2.840.10008.1.2.1"


def check_geometry(geometry: Geometry) -> None:
    """Raise InputError unless the geometry says where upright slices lie in mm."""
    if geometry.affine is None and (geometry.spacing is None or geometry.units != "mm"):
        raise InputError("DICOM needs the pixel size in mm, and this image has none", "write .nii, .tiff, .npz or .h5")
    if geometry.affine is None:
        return
    columns = np.asarray(geometry.affine, np.float64)[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if not (np.isfinite(lengths).all() and lengths.min() > 0):
        raise InputError("the image's affine has no step along some axis", "write .npz or .h5")
    cosines = (columns / lengths).T @ (columns / lengths)
    if np.abs(cosines - np.eye(3)).max() > 1e-3:
        raise InputError("the image's axes are not at right angles, which DICOM slices are", "write .nii, .npz or .h5")


def slice_files(
    stack: np.ndarray, geometry: Geometry, steps: tuple[float, float, float] | None
) -> tuple[Iterator[bytes], dict[str, Any]]:
    """Return the content of one file a slice of (z, y, x), made as it is asked for, and the facts: type, scale, mark.

    steps: spacing along (z, y, x) in mm, where the geometry has no affine.
    """
    check_geometry(geometry)
    affine = geometry.affine if geometry.affine is not None else np.diag([*(steps or (1.0, 1.0, 1.0))[::-1], 1.0])
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(affine, np.float64)
    dtype, slope, intercept = _scale(stack)
    facts = geometry.meta.get("dicom", {})
    content = hashlib.sha256()
    for part in in_parts(stack):
        content.update(_quantised(part, dtype, slope, intercept).tobytes())
    content.update(lps.tobytes() + repr((stack.shape, slope, intercept)).encode())
    seed = content.digest()
    files = (
        _file(_quantised(part, dtype, slope, intercept), index, lps, (slope, intercept), facts, seed)
        for index, part in enumerate(in_parts(stack))
    )
    about: dict[str, Any] = {"dtype": str(dtype), "slope": slope, "intercept": intercept}
    return files, about | {"slices": len(stack), "note": f"derived series, {MARK.lower()}"}


def _scale(stack: np.ndarray) -> tuple[np.dtype, float, float]:
    """Return the type of 16 bits that holds a stack, slope and intercept with value = slope stored + intercept."""
    limits = [(float(part.min()), float(part.max())) for part in in_parts(stack)]
    low, high = min(least for least, _ in limits), max(most for _, most in limits)
    if stack.dtype.kind in "biu":
        for dtype in (np.dtype(np.uint16), np.dtype(np.int16)):
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return dtype, 1.0, 0.0
    # decimal strings of DICOM hold 16 characters: what is stored is what readers will use
    slope = float(_decimal((high - low) / 65535 * (1 + 1e-9))) if high > low else 1.0
    return np.dtype(np.uint16), slope, float(_decimal(low))


def _quantised(plane: np.ndarray, dtype: np.dtype, slope: float, intercept: float) -> np.ndarray:
    if (slope, intercept) == (1.0, 0.0) and plane.dtype.kind in "biu":
        return plane.astype(dtype)
    return np.clip(np.round((plane.astype(np.float64) - intercept) / slope), 0, 65535).astype(dtype)


def _file(
    plane: np.ndarray, index: int, lps: np.ndarray, scale: tuple[float, float], facts: dict[str, Any], seed: bytes
) -> bytes:
    pydicom = library("pydicom", "pydicom", "writing DICOM")
    from pydicom.dataset import FileDataset, FileMetaDataset

    columns = lps[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    modality = str(facts.get("Modality", "OT"))[:16]
    kind = _CLASSES.get(modality, _SECONDARY)
    meta: Any = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, _uid(seed, f"image {index}")
    meta.TransferSyntaxUID = _EXPLICIT
    data: Any = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = _uid(seed, "study"), _uid(seed, "series")
    data.FrameOfReferenceUID = str(facts.get("FrameOfReferenceUID") or _uid(seed, "frame"))
    for empty in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber"),
        *("ReferringPhysicianName", "StudyID", "Manufacturer", "PositionReferenceIndicator", "Laterality"),
    ):
        setattr(data, empty, "")
    data.Modality, data.SeriesNumber, data.InstanceNumber = modality, 9000, index + 1
    data.ImageType, data.ConversionType = ["DERIVED", "SECONDARY"], "WSD"
    data.SeriesDescription = f"recon: {MARK.lower()}"
    data.ImageComments = data.DerivationDescription = f"{MARK}. Computed by recon."
    data.BurnedInAnnotation, data.LossyImageCompression = "NO", "00"
    data.ImageOrientationPatient = [_decimal(v) for v in (columns[:, :2] / lengths[:2]).T.ravel()]
    data.ImagePositionPatient = [_decimal(v) for v in lps[:3, 3] + index * columns[:, 2]]
    data.PixelSpacing = [_decimal(lengths[1]), _decimal(lengths[0])]
    data.SliceThickness = data.SpacingBetweenSlices = _decimal(lengths[2])
    data.SliceLocation = _decimal(float((lps[:3, 3] + index * columns[:, 2]) @ columns[:, 2] / lengths[2]))
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = plane.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(plane.dtype == np.int16)
    data.RescaleSlope, data.RescaleIntercept = _decimal(scale[0]), _decimal(scale[1])
    data.RescaleType = str(facts.get("RescaleType", "US"))[:16]
    data.PixelData = plane.astype(plane.dtype.newbyteorder("<")).tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def _decimal(value: float) -> str:
    """Return a number as a decimal string of at most 16 characters."""
    for digits in range(15, 0, -1):
        text = f"{float(value):.{digits}g}"
        if len(text) <= 16:
            return text
    return "0"


def _uid(seed: bytes, what: str) -> str:
    """Return a UID that the same content always gets."""
    return "2.25." + str(int.from_bytes(hashlib.sha256(seed + what.encode()).digest()[:16], "big"))
