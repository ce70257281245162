"""DPS-GSG against the authors' VP loop, against DPS, and with black boxes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sampler_doubles import BatchNoise, MaskedFourier, dense_problem, generator, relative
from torch import Tensor

from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian
from recon.operators.base import Operator
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.samplers.base import SeededNoise, Status
from recon.samplers.dps import DPS
from recon.samplers.gsg import DPSGSG

SHAPE = (1, 2, 4, 4)
PRIOR = GaussianPrior(power_law_spectrum(SHAPE[1:], 2.0, 0.5))


def published_form(prior, problem, noise, steps, scale, queries, batch, mu, central, sde):
    """The authors' scheduler and update in VP coordinates; yields x0hat of each step, then the final state."""
    t = np.linspace(1, 1e-3, steps)
    sigma = np.sqrt(np.exp(9.95 * t**2 + 0.1 * t) - 1)
    s = 1 / np.sqrt(1 + sigma**2)
    sigma_dot = (19.9 * t + 0.1) * (1 + sigma**2) / (2 * sigma)
    s_dot = -sigma * sigma_dot * s**3

    def loss(x0):
        return (problem.operator.forward(x0) - problem.y).square().flatten(1).sum(1)

    x = noise.normal(SHAPE, problem.y.dtype)
    for i in range(steps):
        x = x.detach().requires_grad_()
        denoised = prior(x / s[i], sigma[i]).x0
        d = denoised.detach()
        yield d
        grad_est, base = torch.zeros_like(d), loss(d)
        rounds = queries // (batch * 2) if central else queries // batch
        for _ in range(rounds):
            u = noise.normal((1, batch, *SHAPE[1:]), d.dtype)[0]
            if central:
                diff = loss(d + mu * u) - loss(d - mu * u)
                grad_est += (u * (diff / (mu * rounds * batch * 2)).reshape(batch, 1, 1, 1)).sum(0)
            else:
                diff = loss(d + mu * u) - base
                grad_est += (u * (diff / (mu * rounds * batch)).reshape(batch, 1, 1, 1)).sum(0)
        (ll_grad,) = torch.autograd.grad(denoised, x, grad_est)
        ll_grad = ll_grad * 0.5 / torch.sqrt(base)
        if i == steps - 1:
            x = d - scale * ll_grad
            break
        dt = t[i] - t[i + 1]
        f = 2 * s[i] ** 2 * sigma_dot[i] * sigma[i] * dt
        score = (d - x / s[i]) / sigma[i] ** 2 / s[i]
        drift = f * score + math.sqrt(f) * noise.normal(SHAPE, x.dtype) if sde else 0.5 * f * score
        x = x * (1 - s_dot[i] / s[i] * dt) + drift - scale * ll_grad
    yield x.detach()


@pytest.mark.parametrize("difference", ["central", "forward"])
@pytest.mark.parametrize("sde", [True, False])
def test_matches_the_published_loop_step_by_step(difference, sde):
    problem, seen = dense_problem(64, SHAPE[1:], torch.float64), []
    central = difference == "central"
    method = DPSGSG(
        steps=100, zeta=0.2, queries=24, batch=12 if central else 6, difference=difference, stochastic_steps=sde
    )
    result = method.sample(PRIOR, problem, None, SeededNoise(5, [0]), SHAPE, lambda step: seen.append(step.x0.clone()))
    ours = [*seen, result.samples]
    theirs = list(published_form(PRIOR, problem, SeededNoise(5, [0]), 100, 0.2, 24, 6, 0.01, central, sde))
    assert len(ours) == len(theirs) == 101
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) < 1e-8
    stats = result.stats
    assert (stats.nfe, stats.backprops, stats.operator_calls) == (100, 100, 2500)


def test_many_directions_give_dps():
    problem = dense_problem(64, SHAPE[1:], torch.float64)
    exact = DPS(steps=30, grid="vp-continuous", form="ode", zeta=0.3, clip=False)
    reference = exact.sample(PRIOR, problem, None, SeededNoise(1, [0]), SHAPE).samples
    errors = []
    for queries in (20, 2000):
        method = DPSGSG(steps=30, zeta=0.3, queries=queries, batch=2000, stochastic_steps=False)
        errors.append(relative(method.sample(PRIOR, problem, None, SeededNoise(1, [0]), SHAPE).samples, reference))
    assert errors[1] < 0.05 and errors[1] < 0.3 * errors[0]


class BlackBox(Operator):
    """Complex data of a model that only says its values."""

    differentiable = False

    def __init__(self, base: Operator) -> None:
        self.base, self.in_shape, self.out_shape = base, base.in_shape, base.out_shape
        self.in_dtype, self.out_dtype, self.support = base.in_dtype, base.out_dtype, base.support
        self.asked = 0

    def _forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return torch.from_numpy(self.base.forward(x.detach()).numpy().copy())


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float32])
def test_black_boxes_of_complex_data_are_fitted(dtype):
    shape = (1, 6, 5)
    base = MaskedFourier((torch.rand(6, 5, generator=generator(0)) < 0.6).float(), dtype)
    prior = GaussianPrior(power_law_spectrum(shape, 2.0, 0.5))
    box = BlackBox(base)
    problem = Problem(box, base.forward(prior.sample(1, generator(1), dtype)), Gaussian(0.05))
    method = DPSGSG(steps=150, zeta=0.3, queries=200)
    result = method.sample(prior, problem, None, SeededNoise(0, range(3)), (3, *shape))
    free = replace(method, zeta=0.0).sample(prior, problem, None, SeededNoise(0, range(3)), (3, *shape))
    assert result.status is Status.OK and result.samples.dtype == dtype
    assert box.asked == 3 * (result.stats.operator_calls + free.stats.operator_calls)
    assert float(result.stats.residuals[-1].mean()) < 0.4 * float(free.stats.residuals[-1].mean())


def test_a_sample_does_not_depend_on_its_batch():
    problem = dense_problem(12, SHAPE[1:], torch.float64)
    method = DPSGSG(steps=20, queries=10, zeta=0.3)
    alone = method.sample(PRIOR, problem, None, SeededNoise(11, [7]), SHAPE).samples
    several = method.sample(PRIOR, problem, None, SeededNoise(11, [5, 6, 7]), (3, *SHAPE[1:])).samples
    assert relative(several[2:], alone) < 1e-10 and relative(several[:1], alone) > 1e-2
    each = replace(problem, y=problem.y.expand(3, -1).clone())
    again = method.sample(PRIOR, each, None, SeededNoise(11, [5, 6, 7]), (3, *SHAPE[1:])).samples
    assert relative(again, several) < 1e-10


def test_what_cannot_work_is_refused():
    for settings in ({"steps": 0}, {"queries": 1}, {"batch": 0}, {"mu": 0.0}, {"zeta": -1.0}):
        with pytest.raises(ConfigError, match="dps-gsg needs"):
            DPSGSG(**settings)
    with pytest.raises(ConfigError, match="needs a prior"):
        DPSGSG().sample(None, dense_problem(3, SHAPE[1:], torch.float64), None, BatchNoise(0), SHAPE)


def test_divergence_is_noticed():
    problem = dense_problem(12, SHAPE[1:], torch.float64)
    broken = replace(problem, y=torch.full_like(problem.y, float("nan")))
    result = DPSGSG(steps=60, queries=4).sample(PRIOR, broken, None, SeededNoise(0, [0]), SHAPE)
    assert result.status is Status.DIVERGED and bool(torch.isfinite(result.samples).all())
