"""Small real data for the installed command."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from command import Site
from PIL import Image

import recon.sample_data

SAMPLES = Path(recon.sample_data.__file__).parent


@pytest.fixture(scope="session")
def crop() -> nib.Nifti1Image:
    """A 45x52 crop of the shipped brain slice, with its affine: neither size divides by the network's 16."""
    return nib.load(SAMPLES / "brain_slice.nii.gz").slicer[60:105, 80:132, :]


@pytest.fixture
def site(tmp_path: Path, crop: nib.Nifti1Image) -> Site:
    """A folder with truth.nii.gz."""
    crop.to_filename(tmp_path / "truth.nii.gz")
    return Site(tmp_path)


@pytest.fixture(scope="session")
def kspace(tmp_path_factory: pytest.TempPathFactory, crop: nib.Nifti1Image) -> bytes:
    """A measurement file of the crop under mri-x4-dds."""
    folder = tmp_path_factory.mktemp("kspace")
    crop.to_filename(folder / "truth.nii.gz")
    ended = Site(folder)("simulate", "truth.nii.gz", "k.h5", "--preset", "mri-x4-dds")
    assert ended.code == 0, ended.err
    return (folder / "k.h5").read_bytes()


@pytest.fixture
def measured(site: Site, kspace: bytes) -> Site:
    """A folder with truth.nii.gz and its measurement k.h5."""
    (site.folder / "k.h5").write_bytes(kspace)
    return site


@pytest.fixture(scope="session")
def picture(crop: nib.Nifti1Image) -> np.ndarray:
    """The crop as an 8-bit picture."""
    return np.asarray(crop.dataobj)[:, :, 0].T.astype(np.uint8)


@pytest.fixture
def pictures(site: Site, picture: np.ndarray) -> Site:
    """A folder with the crop as PNG, TIFF and npy, and a colour picture."""
    Image.fromarray(picture).save(site.folder / "p.png")
    Image.fromarray(picture.astype(np.float32)).save(site.folder / "p.tiff")
    np.save(site.folder / "p.npy", picture.astype(np.float32))
    Image.fromarray(np.stack([picture] * 3, axis=-1)).save(site.folder / "rgb.png")
    return site
