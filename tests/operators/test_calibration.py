"""What is read off k-space: ESPIRiT maps, mask, calibration region, noise, phase, against known answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.operators.calibration import (
    calibration_size,
    compressed,
    cropped,
    fourier,
    image_phase,
    inverse_fourier,
    low_resolution,
    measured_samples,
    noise_level,
    normalised_maps,
)
from recon.operators.coils import birdcage_maps
from recon.operators.espirit import espirit_maps


def blob(size: tuple[int, int]) -> np.ndarray:
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    return ((y / 0.8) ** 2 + (x / 0.7) ** 2 < 1) * (1 + 0.5 * np.sin(8 * y) * np.cos(9 * x))


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


@pytest.mark.parametrize("size", [(64, 60), (61, 64), (160, 71)])
def test_espirit_finds_the_maps_up_to_a_phase(size):
    maps, image = birdcage_maps(6, size), blob(size)
    y = fourier(maps * image) + 1e-3 * noise((6, *size))
    found = espirit_maps(cropped(y, (24, 24)), size)
    assert found.shape == maps.shape and found.dtype == np.complex64
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), 1, rtol=1e-5)
    alike = np.abs((found.conj() * maps).sum(0))
    assert alike[image > 0].min() > 0.998 and alike[image > 0].mean() > 0.9998
    other = np.abs((found.conj() * birdcage_maps(6, size)[::-1]).sum(0))
    assert other[image > 0].mean() < 0.9


def test_the_phase_that_is_found_makes_the_image_real():
    size = (48, 50)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    image, turn = blob(size), np.exp(1j * (2 * y + x**2))
    maps = birdcage_maps(4, size)
    k = fourier(maps * image * turn)
    full = (maps.conj() * inverse_fourier(k)).sum(0)
    for found in (image_phase(k, maps, (16, 16)), image_phase(fourier(image * turn)[None], None, (16, 16))):
        np.testing.assert_allclose(np.abs(found), 1, rtol=1e-5)
        flat = full * found.conj()
        assert np.linalg.norm(flat.imag) < 0.05 * np.linalg.norm(full)
        assert np.linalg.norm(full.imag) > 0.5 * np.linalg.norm(full)
        assert flat.real[image > 0].min() > 0


def test_rough_maps_carry_the_phase_of_each_coil():
    size = (32, 30)
    maps, image = birdcage_maps(4, size), blob(size)
    found = normalised_maps(fourier(maps * image), (12, 12))
    alike = (found.conj() * maps).sum(0)[image > 0]
    assert alike.real.min() > 0.9 and np.abs(alike.imag).max() < 0.3


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 9), m=st.integers(2, 9))
def test_transforms_are_centred_orthonormal_inverses(n, m):
    image = noise((2, n, m), n)
    k = fourier(image)
    np.testing.assert_allclose(inverse_fourier(k), image, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(k), np.linalg.norm(image))
    point = np.zeros((n, m), complex)
    point[n // 2, m // 2] = 1
    np.testing.assert_allclose(fourier(point), np.full((n, m), 1 / np.sqrt(n * m)), atol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(8, 4), (8, 5), (9, 4), (9, 5), (4, 8)])
def test_the_centre_of_a_crop_stays_the_centre(n, m):
    line = np.zeros((2, n))
    line[:, n // 2] = 1
    found = cropped(line, (m,))
    assert found.shape == (2, min(n, m)) and (found[:, found.shape[1] // 2] == 1).all()


def test_masks_of_lines_and_of_points():
    y = noise((2, 40, 30))
    lines = np.zeros((40, 30))
    lines[:, ::3] = 1
    y[0, 3, 3] = y[1, 3, 3] = 0
    np.testing.assert_array_equal(measured_samples(y * lines), lines)
    points = (np.random.default_rng(0).random((40, 30)) < 0.3).astype(np.uint8)
    points[3, 3] = 0
    np.testing.assert_array_equal(measured_samples(y * points), points)
    echo = np.zeros((40, 30))
    echo[10:, ::2] = 1
    np.testing.assert_array_equal(measured_samples(y * echo), echo)


def test_the_calibration_region_is_the_full_centre():
    mask = np.zeros((40, 31), np.uint8)
    mask[:, ::4] = 1
    assert calibration_size(mask, 24) == (24, 1) or min(calibration_size(mask, 24)) <= 1
    mask[:, 15 - 6 : 15 + 6] = 1
    mask[:, 15 + 6] = 0
    assert calibration_size(mask, 24) == (24, 12)
    assert calibration_size(np.ones((40, 31)), 24) == (24, 24)
    assert calibration_size(np.zeros((40, 31)), 24) == (0, 0)
    square = np.zeros((40, 30))
    square[15:25, 11:19] = 1
    assert calibration_size(square, 24) == (10, 8)


@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("fraction", [1.0, 0.4])
def test_the_noise_level_is_found_beside_an_image(sigma, fraction):
    size = (96, 90)
    mask = (np.random.default_rng(1).random(size[1]) < fraction)[None] * np.ones(size)
    mask[:, 40:50] = 1
    y = (fourier(birdcage_maps(3, size) * blob(size)) + sigma * noise((3, *size))) * mask
    assert noise_level(y, mask) == pytest.approx(sigma, rel=0.25 if sigma > 0.02 else 0.9)
    assert noise_level(5 * y, mask) == pytest.approx(5 * noise_level(y, mask))
    assert noise_level(y[:, :5, :5], np.ones((5, 5))) is None


def test_low_resolution_images_use_the_centre_alone():
    k = noise((1, 16, 18))
    inside = np.zeros((16, 18))
    inside[8 - 3 : 8 + 3, 9 - 3 : 9 + 3] = 1
    np.testing.assert_allclose(low_resolution(k, (6, 6)), low_resolution(k * inside, (6, 6)))
    assert np.abs(low_resolution(k * (1 - inside), (6, 6))).max() < 1e-12


def test_virtual_coils_hold_the_energy_and_keep_the_noise_white():
    rng = np.random.default_rng(0)
    sources = rng.normal(size=(2, 40, 30)) + 1j * rng.normal(size=(2, 40, 30))
    mixing = rng.normal(size=(6, 2)) + 1j * rng.normal(size=(6, 2))
    k = np.tensordot(mixing, sources, 1).astype(np.complex64)
    maps = (rng.normal(size=(6, 5, 4)) + 1j * rng.normal(size=(6, 5, 4))).astype(np.complex64)
    virtual, turned = compressed(k, maps, 2)
    assert virtual.shape == (2, 40, 30) and turned.shape == (2, 5, 4)
    assert np.linalg.norm(virtual) == pytest.approx(np.linalg.norm(k), rel=1e-5)
    assert np.linalg.norm(virtual[0]) >= np.linalg.norm(virtual[1])
    # one matrix with orthonormal rows mixes both
    both = np.concatenate([k.reshape(6, -1), maps.reshape(6, -1)], 1)
    found = np.concatenate([virtual.reshape(2, -1), turned.reshape(2, -1)], 1)
    matrix = np.linalg.lstsq(both.T, found.T, rcond=None)[0].T
    np.testing.assert_allclose(matrix @ both, found, atol=1e-3)
    np.testing.assert_allclose(matrix @ matrix.conj().T, np.eye(2), atol=1e-5)
    for count in (None, 6, 9):
        assert compressed(k, maps, count) == (k, maps)
