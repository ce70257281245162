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


def test_the_oracle_takes_the_settings_of_its_plan_and_the_slices_of_a_volume_together() -> None:
    image = np.zeros((5, 16, 16), np.float32)
    image[:, 4:12, 5:11] = 1.0
    truth = Volume(image, Geometry(axes=("z", "y", "x"), value_range=(0.0, 1.0)))
    errors = {}
    for dimensions in (2, 3):
        sets = [f"method.dimensions={dimensions}", "method.iterations=60"]
        config = resolve("problems/denoise", method="tv", sets=sets, environ={}).config
        plan = make_plan(config, simulate(truth, config))
        found, _ = oracle_baseline(plan, truth, "tv")
        assert found.shape == (5, 1, 16, 16)
        errors[dimensions] = np.square(found - to_stack(truth)).mean()
        default = execute(plan).mean
        assert errors[dimensions] <= 1.001 * np.square(default - to_stack(truth)).mean()
    # slices that are all alike help each other
    assert errors[3] < 0.7 * errors[2]
