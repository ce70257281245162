"""Colour scales: exact levels, monotone lightness, and what lies outside."""

import numpy as np
import pytest

from recon.errors import InputError
from recon.views.colour import EMBER, NOT_FINITE, ember, grey, oklab_to_srgb


def lightness(rgb: np.ndarray) -> np.ndarray:
    """OKLab lightness of sRGB colours, by the inverse of the map under test's formula."""
    linear = rgb.astype(float) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    to_lms = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
              [0.0883024619, 0.2817188376, 0.6299787005]]  # fmt: skip
    return np.cbrt(linear @ np.array(to_lms).T) @ np.array([0.2104542553, 0.7936177850, -0.0040720468])


def test_grey_levels_are_exact_and_clipped() -> None:
    values = np.array([-5.0, -1.0, 0.0, 1.0, 3.0, 9.0])
    assert grey(-1, 3).colour(values)[:, 0].tolist() == [0, 0, 64, 128, 255, 255]
    assert grey(0, 255).levels(np.arange(256)).tolist() == list(range(256))


def test_values_that_are_not_finite_stand_out() -> None:
    shown = grey(0, 1).colour(np.array([np.nan, np.inf, 0.5]))
    assert (shown[:2] == NOT_FINITE).all()
    assert shown[2].tolist() == [128, 128, 128]
    assert not (EMBER == NOT_FINITE).all(axis=1).any()


def test_ember_has_linear_lightness() -> None:
    steps = lightness(EMBER)
    np.testing.assert_allclose(steps, np.linspace(0.1, 0.97, 256), atol=0.012)
    assert EMBER[0].max() <= 4
    assert EMBER[-1].min() > 235
    assert len(np.unique(EMBER, axis=0)) > 240


def test_ember_runs_from_zero_to_its_limit() -> None:
    shown = ember(2.0).colour(np.array([0.0, 1.0, 2.0, 50.0]))
    assert shown.tolist() == EMBER[[0, 128, 255, 255]].tolist()


def test_oklab_of_white_and_grey() -> None:
    assert oklab_to_srgb(np.array([[1.0, 0, 0], [0.5998, 0, 0]])).tolist() == [[255] * 3, [128] * 3]


@pytest.mark.parametrize("limits", [(1.0, 1.0), (2.0, 1.0), (0.0, np.nan), (0.0, np.inf)])
def test_scales_need_a_range(limits: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="low < high"):
        grey(*limits)
