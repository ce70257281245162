"""What counts as divergence: values that are not finite, and residuals that grow a thousandfold."""

import pytest
import torch
from sampler_doubles import BatchNoise, dense_problem

from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.samplers.base import Status
from recon.samplers.dps import DPS
from recon.samplers.guard import CHECK_EVERY, GROWTH, FiniteGuard

SHAPE = (2, 4, 4)


def test_each_sample_keeps_its_own_last_good_estimate():
    guard = FiniteGuard(torch.zeros(3, 2))
    guard.keep(torch.full((3, 2), 1.0), torch.tensor([0.5, 4.0, 4.0]))
    assert not guard.broken()
    # 0.5 counts as 1: below the noise's own residual nothing grows
    guard.keep(torch.full((3, 2), 2.0), torch.tensor([0.9 * GROWTH, 3.9 * GROWTH, 4.1 * GROWTH]))
    assert guard.alive.tolist() == [True, True, False]
    bad = torch.full((3, 2), 3.0)
    bad[1, 0] = float("nan")
    guard.keep(bad, torch.tensor([1.0, 1.0, 1.0]))
    assert guard.last.tolist() == [[3.0, 3.0], [2.0, 2.0], [1.0, 1.0]]
    guard.keep(torch.full((3, 2), 4.0))
    assert guard.last[:, 0].tolist() == [4.0, 2.0, 1.0] and guard.broken()


def test_a_residual_that_is_not_a_number_is_left_to_the_values():
    guard = FiniteGuard(torch.zeros(1, 2))
    guard.keep(torch.ones(1, 2), torch.tensor([1.0]))
    guard.keep(2 * torch.ones(1, 2), torch.tensor([float("nan")]))
    assert not guard.broken()
    guard.keep(3 * torch.ones(1, 2), torch.tensor([float("inf")]))
    assert guard.broken() and guard.last[0, 0] == 2


def test_a_growing_residual_stops_early_while_values_are_finite():
    problem, seen = dense_problem(12, SHAPE, torch.float64), []
    prior = GaussianPrior(power_law_spectrum(SHAPE, 2.0, 0.5))
    result = DPS(steps=200, zeta=1e9, clip=False).sample(prior, problem, None, BatchNoise(0), (2, *SHAPE), seen.append)
    assert result.status is Status.DIVERGED and len(seen) == CHECK_EVERY
    assert bool(seen[-1].x0.isfinite().all())
    assert float(result.stats.residuals[-1].min()) > GROWTH * float(result.stats.residuals[0].max())
    # what is kept is what was there before
    residual = problem.likelihood.residual(problem.operator.forward(result.samples), problem.y, 12)
    assert bool((residual <= GROWTH * result.stats.residuals[0].clamp_min(1)).all())


@pytest.mark.parametrize("zeta", [0.0, 0.3])
def test_good_runs_are_left_alone(zeta):
    problem = dense_problem(12, SHAPE, torch.float64, sigma=1e-6)
    prior = GaussianPrior(power_law_spectrum(SHAPE, 2.0, 0.5))
    result = DPS(steps=100, zeta=zeta).sample(prior, problem, None, BatchNoise(0), (2, *SHAPE))
    assert result.status is Status.OK
