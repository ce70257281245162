"""BART pairs: column-major sizes by name, k-space and images, against files that BART 0.8 wrote."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recon.data import Geometry, Measurement, OperatorSpec, Volume
from recon.errors import InputError, OutputExistsError
from recon.io.describe import describe
from recon.io.operator_file import read_operator_file
from recon.io.registry import holds_measurement, read_measurement, read_volume, sniff, write_measurement, write_volume
from recon.operators.calibration import fourier, inverse_fourier

FIXTURES = Path(__file__).parent / "fixtures"
bart = pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed")


def pair(path: Path, array: np.ndarray) -> Path:
    """Write a pair by hand; `array` has BART's dimensions."""
    sizes = [*array.shape, *[1] * (16 - array.ndim)]
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{' '.join(map(str, sizes))} \n# Creator\nBART v0.8.00\n")
    path.with_suffix(".cfl").write_bytes(array.astype(np.complex64).tobytes(order="F"))
    return path.with_suffix(".cfl")


def draws(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def test_dimensions_have_their_meaning(tmp_path):
    array = np.zeros((5, 4, 1, 3, *[1] * 9, 2), np.complex64)
    array[1, 2, 0, 2, ..., 1] = 7
    path = pair(tmp_path / "k", array)
    for name in (path, path.with_suffix(".hdr"), path.with_suffix("")):
        found = read_measurement(name)
        assert found.y.shape == (2, 3, 4, 5) and found.y[1, 2, 2, 1] == 7 and np.count_nonzero(found.y) == 1
    assert sniff(path) == "bart" and holds_measurement(path)
    assert found.operator.in_shape == (1, 4, 5) and found.scan.readout == "x"
    assert describe(path)["kind"] == "measurement"


def test_images_are_x_y_z(tmp_path):
    image = draws(5, 4, 3)
    path = pair(tmp_path / "a", image)
    found = read_volume(path)
    assert found.geometry.axes == ("x", "y", "z")
    np.testing.assert_array_equal(found.array, image)
    assert not holds_measurement(path) and describe(path)["kind"] == "image"
    slices = pair(tmp_path / "s", image.reshape(5, 4, *[1] * 11, 3))
    np.testing.assert_array_equal(read_volume(slices).array, image)
    real = read_volume(pair(tmp_path / "r", image.real[..., 0])).array
    np.testing.assert_array_equal(real, image.real[..., 0])
    assert real.dtype == np.float32


def test_the_readout_of_a_volume_becomes_slices(tmp_path):
    volume = draws(6, 2, 5, 4)  # readout, coils, phases
    k = fourier(np.moveaxis(fourier(volume), 0, -1), (-1,))
    found = read_measurement(pair(tmp_path / "k", k.transpose(3, 1, 2, 0)))
    assert found.y.shape == (6, 2, 5, 4) and "became 6 slices" in found.scan.notes[0]
    np.testing.assert_allclose(inverse_fourier(found.y), volume, atol=1e-5)
    gap = k.transpose(3, 1, 2, 0).copy()
    gap[2] = 0
    with pytest.raises(InputError, match="readout is not fully measured"):
        read_measurement(pair(tmp_path / "g", gap))


@settings(max_examples=30, deadline=None)
@given(array=hnp.arrays(np.complex64, hnp.array_shapes(min_dims=2, max_dims=4, max_side=4)))
def test_images_round_trip(tmp_path_factory, array):
    path = tmp_path_factory.mktemp("b") / "a.cfl"
    write_volume(path, Volume(array, Geometry(("x", "y", "z", "n")[: array.ndim])))
    found = read_volume(path)
    expected = array.reshape([*array.shape[:2], *(n for n in array.shape[2:] if n > 1)])
    np.testing.assert_array_equal(found.array, expected if expected.imag.any() else expected.real)


@settings(max_examples=20, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 4)] * 4))
def test_k_space_round_trips(tmp_path_factory, shape):
    path = tmp_path_factory.mktemp("b") / "a.cfl"
    measured = Measurement(draws(*shape), OperatorSpec("mri", {}, (1, *shape[2:]), {}))
    write_measurement(path, measured)
    np.testing.assert_array_equal(read_measurement(path).y, measured.y)


