"""fastMRI files: k-space, mask, header and reconstructions as h5py writes them, and back; damaged ones refused."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.data import Geometry, Measurement, OperatorSpec, Scan, Volume
from recon.errors import InputError
from recon.io import fastmri
from recon.io.describe import describe
from recon.io.registry import (
    check_volume,
    holds_measurement,
    read_measurement,
    read_volume,
    sniff,
    write_measurement,
    write_volume,
)

HEADER = """<?xml version="1.0" encoding="UTF-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>12</x><y>9</y><z>1</z></matrixSize>
<fieldOfView_mm><x>24</x><y>9</y><z>3.5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>6</x><y>7</y><z>1</z></matrixSize>
<fieldOfView_mm><x>12</x><y>7</y><z>3.5</z></fieldOfView_mm></reconSpace>
<trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"""


def kspace(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def scanned(path: Path, y: np.ndarray, header: str | None = HEADER, **items: np.ndarray) -> Path:
    """Write a file as the fastMRI data set does."""
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=y)
        for name, value in items.items():
            file.create_dataset(name, data=value)
        if header is not None:
            file.create_dataset("ismrmrd_header", data=header)
        file.attrs.update({"acquisition": "CORPD_FBK", "max": 2.5, "norm": 9.0, "patient_id": "somebody"})
    return path


def test_a_scan_of_many_coils_with_its_mask_and_header(tmp_path):
    y, mask = kspace(3, 4, 12, 9), np.arange(9) % 2 == 0
    path = scanned(tmp_path / "file1.h5", y, mask=mask)
    found = read_measurement(path)
    assert sniff(path) == "fastmri" and holds_measurement(path)
    np.testing.assert_array_equal(found.y, y)
    assert (found.operator.kind, found.operator.in_shape) == ("mri", (1, 12, 9))
    np.testing.assert_array_equal(found.operator.arrays["mask"], mask)
    assert found.scan == Scan((6, 7), "y", 2.0)
    assert found.geometry.axes == ("z", "y", "x") and found.geometry.spacing == (3.5, 2.0, 1.0)
    assert found.provenance == {"format": "fastmri", "acquisition": "CORPD_FBK"}


def test_one_coil_gets_an_axis_and_k_space_stays_on_disk(tmp_path):
    y = kspace(2, 12, 9)
    found = read_measurement(scanned(tmp_path / "a.h5", y))
    assert found.y.shape == (2, 1, 12, 9)
    np.testing.assert_array_equal(found.y[:, 0], y)
    assert "mask" not in found.operator.arrays
    assert isinstance(found.y.base if found.y.base is not None else found.y, np.memmap)
    whole = read_measurement((tmp_path / "a.h5").read_bytes())
    np.testing.assert_array_equal(whole.y, found.y)


def test_chunked_and_compressed_k_space_is_read_as_well(tmp_path):
    y = kspace(2, 12, 9)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("kspace", data=y, chunks=(1, 12, 9), compression="gzip")
        file["ismrmrd_header"] = HEADER
    np.testing.assert_array_equal(read_measurement(tmp_path / "a.h5").y[:, 0], y)


def test_the_stored_reconstruction_is_the_image(tmp_path):
    image = np.abs(kspace(3, 6, 7))
    path = scanned(tmp_path / "a.h5", kspace(3, 4, 12, 9), reconstruction_rss=image)
    found = read_volume(path)
    np.testing.assert_array_equal(found.array, image)
    assert found.geometry.spacing == (3.5, 2.0, 1.0) and found.geometry.units == "mm"
    assert "somebody" not in str(found.geometry.meta) and "somebody" not in str(describe(path))
    facts = describe(path)
    assert facts["kind"] == "measurement" and facts["scan"]["crop"] == [6, 7]
    with pytest.raises(InputError, match="holds k-space, expected an image"):
        read_volume(scanned(tmp_path / "b.h5", kspace(3, 4, 12, 9)))


@settings(max_examples=25, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 4)] * 2, *[st.integers(1, 6)] * 2), maps=st.booleans(), masked=st.booleans())
def test_k_space_round_trips(tmp_path_factory, shape, maps, masked):
    path = tmp_path_factory.mktemp("k") / "a.fastmri.h5"
    arrays = {"mask": (np.arange(shape[3]) % 2 == 0).astype(np.uint8)} if masked else {}
    arrays |= {"maps": kspace(*shape[1:])} if maps else {}
    geometry = Geometry(("z", "y", "x"), spacing=(3.0, 2.0, 1.5), units="mm")
    scan = Scan((max(shape[2] // 2, 1), shape[3]), "y", 2.0)
    measured = Measurement(kspace(*shape), OperatorSpec("mri", {}, (1, *shape[2:]), arrays), None, geometry, {}, scan)
    write_measurement(path, measured)
    found = read_measurement(path)
    np.testing.assert_array_equal(found.y, measured.y, strict=True)
    assert set(found.operator.arrays) == set(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(found.operator.arrays[name], value)
    assert found.scan.crop == scan.crop
    np.testing.assert_allclose(found.geometry.spacing, geometry.spacing, rtol=1e-12)


def test_reconstructions_round_trip_as_the_leaderboard_reads_them(tmp_path):
    image = Volume(np.abs(kspace(3, 6, 7)), Geometry(("z", "y", "x"), spacing=(3.0, 2.0, 1.5), units="mm"))
    write_volume(tmp_path / "a.fastmri.h5", image)
    with h5py.File(tmp_path / "a.fastmri.h5") as file:
        np.testing.assert_array_equal(file["reconstruction"][()], image.array)
        assert file["reconstruction"].dtype == np.float32
    found = read_volume(tmp_path / "a.fastmri.h5")
    np.testing.assert_array_equal(found.array, image.array)
    assert found.geometry.spacing == (3.0, 2.0, 1.5) and found.geometry.units == "mm"


@pytest.mark.parametrize(
    ("items", "header", "message"),
    [
        ({"kspace": kspace(3, 4)}, HEADER, "no array|4 dimensions|arrays in it|kspace"),
        ({"kspace": np.ones((2, 12, 9), np.float32)}, HEADER, "expected complex"),
        ({"kspace": kspace(2, 12, 9), "mask": np.ones(8)}, HEADER, "mask has shape .8,., expected .9,."),
        ({"kspace": kspace(2, 12, 9)}, "<a", "not valid XML"),
        ({"kspace": kspace(2, 12, 9)}, "<!DOCTYPE x [<!ENTITY a 'b'>]>" + HEADER, "refused"),
        ({"kspace": kspace(2, 12, 9)}, "<ismrmrdHeader/>", "no encoding"),
        ({"kspace": kspace(2, 12, 9)}, HEADER.replace("<x>6</x>", "<x>0</x>"), "reconSpace"),
        ({"kspace": kspace(2, 12, 9)}, HEADER.replace("<x>12</x>", "<x>nan</x>"), "not valid"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, items, header, message):
    path = scanned(tmp_path / "a.h5", items.pop("kspace"), header, **items)
    with pytest.raises(InputError, match=message) as caught:
        found = read_measurement(path)
        assert found.operator is None, "an array of two dimensions is no scan"
        raise InputError("no array")
    assert "\n" not in caught.value.message and caught.value.exit_code == 3


def test_k_space_with_nan_is_refused(tmp_path):
    y = kspace(2, 12, 9)
    y[1, 3, 3] = np.nan
    with pytest.raises(InputError, match="1 of 216 values are NaN"):
        read_measurement(scanned(tmp_path / "a.h5", y))


def test_what_fastmri_cannot_hold_is_refused_before_writing(tmp_path):
    for volume, message in (
        (Volume(kspace(2, 3, 4), Geometry(("z", "y", "x"))), "real"),
        (Volume(np.zeros((3, 4, 3), np.float32), Geometry(("y", "x", "c"))), "axes y,x,c"),
    ):
        with pytest.raises(InputError, match=message):
            check_volume(tmp_path / "a.fastmri.h5", volume)
        with pytest.raises(InputError, match=message):
            write_volume(tmp_path / "a.fastmri.h5", volume)
    sinogram = Measurement(np.zeros((1, 1, 4, 5), np.float32), OperatorSpec("ct", {}, (1, 4, 4)))
    rows = np.array([[1], [0], [1]], np.uint8)
    lines = Measurement(kspace(1, 1, 3, 4), OperatorSpec("mri", {}, (1, 3, 4), {"mask": rows}))
    for measurement, message in ((sinogram, "hold k-space"), (lines, "masks are of columns")):
        with pytest.raises(InputError, match=message):
            write_measurement(tmp_path / "a.fastmri.h5", measurement)
    assert list(tmp_path.iterdir()) == []
    assert fastmri.IMAGES[0] == "reconstruction_rss"
