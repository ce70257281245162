"""The installed command on scanners' files: what it infers it prints, and what it refuses leaves nothing behind."""

import json

import h5py
import nibabel as nib
import numpy as np
import pytest

from recon.io.mrd_header import Space, header_xml
from recon.operators.calibration import fourier

RUN = ("--preset", "mri-x4-dds")


@pytest.fixture
def scanned(site, crop):
    """A folder with scan.h5, a fastMRI file of one coil, its readout twice oversampled, every second line missing."""
    picture = np.asarray(crop.dataobj)[:, :, 0].T.astype(np.float64)
    rows, columns = picture.shape
    full = np.zeros((2 * rows, columns))
    full[rows - rows // 2 : 2 * rows - rows // 2] = picture
    y = fourier(full * np.exp(1j * np.linspace(-1, 1, columns)))[None] * 1e-6
    mask = np.arange(columns) % 2 == 0
    mask[columns // 2 - 6 : columns // 2 + 6] = True
    with h5py.File(site.folder / "scan.h5", "w") as file:
        file["kspace"], file["mask"] = (y * mask).astype(np.complex64), mask
        file["reconstruction_esc"] = (picture * 1e-6)[None].astype(np.float32)
        encoded = Space((2 * rows, columns, 1), (2.0 * rows, float(columns), 4.0))
        file["ismrmrd_header"] = header_xml(encoded, Space((rows, columns, 1), (float(rows), float(columns), 4.0)))
    return site


def test_a_fastmri_file_is_reconstructed_end_to_end(scanned):
    ended = scanned("run", "scan.h5", "out.nii.gz", *RUN, "--truth", "scan.h5", "--json")
    assert ended.code == 0, ended.err
    for words in ("readout oversampling removed", "mask: ", "phase of the image", "noise: sigma", "span the range"):
        assert words in ended.err
    result = json.loads(ended.out)
    assert result["metrics"]["psnr"] > 10 and result["status"] == "ok"
    image = nib.load(scanned.folder / "out.nii.gz")
    assert image.shape == (45, 52, 1) and image.header.get_zooms() == (1, 1, 4)
    assert 0 < float(np.asarray(image.dataobj).max()) < 1e-3
    facts = json.loads((scanned.folder / "out.nii.gz.json").read_text())
    assert any("phase of the image" in line for line in facts["Recon"]["Plan"]["notices"])
    again = scanned("rerun", "out.nii.gz.json", "again.nii.gz")
    assert again.code == 0, again.err
    files = [scanned.folder / name for name in ("out.nii.gz", "again.nii.gz")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_measurements_and_images_are_converted(scanned):
    assert scanned("convert", "scan.h5", "k.cfl").code == 0
    assert scanned("convert", "scan.h5", "image.nii").code == 0
    same = scanned("convert", "scan.h5", "image.h5", "--content", "image")
    assert same.code == 0, same.err
    ended = scanned("run", "k", "from_bart.npy", *RUN, "--method", "adjoint", "--set", "scan.sigma=1e-9", few=False)
    assert ended.code == 0 and "sigma" not in ended.err, ended.err
    assert (scanned.folder / "from_bart.npy").is_file()
    assert scanned("convert", "scan.h5", "k2.cfl", "--content", "sound").code == 2


@pytest.mark.parametrize("output", ["out.nii.gz", "out.dicom", "out.cfl"])
def test_what_is_refused_leaves_nothing(scanned, output):
    with h5py.File(scanned.folder / "scan.h5", "r+") as file:
        file["kspace"][...] = 0
    before = scanned.files()
    ended = scanned("run", "scan.h5", output, *RUN)
    assert ended.code == 3 and "is zero everywhere" in ended.err and "Traceback" not in ended.err
    assert scanned.files() == before and ended.out == b""
