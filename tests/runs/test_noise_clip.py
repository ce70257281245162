"""Data cut at black and white, as DPS cuts them around its Poisson noise."""

import numpy as np
import pytest

from recon.config.schema import Config
from recon.data import Geometry, Volume
from recon.errors import InputError
from recon.runs.simulate import simulate

GEOMETRY = Geometry(("y", "x"), value_range=(0.0, 2.0))
IMAGE = np.random.default_rng(0).uniform(0, 2, (24, 20)).astype(np.float32)


def measured(operator: str = "denoise", **noise):
    config = Config.model_validate({"operator": {"kind": operator}, "method": {"name": "cg"}, "noise": noise})
    return simulate(Volume(IMAGE, GEOMETRY), config).y


@pytest.mark.parametrize("noise", [{"kind": "poisson", "peak": 5.0}, {"kind": "gaussian", "sigma": 0.3}])
def test_clipped_noise_is_the_same_noise_cut_at_black_and_white(noise):
    free, cut = measured(**noise), measured(**noise, clip=True)
    assert free.max() > 2 and np.array_equal(cut, free.clip(0, 2)) and cut.dtype == free.dtype


def test_poisson_counts_are_those_of_clipped_rates():
    # the published order: clamp to [0, 1], Poisson(peak x)/peak, clamp
    rate = IMAGE / 2
    counts = np.random.default_rng([0, 1, 0]).poisson(5.0 * rate.clip(0, 1)[None]) / 5.0
    np.testing.assert_allclose(measured(kind="poisson", peak=5.0, clip=True)[0], 2 * counts.clip(0, 1), atol=1e-5)


def test_complex_data_have_no_black_and_white():
    with pytest.raises(InputError, match="complex"):
        measured("mri", kind="gaussian", sigma=0.1, clip=True)
