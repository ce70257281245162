"""A baseline at the weight that the truth chooses beats its default weight, and names without a weight are refused."""

from __future__ import annotations

import numpy as np
import pytest

from recon.config.resolve import resolve
from recon.data import Geometry, Volume, to_stack
from recon.errors import ConfigError
from recon.runs.execute import execute
from recon.runs.oracle import WEIGHTS, oracle_baseline
from recon.runs.plan import make_plan
from recon.runs.simulate import simulate


@pytest.fixture
def truth() -> Volume:
    image = np.zeros((24, 32), np.float32)
    image[6:18, 8:24] = 200.0
    return Volume(image, Geometry(axes=("y", "x"), value_range=(0.0, 255.0)))


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_oracle_is_at_least_as_near_as_the_default_weight(truth: Volume, name: str) -> None:
    config = resolve("problems/denoise", method=name, environ={}).config
    plan = make_plan(config, simulate(truth, config))
    found, weight = oracle_baseline(plan, truth, name)
    assert weight > 0
    target = to_stack(truth)
    assert np.square(found - target).mean() <= 1.001 * np.square(execute(plan).mean - target).mean()


def test_a_baseline_without_a_weight_is_refused(truth: Volume) -> None:
    config = resolve("problems/denoise", method="cg", environ={}).config
    with pytest.raises(ConfigError, match="'cg'"):
        oracle_baseline(make_plan(config, simulate(truth, config)), truth, "cg")
