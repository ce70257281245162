"""Spread of samples and its calibration."""

import math

import numpy as np
import pytest

from recon.errors import InputError
from recon.metrics.uncertainty import coverage, mean_and_std, spread_ratio


def test_mean_and_std_by_hand() -> None:
    mean, std = mean_and_std(np.array([[1.0, 2.0], [3.0, 2.0], [8.0, 2.0]]))
    np.testing.assert_allclose(mean, [4.0, 2.0])
    np.testing.assert_allclose(std, [math.sqrt((9 + 1 + 16) / 2), 0.0])


def test_complex_samples_keep_their_phase_in_the_mean() -> None:
    mean, std = mean_and_std(np.array([[1 + 0j], [0 + 1j]]))
    np.testing.assert_allclose(np.abs(mean), [math.sqrt(0.5)])  # the mean of magnitudes would be 1
    np.testing.assert_allclose(std, [1.0])
    assert std.dtype == np.float64


def test_one_sample_has_no_spread() -> None:
    np.testing.assert_array_equal(mean_and_std(np.ones((1, 4)))[1], np.zeros(4))


@pytest.mark.parametrize("count", [2, 4, 20])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_coverage_of_calibrated_samples_is_the_level(count: int, level: float) -> None:
    rng = np.random.default_rng(count)
    centre = rng.standard_normal(40_000)
    samples, truth = (centre + rng.standard_normal((k, 40_000)) for k in (count, 1))
    assert coverage(samples, truth[0], level) == pytest.approx(level, abs=0.01)
    if count > 2:  # the ratio's own spread is too wide with one degree of freedom
        assert spread_ratio(samples, truth[0]) == pytest.approx(1.0, abs=0.02)


def test_narrow_samples_cover_too_little() -> None:
    rng = np.random.default_rng(0)
    samples = 0.5 * rng.standard_normal((8, 20_000))
    truth = rng.standard_normal(20_000)
    assert coverage(samples, truth) < 0.75
    assert spread_ratio(samples, truth) == pytest.approx(0.5 * math.sqrt(9 / 8) / math.sqrt(1 + 0.25 / 8), abs=0.02)


def test_interval_by_hand_for_two_samples() -> None:
    # T_1 quantile of 0.75 is 1: half width s sqrt(1 + 1/2), s = sqrt(2) for samples -1 and 1
    samples = np.array([[-1.0, -1.0], [1.0, 1.0]])
    reach = math.sqrt(3)
    assert coverage(samples, np.array([reach - 1e-6, reach + 1e-6]), level=0.5) == 0.5


def test_mask_and_complex_parts() -> None:
    samples = np.array([[-1 - 1j, 0j], [1 + 1j, 0j]])
    truth = np.array([0.1 + 100j, 5 + 5j])
    assert coverage(samples, truth, 0.5) == 0.25
    assert coverage(samples, truth, 0.5, mask=np.array([1, 0])) == 0.5


def test_exact_mean_has_an_infinite_ratio() -> None:
    assert spread_ratio(np.array([[-1.0], [1.0]]), np.array([0.0])) == math.inf


@pytest.mark.parametrize("shape", [(1, 4), (3, 5)])
def test_shapes_are_checked(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="two or more samples"):
        coverage(np.zeros(shape), np.zeros(4))