def test_a_pair_is_written_whole_or_not_at_all(tmp_path):
    image = Volume(draws(3, 4), Geometry(("x", "y")))
    write_volume(tmp_path / "a.cfl", image)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.cfl", "a.hdr"]
    (tmp_path / "a.cfl").unlink()
    with pytest.raises(OutputExistsError, match=r"a\.hdr"):
        write_volume(tmp_path / "a.cfl", image)
    write_volume(tmp_path / "a.cfl", image, force=True)
    with pytest.raises(InputError, match="grey images"):
        write_volume(tmp_path / "b.cfl", Volume(np.zeros((2, 3, 3), np.float32), Geometry(("y", "x", "c"))))
    mapped = OperatorSpec("mri", {}, (1, 3, 4), {"maps": draws(2, 3, 4)})
    with pytest.raises(InputError, match="maps in a file of their own"):
        write_measurement(tmp_path / "b.cfl", Measurement(draws(1, 2, 3, 4), mapped))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.cfl", "a.hdr"]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("# Dimensions\n5 4 1 3\n", "need 480 bytes, the .cfl has 160"),
        ("# Dimensions\n5 4 0\n", "not a readable BART"),
        ("# Dimensions\n5 four\n", "not a readable BART"),
        ("# Dimensions\n" + "1 " * 17 + "\n", "not a readable BART"),
        ("# Dimensions\n", "not a readable BART"),
        ("# Dimensions\n99999999999 99999999999\n", "need .* bytes"),
        (None, "is missing"),
    ],
)
def test_damaged_pairs_are_one_error(tmp_path, header, message):
    path = pair(tmp_path / "a", draws(5, 4))
    path.with_suffix(".hdr").unlink()
    if header is not None:
        path.with_suffix(".hdr").write_text(header)
    with pytest.raises(InputError, match=message) as caught:
        read_volume(path)
    assert "\n" not in caught.value.message and caught.value.hint


def test_dimensions_that_mean_something_else_are_named(tmp_path):
    with pytest.raises(InputError, match="TIME = 3") as caught:
        read_volume(pair(tmp_path / "a", draws(5, 4, *[1] * 8, 3)))
    assert "bart slice 10 0" in caught.value.hint
    with pytest.raises(InputError, match="MAPS = 2"):
        read_measurement(pair(tmp_path / "b", draws(5, 4, 1, 3, 2)))


def test_maps_and_masks_serve_an_operator_file(tmp_path):
    maps, mask = draws(5, 4, 1, 3), (np.arange(20) % 2).reshape(5, 4)
    pair(tmp_path / "maps", maps)
    pair(tmp_path / "mask", mask)
    (tmp_path / "op.toml").write_text('kind = "mri"\n[arrays]\nmaps = "maps.cfl"\nmask = "mask"\n')
    found = read_operator_file(tmp_path / "op.toml").arrays
    np.testing.assert_array_equal(found["maps"], maps[:, :, 0].transpose(2, 1, 0))
    np.testing.assert_array_equal(found["mask"], mask.T)


def test_a_file_that_bart_wrote():
    """phantom -x 9 -s 2 -k k, and phantom -x 9 -s 2 then fft -u 3, by BART 0.8.00 (see fixtures/ORIGIN.md)."""
    found = read_measurement(FIXTURES / "bart_kspace.cfl")
    coils = read_cfl("bart_images")
    assert found.y.shape == (1, 2, 9, 9)
    np.testing.assert_allclose(inverse_fourier(found.y[0]), coils, atol=1e-5 * np.abs(coils).max())


def read_cfl(name: str) -> np.ndarray:
    return read_measurement(FIXTURES / f"{name}.cfl").y[0]


@bart
@pytest.mark.parametrize("size", [8, 9])
def test_bart_reads_what_is_written_and_transforms_alike(tmp_path, size):
    image = draws(1, 1, size, size)
    spec = OperatorSpec("mri", {}, (1, size, size), {})
    write_measurement(tmp_path / "k.cfl", Measurement(fourier(image).astype(np.complex64), spec))
    subprocess.run(["bart", "fft", "-u", "-i", "3", "k", "x"], cwd=tmp_path, check=True)
    np.testing.assert_allclose(read_volume(tmp_path / "x").array.T, image[0, 0], atol=1e-5)
