"""Flat-field and dark correction, and the logarithm."""

import numpy as np
import pytest

from recon.errors import InputError
from recon.operators.attenuation import line_integrals


def test_counts_become_the_attenuation_that_made_them():
    depth = np.random.default_rng(0).uniform(0, 4, (3, 5))
    flat, dark = np.linspace(900, 1200, 5), np.linspace(5, 9, 5)
    assert np.allclose(line_integrals(dark + (flat - dark) * np.exp(-depth), flat, dark), depth)
    assert np.allclose(line_integrals(100 * np.exp(-depth), 100.0), depth)


def test_rays_without_counts_stay_finite():
    found = line_integrals(np.array([0.0, 3.0, 4.0]), 1004.0, 4.0)
    assert np.allclose(found, np.log(2000))


@pytest.mark.parametrize(
    "raw, flat, dark, message",
    [
        (np.ones((2, 3)), np.ones(2), 0.0, "flat field has shape"),
        (np.ones(3), np.ones((2, 3)), 0.0, "flat field has shape"),
        (np.ones(3), 2.0, np.ones((2, 3)), "dark field has shape"),
        (np.array([1, np.nan]), 2.0, 0.0, "NaN"),
        (np.ones(3), np.array([2.0, 1.0, 2.0]), 1.0, "not above"),
    ],
)
def test_fields_that_cannot_be_meant_are_refused(raw, flat, dark, message):
    with pytest.raises(InputError, match=message):
        line_integrals(raw, flat, dark)
