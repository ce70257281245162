"""ISMRMRD: acquisitions sorted into k-space as the header says, noise whitened, images out; against its own tools."""

import lzma
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recon.config.schema import Config
from recon.data import Geometry, Volume
from recon.errors import InputError
from recon.io.ismrmrd_images import HEADER
from recon.io.kspace import placement, whitening
from recon.io.registry import holds_measurement, read_measurement, read_volume, sniff, write_volume
from recon.operators.calibration import inverse_fourier
from recon.runs.resolve_input import resolve_input

FIXTURES = Path(__file__).parent / "fixtures"
COUNTERS = (
    "kspace_encode_step_1",
    "kspace_encode_step_2",
    "average",
    "slice",
    "contrast",
    "phase",
    "repetition",
    "set",
)
IDX = [*((name, "<u2") for name in COUNTERS), ("segment", "<u2"), ("user", "<u2", (8,))]
VECTORS = ("position", "read_dir", "phase_dir", "slice_dir", "patient_table_position")
HEAD = np.dtype(
    [
        *[("version", "<u2"), ("flags", "<u8"), ("measurement_uid", "<u4"), ("scan_counter", "<u4")],
        *[("acquisition_time_stamp", "<u4"), ("physiology_time_stamp", "<u4", (3,))],
        *[(k, "<u2") for k in ("number_of_samples", "available_channels", "active_channels")],
        *[("channel_mask", "<u8", (16,))],
        *[(k, "<u2") for k in ("discard_pre", "discard_post", "center_sample", "encoding_space_ref")],
        *[("trajectory_dimensions", "<u2"), ("sample_time_us", "<f4"), *((k, "<f4", (3,)) for k in VECTORS)],
        *[("idx", IDX), ("user_int", "<i4", (8,)), ("user_float", "<f4", (8,))],
    ]
)
XML = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>8</x><y>6</y><z>{z}</z></matrixSize>
<fieldOfView_mm><x>16</x><y>9</y><z>{fz}</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>4</x><y>6</y><z>{z}</z></matrixSize>
<fieldOfView_mm><x>8</x><y>9</y><z>{fz}</z></fieldOfView_mm></reconSpace><encodingLimits>
<kspace_encoding_step_1><minimum>0</minimum><maximum>5</maximum><center>3</center></kspace_encoding_step_1>
</encodingLimits><trajectory>{trajectory}</trajectory></encoding></ismrmrdHeader>"""


def draws(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def line(samples: np.ndarray, row: int = 0, flags: tuple[int, ...] = (), **fields: Any) -> dict[str, Any]:
    """Return one acquisition; fields of the head or of its counters replace what is usual."""
    head = np.zeros((), HEAD)
    head["active_channels"], head["number_of_samples"] = samples.shape
    head["center_sample"], head["sample_time_us"] = samples.shape[1] // 2, 5
    head["idx"]["kspace_encode_step_1"] = row
    head["flags"] = sum(1 << (bit - 1) for bit in flags)
    trajectory = fields.pop("traj", np.zeros(0, np.float32))
    for key, value in fields.items():
        (head["idx"] if key in COUNTERS else head)[key] = value
    return {"head": head, "traj": trajectory, "data": samples}


def scanned(path: Path, lines: list[dict[str, Any]], xml: str | None = None) -> Path:
    vlen = h5py.vlen_dtype(np.dtype("<f4"))
    kind = np.dtype([("head", HEAD), ("traj", vlen), ("data", vlen)])
    records = np.empty(len(lines), kind)
    for i, entry in enumerate(lines):
        records[i]["head"] = entry["head"]
        records[i]["traj"] = np.asarray(entry["traj"], np.float32).ravel()
        records[i]["data"] = np.ascontiguousarray(entry["data"]).view(np.float32).ravel()
    text = xml or XML.format(z=1, fz=5, trajectory="cartesian")
    with h5py.File(path, "w") as file:
        file.create_dataset("dataset/xml", data=[text], dtype=h5py.string_dtype())
        file.create_dataset("dataset/data", data=records)
    return path


def test_lines_go_where_their_counters_say(tmp_path):
    k = draws(2, 3, 6, 8)
    lines = [line(k[s, :, row], row, slice=s) for row in (5, 0, 3, 2) for s in (1, 0)]
    path = scanned(tmp_path / "a.h5", lines)
    found = read_measurement(path)
    assert sniff(path) == "ismrmrd" and holds_measurement(path)
    rows = np.isin(np.arange(6), (0, 2, 3, 5))
    np.testing.assert_allclose(found.y, k * rows[:, None])
    np.testing.assert_array_equal(found.operator.arrays["mask"], rows[:, None] * np.ones((6, 8)))
    assert found.scan.crop == (6, 4) and found.scan.oversampling == 2 and found.scan.readout == "x"
    assert found.geometry.spacing == (5, 1.5, 2.0) and found.noise is None


def test_reversed_partial_averaged_and_foreign_lines(tmp_path):
    k = draws(1, 6, 8)
    echo = line(k[:, 2, 3:], 2, center_sample=1)
    lines = [
        *[line(k[:, 1, ::-1], 1, flags=(22,)), echo],
        *[line(k[:, 4] + 1, 4), line(k[:, 4] - 1, 4, average=1)],
        *[line(draws(1, 8), 5, flags=(23,)), line(draws(1, 8), 0, flags=(24,))],
        *[line(k[:, 3], 3), line(9 * k[:, 3], 3, flags=(20,)), line(k[:, 0], 0, flags=(20,))],
    ]
    found = read_measurement(scanned(tmp_path / "a.h5", lines))
    expected = k.copy()
    expected[:, 5] = 0
    expected[:, 2, :3] = 0
    np.testing.assert_allclose(found.y[0], expected, atol=1e-6)
    np.testing.assert_array_equal(found.operator.arrays["mask"], expected[0] != 0)
    assert found.scan.notes == ("acquisitions left out: 1 navigator, 1 phase-correction",)


def test_a_noise_scan_whitens_the_coils_and_gives_the_noise(tmp_path):
    rng = np.random.default_rng(0)
    mixing = np.array([[2.0, 0, 0], [0.8, 1.0, 0], [0.1 + 0.3j, -0.2j, 0.5]])
    noise = (mixing @ draws(3, 4000)).astype(np.complex64)
    k = draws(3, 6, 8, seed=1)
    lines = [line(noise[:, :2000], flags=(19,)), line(noise[:, 2000:], flags=(19,))]
    lines += [line(k[:, row], row) for row in range(6)]
    found = read_measurement(scanned(tmp_path / "a.h5", lines))
    levels = np.linalg.norm(mixing, axis=1)
    assert found.noise.sigma == pytest.approx(np.exp(np.log(levels).mean()), rel=0.03)
    white = whitening(noise)
    covariance = (white.matrix @ noise) @ (white.matrix @ noise).conj().T / (2 * noise.shape[1])
    np.testing.assert_allclose(covariance, white.sigma**2 * np.eye(3), atol=1e-3 * white.sigma**2)
    np.testing.assert_allclose(found.y[0], np.einsum("ij,jyx->iyx", white.matrix, k), rtol=1e-3, atol=1e-3)
    slow = [line(noise[:, :2000], flags=(19,), sample_time_us=20), *lines[2:]]
    assert read_measurement(scanned(tmp_path / "b.h5", slow)).noise.sigma == pytest.approx(2 * white.sigma, rel=0.05)
    short = [line(rng.normal(size=(3, 4)).astype(np.complex64), flags=(19,)), *lines[2:]]
    kept = read_measurement(scanned(tmp_path / "c.h5", short))
    assert kept.noise is None and "not used" in kept.scan.notes[0]
    np.testing.assert_allclose(kept.y[0], k)


def test_counters_that_vary_are_chosen(tmp_path):
    k = draws(2, 1, 6, 8)
    path = scanned(tmp_path / "a.h5", [line(k[r, :, row], row, repetition=r) for r in (0, 1) for row in range(6)])
    with pytest.raises(InputError, match="repetition takes 2 values") as caught:
        read_measurement(path)
    assert caught.value.hint.endswith("a.h5::repetition=0")
    np.testing.assert_allclose(read_measurement(f"{path}::repetition=1").y[0], k[1])
    with pytest.raises(InputError, match="chooses nothing"):
        read_measurement(f"{path}::colour=1")


def test_a_volume_becomes_slices_along_its_readout(tmp_path):
    k = draws(2, 5, 6, 8)  # coils, z, y, x
    lines = [line(k[:, z, y], y, kspace_encode_step_2=z) for z in range(5) for y in range(6)]
    found = read_measurement(scanned(tmp_path / "a.h5", lines, XML.format(z=5, fz=15, trajectory="cartesian")))
    image = inverse_fourier(k, (1, 2, 3))[..., 2:6]
    assert found.y.shape == (4, 2, 5, 6)
    np.testing.assert_allclose(inverse_fourier(found.y), np.moveaxis(image, -1, 0), atol=1e-5)
    assert found.geometry.spacing == (2.0, 3.0, 1.5) and "became 4 slices" in found.scan.notes[0]


def test_trajectories_are_kept_and_a_run_says_what_is_wrong_with_them(tmp_path):
    k, path = draws(3, 2, 8), np.random.default_rng(0).normal(size=(3, 8, 2)).astype(np.float32)
    lines = [line(k[i], traj=path[i], trajectory_dimensions=2) for i in range(3)]
    xml = XML.format(z=1, fz=5, trajectory="spiral")
    found = read_measurement(scanned(tmp_path / "a.h5", lines, xml))
    np.testing.assert_allclose(found.y[0], k.swapaxes(0, 1))
    np.testing.assert_array_equal(found.operator.arrays["trajectory"], path)
    config = Config.model_validate({"operator": {"kind": "mri"}, "method": {"name": "cg"}})
    assert found.operator.kind == "mri-nufft" and "spiral scan: 3 shots of 8 samples" in found.scan.notes[0]
    with pytest.raises(InputError, match=r"outside \[-1/2, 1/2\] cycles per pixel"):
        resolve_input(found, config, None)
    flat = [line(k[i], traj=np.pad(path[i], ((0, 0), (0, 1))), trajectory_dimensions=3) for i in range(3)]
    np.testing.assert_array_equal(
        read_measurement(scanned(tmp_path / "c.h5", flat, xml)).operator.arrays["trajectory"], path
    )
    with pytest.raises(InputError, match="no trajectory is stored"):
        read_measurement(scanned(tmp_path / "b.h5", [line(k[0])], xml))


def test_slices_lie_where_their_heads_say(tmp_path):
    frame = {"read_dir": (0, 1, 0), "phase_dir": (0, 0, 1), "slice_dir": (1, 0, 0)}
    k = draws(2, 1, 6, 8)
    lines = [
        line(k[s, :, row], row, slice=s, position=(10 - 7 * s, 20, 30), **frame) for row in range(6) for s in (0, 1)
    ]
    found = read_measurement(scanned(tmp_path / "a.h5", lines))
    np.testing.assert_allclose(found.y, k[::-1])
    affine = found.geometry.affine
    np.testing.assert_allclose(affine @ [2, 3, 0, 1], [-3, -20, 30, 1])
    np.testing.assert_allclose(affine[:3, :3], [[0, 0, -7], [-2, 0, 0], [0, 1.5, 0]])
    assert found.geometry.spacing == (7, 1.5, 2)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([line(draws(1, 8), 9)], "encoding step 9 with centre 3"),
        ([line(draws(1, 9), 0)], "does not fit 8 encoded points"),
        ([line(draws(1, 8), 0, center_sample=0)], "does not fit 8 encoded points"),
        ([line(draws(1, 8), 0), line(draws(2, 8), 1)], "number of coils changes"),
        ([line(draws(1, 8), 0, number_of_samples=5)], "has 16 numbers, not 10"),
        ([line(draws(1, 8), 0, flags=(19,))], "none of 1 acquisitions"),
    ],
)
def test_what_does_not_fit_is_one_error(tmp_path, lines, message):
    with pytest.raises(InputError, match=message) as caught:
        read_measurement(scanned(tmp_path / "a.h5", lines))
    assert caught.value.hint and "\n" not in caught.value.message


def test_headers_that_lie_are_refused(tmp_path):
    for xml in ("<x", XML.format(z=60000, fz=5, trajectory="cartesian").replace("<y>6</y>", "<y>60000</y>")):
        with pytest.raises(InputError):
            read_measurement(scanned(tmp_path / "a.h5", [line(draws(1, 8))], xml))


@settings(max_examples=20, deadline=None)
@given(
    stack=hnp.arrays(st.sampled_from([np.float32, np.complex64]), hnp.array_shapes(min_dims=3, max_dims=3, max_side=4)),
    turn=st.booleans(),
)
def test_images_round_trip_with_their_place(tmp_path_factory, stack, turn):
    affine = np.diag([-1.5, 2.0, 3.0, 1.0])
    affine[:3, 3] = [10, -20, 30]
    affine = affine[[1, 2, 0, 3]] if turn else affine
    path = tmp_path_factory.mktemp("m") / "a.mrd"
    write_volume(path, Volume(stack, Geometry(("z", "y", "x"), affine, (3.0, 2.0, 1.5), "mm")))
    found = read_volume(path)
    np.testing.assert_array_equal(found.array, stack, strict=True)
    np.testing.assert_allclose(found.geometry.affine, affine, atol=1e-4)
    assert sniff(path) == "ismrmrd" and not holds_measurement(path)


@pytest.mark.parametrize(
    ("size", "centre", "first", "last", "into"),
    [(8, 4, 0, 8, (0, 8)), (8, 1, 0, 5, (3, 8)), (8, 4, 1, 7, (1, 7)), (8, 0, 0, 5, None), (7, 3, 0, 7, (0, 7))],
)
def test_readouts_are_placed_by_their_centre(size, centre, first, last, into):
    found = placement(size, centre, first, last)
    assert (None if found is None else (found[0].start, found[0].stop)) == into


def test_a_file_of_the_tools_of_ismrmrd():
    """ismrmrd_generate_cartesian_shepp_logan -m 8 -c 2 -n 0.05 -C, version 1.8.0 (see fixtures/ORIGIN.md)."""
    found = read_measurement(lzma.decompress((FIXTURES / "ismrmrd_shepp_logan.h5.xz").read_bytes()))
    assert found.y.shape == (1, 2, 8, 16) and found.scan.crop == (8, 8) and found.scan.oversampling == 2
    assert found.noise.sigma == pytest.approx(0.05, rel=0.35)
    assert found.operator.arrays["mask"].all()
    energy = np.linalg.norm(inverse_fourier(found.y[0]), axis=0) ** 2
    assert energy[:, 4:12].sum() > 0.7 * energy.sum()


def test_the_python_package_of_ismrmrd_reads_our_images(tmp_path):
    package = pytest.importorskip("ismrmrd")
    stack = draws(2, 5, 4)
    geometry = Geometry(("z", "y", "x"), np.diag([2.0, 3.0, 4.0, 1.0]), (4.0, 3.0, 2.0), "mm")
    write_volume(tmp_path / "a.mrd", Volume(stack, geometry))
    image = package.Dataset(str(tmp_path / "a.mrd"), "dataset", False).read_image("image_0", 1)
    np.testing.assert_array_equal(image.data[0, 0], stack[1])
    assert tuple(image.field_of_view) == (8, 15, 4) and np.dtype(package.hdf5.image_header_dtype) == HEADER
