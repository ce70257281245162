"""Every baseline by its name: settings, capabilities, and one contract."""

import pytest
import torch
from baseline_problems import blocks, denoising, solve

from recon.errors import ConfigError
from recon.operators.denoise import Identity
from recon.runs.methods import BASELINES, make_method, method_class, missing_needs
from recon.samplers.base import Status


@pytest.mark.parametrize("name", BASELINES)
def test_runs_without_settings_and_keeps_the_contract(name: str) -> None:
    method = make_method(name, {})
    assert (method.uses_prior, method.stochastic, method.network_calls) == (False, False, 0)
    assert missing_needs(method_class(name), Identity((1, 24, 20))) == []
    problem = denoising(blocks()[1])
    kept = problem.y.clone()
    result = solve(method, problem, batch=2)
    assert result.samples.shape == (2, 1, 24, 20)
    assert torch.equal(result.samples[0], result.samples[1])
    assert torch.equal(problem.y, kept)
    assert result.status is Status.OK
    assert result.stats.operator_calls > 0 and result.stats.nfe == 0
    assert (result.samples - problem.y).square().mean() < 0.1


@pytest.mark.parametrize("name", BASELINES)
def test_values_that_are_not_finite_are_reported(name: str) -> None:
    problem = denoising(torch.full((1, 1, 16, 16), torch.nan))
    assert solve(make_method(name, {}), problem).status is Status.DIVERGED


def test_bad_settings_are_configuration_errors() -> None:
    for name, settings in (("tv", {"weight": -1}), ("tv", {"wieght": 1}), ("cg", {"iterations": "many"})):
        with pytest.raises(ConfigError):
            make_method(name, settings)
