"""Noise levels: known values, order, the way between VP and sigma, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon import schedules
from recon.errors import ConfigError

FEW = settings(max_examples=40, deadline=None)


def test_ends_of_the_discrete_grid():
    """Known values of the ADM networks' linear betas, 1e-4 to 0.02 in 1000 steps."""
    grid = schedules.vp_discrete(1000)
    assert len(grid) == 1001 and grid.dtype == np.float64
    assert grid[-2] == pytest.approx(0.0100, abs=5e-5)
    assert grid[-2] == pytest.approx(math.sqrt(1e-4 / (1 - 1e-4)), rel=1e-12)
    assert grid[0] == pytest.approx(157.41, abs=5e-3)


def test_the_continuous_grid_ends_at_its_known_value():
    """sigma(1) = 152.17, and sigma(t)^2 = exp(beta_d t^2/2 + beta_min t) - 1 in between."""
    grid = schedules.vp_continuous(1000)
    assert grid[0] == pytest.approx(152.17, abs=5e-3)
    t = 1 - 400 * (1 - 1e-3) / 999
    assert grid[400] == pytest.approx(math.sqrt(math.exp(9.95 * t**2 + 0.1 * t) - 1), rel=1e-10)
    assert grid[-2] == pytest.approx(math.sqrt(math.expm1(9.95e-6 + 1e-4)), rel=1e-10)


def test_times_of_dds():
    """50 steps are the times 980, 960, ..., 0 of the 1000."""
    full = schedules.vp_discrete(1000)
    np.testing.assert_array_equal(schedules.vp_discrete(50)[:-1], full[999 - np.arange(980, -1, -20)])


@pytest.mark.parametrize("steps", [2, 7, 100])
def test_times_of_diffpir(steps):
    """The code walks i = floor(sqrt(linspace(0, 1000^2, steps))) from the noisiest level 0 to the cleanest 999."""
    walked = [int(math.sqrt(k * 1000**2 / (steps - 1))) for k in range(steps)]
    walked[-1] = 999
    np.testing.assert_array_equal(schedules.vp_quadratic(steps)[:-1], schedules.vp_discrete(1000)[walked])


def test_the_edm_grid_has_the_published_ends_and_middle():
    grid = schedules.poly_rho(18)
    assert grid[0] == pytest.approx(80, rel=1e-12) and grid[-2] == pytest.approx(0.002, rel=1e-12)
    middle = (80 ** (1 / 7) + 9 / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert grid[9] == pytest.approx(middle, rel=1e-12)


def test_the_log_grid_has_one_ratio():
    grid = schedules.log_spaced(9, 0.01, 100)
    np.testing.assert_allclose(grid[1:-1] / grid[:-2], 10**-0.5, rtol=1e-12)
    assert grid[0] == pytest.approx(100) and grid[-2] == pytest.approx(0.01)


@FEW
@given(st.sampled_from(sorted(schedules.GRIDS)), st.integers(1, 1000))
def test_every_grid_falls_to_zero_and_has_no_other_zero(name, steps):
    grid = schedules.grid(name, steps)
    assert np.all(np.diff(grid) < 0) and np.all(grid[:-1] > 0) and grid[-1] == 0
    assert np.isfinite(grid).all() and grid.ndim == 1
    assert 2 <= len(grid) <= steps + 1
    if name != "vp-quadratic" or steps <= 100:  # there, equal times are taken once
        assert len(grid) == steps + 1


@pytest.mark.parametrize("name", sorted(set(schedules.GRIDS) - {"vp"}))
def test_one_step_starts_where_the_grid_starts(name):
    """Not for "vp", whose only time is 0, as in the code it follows."""
    assert schedules.grid(name, 1)[0] == pytest.approx(schedules.grid(name, 2)[0])
    assert schedules.grid(name, 1)[0] > 50


@FEW
@given(st.floats(1e-4, 0.9999))
def test_vp_to_sigma_and_back(ab):
    sigma = schedules.sigma_from_alpha_bar(ab)
    assert float(schedules.alpha_bar_from_sigma(sigma)) == pytest.approx(ab, rel=1e-12)


@FEW
@given(st.floats(1e-2, 200))
def test_sigma_to_vp_and_back(sigma):
    ab = schedules.alpha_bar_from_sigma(sigma)
    assert float(schedules.sigma_from_alpha_bar(ab)) == pytest.approx(sigma, rel=1e-9)
    # the noise of x = x_vp/sqrt(ab) is sqrt(1 - ab)/sqrt(ab)
    assert math.sqrt(1 - ab) / math.sqrt(ab) == pytest.approx(sigma, rel=1e-6)


def test_alpha_bars_are_products_of_one_minus_beta():
    ab = schedules.vp_alpha_bars(4, 0.1, 0.4)
    np.testing.assert_allclose(ab, [0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7, 0.9 * 0.8 * 0.7 * 0.6], rtol=1e-14)


@pytest.mark.parametrize("name", sorted(schedules.RANGED))
@given(st.floats(1e-4, 1), st.floats(1.01, 1e4), st.integers(2, 300))
def test_a_grid_takes_another_range(name, lowest, ratio, steps):
    grid = schedules.grid(f"{name}:{lowest!r}:{lowest * ratio!r}", steps)
    assert len(grid) == steps + 1 and np.all(np.diff(grid) < 0) and grid[-1] == 0
    assert grid[0] == pytest.approx(lowest * ratio) and grid[-2] == pytest.approx(lowest)


def test_a_range_is_the_default_one_where_it_says_so():
    assert np.array_equal(schedules.grid("edm:0.002:80", 9), schedules.grid("edm", 9))


@pytest.mark.parametrize(
    "name", ["edm:1", "edm:a:b", "edm:3:0.02", "edm:0:3", "edm:1:inf", "edm:1:2:3", "vp:0.02:3", "x:1:2"]
)
def test_bad_ranges_are_refused(name):
    with pytest.raises(ConfigError):
        schedules.grid(name, 5)


@pytest.mark.parametrize("name", sorted(schedules.GRIDS))
@pytest.mark.parametrize("steps", [0, -1])
def test_a_grid_without_steps_is_refused(name, steps):
    with pytest.raises(ConfigError, match=str(steps)):
        schedules.grid(name, steps)


def test_more_steps_than_discrete_levels_are_refused():
    with pytest.raises(ConfigError, match="1000 levels cannot give 1001"):
        schedules.vp_discrete(1001)


@pytest.mark.parametrize("make", [schedules.poly_rho, schedules.log_spaced])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (math.nan, 1.0)])
def test_a_range_that_does_not_rise_from_above_zero_is_refused(make, low, high):
    with pytest.raises(ConfigError, match="0 < sigma_min < sigma_max"):
        make(10, low, high)


def test_an_unknown_grid_names_the_known_ones():
    with pytest.raises(ConfigError, match="unknown grid 'cosine'") as caught:
        schedules.grid("cosine", 10)
    assert all(name in str(caught.value.hint) for name in schedules.GRIDS)
