"""LGD against InverseBench's loop, and closed forms under Gaussian priors."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sampler_doubles import (
    BatchNoise,
    EpsNet,
    MaskedFourier,
    VPDenoiser,
    dense_problem,
    generator,
    relative,
)

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian
from recon.operators.inpaint import Inpaint
from recon.priors.base import Denoiser, Prediction, PriorInfo
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.samplers.base import SeededNoise, Status
from recon.samplers.lgd import LGD

SHAPE = (1, 2, 4, 4)
ROWS = 64  # more than unknowns: the residual stays away from 0, where its norm has a kink


def inverse_bench_form(prior, problem, noise, steps, draws, scale, sde):
    """InverseBench's scheduler and update in VP coordinates; yields x0hat of each step, then the final state."""
    t = np.linspace(1, 1e-3, steps)
    sigma = np.sqrt(np.exp(9.95 * t**2 + 0.1 * t) - 1)
    s = 1 / np.sqrt(1 + sigma**2)
    sigma_dot = (19.9 * t + 0.1) * (1 + sigma**2) / (2 * sigma)
    s_dot = -sigma * sigma_dot * s**3
    x = noise.normal(SHAPE, problem.y.dtype)
    for i in range(steps):
        x = x.detach().requires_grad_()
        rt = sigma[i] / np.sqrt(1 + sigma[i] ** 2)
        denoised = prior(x / s[i], sigma[i]).x0
        cloud = noise.normal((1, draws, *SHAPE[1:]), x.dtype)[0]
        samples = (denoised.detach() + rt * cloud).requires_grad_()
        loss = (problem.operator.forward(samples) - problem.y).square().flatten(1).sum(1).sum()
        (gradient,) = torch.autograd.grad(loss, samples)
        (grad,) = torch.autograd.grad(denoised, x, gradient.mean(0, keepdim=True))
        grad = grad * 0.5 / torch.sqrt(loss)
        d = denoised.detach()
        yield d
        if i == steps - 1:
            x = d - scale * grad
            break
        dt = t[i] - t[i + 1]
        f = 2 * s[i] ** 2 * sigma_dot[i] * sigma[i] * dt
        score = (d - x / s[i]) / sigma[i] ** 2 / s[i]
        drift = f * score + math.sqrt(f) * noise.normal(SHAPE, x.dtype) if sde else 0.5 * f * score
        x = x * (1 - s_dot[i] / s[i] * dt) + drift - scale * grad
    yield x.detach()


@pytest.mark.parametrize("sde", [True, False])
@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_matches_inverse_bench_step_by_step(sde, draws, dtype):
    prior = GaussianPrior(power_law_spectrum(SHAPE[1:], 2.0, 0.5))
    problem, seen = dense_problem(ROWS, SHAPE[1:], dtype), []
    method = LGD(steps=200, draws=draws, zeta=0.2, stochastic_steps=sde)
    result = method.sample(prior, problem, None, SeededNoise(5, [0]), SHAPE, lambda step: seen.append(step.x0.clone()))
    ours = [*seen, result.samples]
    theirs = list(inverse_bench_form(prior, problem, SeededNoise(5, [0]), 200, draws, 0.2, sde))
    assert len(ours) == len(theirs) == 201
    limit = 1e-8 if dtype == torch.float64 else 1e-4
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) < limit
    assert result.samples.dtype == dtype and result.status is Status.OK
    stats = result.stats
    assert (stats.nfe, stats.backprops, stats.operator_calls) == (200, 200, 400 * draws)


def unit_problem(sigma, value=0.8):
    shape = (1, 1, 1)
    y = torch.full((1, *shape), value)
    return shape, GaussianPrior(torch.ones(shape)), Problem(Inpaint(shape, torch.ones(1, 1)), y, Gaussian(sigma))


def test_log_mean_exp_tends_to_the_posterior_of_a_unit_prior():
    shape, prior, problem = unit_problem(0.5)
    mean, std = 0.8 / 1.25, math.sqrt(0.25 / 1.25)
    found = {}
    for draws in (1, 60):
        method = LGD(steps=300, grid="log", form="log-mean-exp", draws=draws)
        found[draws] = method.sample(prior, problem, None, BatchNoise(0), (3000, *shape)).samples.double()
    # standard errors: 0.008 of the mean, 1.3 % of the spread
    assert abs(float(found[60].mean()) - mean) < 0.03
    assert abs(float(found[60].std()) / std - 1) < 0.04
    # one draw guides by its own misfit, whose noise is not a posterior's
    assert abs(float(found[1].std()) / std - 1) > 0.05


@pytest.mark.parametrize("draws", [1, 4])
def test_log_mean_exp_is_that_of_the_likelihoods(draws):
    shape, batch = (1, 3, 3), 2
    problem = dense_problem(5, shape, torch.float64, sigma=0.7)
    z = torch.randn(batch * draws, 5, generator=generator(0), dtype=torch.float64)
    found = LGD(form="log-mean-exp", draws=draws)._loss(problem, z, problem.y)
    likely = (-((problem.y - z) ** 2).sum(1) / (2 * 0.49)).exp().reshape(batch, draws)
    assert torch.allclose(found, -likely.mean(1).log())


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("form", ["norm", "log-mean-exp"])
def test_sample_does_not_depend_on_its_batch(dtype, form):
    shape = (1, 6, 5)
    operator = MaskedFourier((torch.rand(6, 5, generator=generator(0)) < 0.5).float(), dtype)
    y = operator.forward(torch.randn(1, *shape, generator=generator(1), dtype=dtype))
    problem = Problem(operator, y, Gaussian(0.5))
    prior = GaussianPrior(power_law_spectrum(shape, 2.0, 0.5))
    method = LGD(steps=30, form=form, zeta=0.5 if form == "norm" else None)
    alone = method.sample(prior, problem, None, SeededNoise(11, [7]), (1, *shape)).samples
    batch = method.sample(prior, problem, None, SeededNoise(11, [5, 6, 7]), (3, *shape)).samples
    assert alone.dtype == dtype
    assert relative(batch[2:], alone) < 1e-4 and relative(batch[:1], alone) > 1e-2
    per_sample_y = replace(problem, y=y.expand(3, *y.shape[1:]).clone())
    again = method.sample(prior, per_sample_y, None, SeededNoise(11, [5, 6, 7]), (3, *shape)).samples
    assert relative(again, batch) < 1e-5


def test_nonlinear_operators_and_exact_data():
    shape = (1, 4, 4)
    problem = dense_problem(40, shape, torch.float64, linear=False)
    prior = GaussianPrior(power_law_spectrum(shape, 1.0, 1.0))
    truth = prior.sample(1, generator(8), torch.float64)
    problem = Problem(problem.operator, problem.operator.forward(truth), Gaussian(0.0))
    x = LGD(steps=200, zeta=1.0).sample(prior, problem, None, SeededNoise(0, [0]), (1, *shape)).samples
    guess = prior.sample(1, generator(9), torch.float64)

    def misfit(image):
        return relative(problem.operator.forward(image), problem.y)

    assert misfit(x) < 0.5 * misfit(guess)


def test_default_weights():
    shape, prior, problem = unit_problem(0.5)

    def run(**settings):
        return LGD(steps=20, **settings).sample(prior, problem, None, SeededNoise(0, [0]), (1, *shape)).samples

    assert torch.equal(run(), run(zeta=3e-3)) and not torch.equal(run(), run(zeta=1.0))
    assert torch.equal(run(form="log-mean-exp"), run(form="log-mean-exp", zeta=1.0))
    assert (LGD().steps, LGD().draws, LGD().network_calls) == (1000, 3, 1000)


def test_divergence_stops_early_and_returns_finite_values():
    seen = []

    class Explodes(Denoiser):
        info = PriorInfo(name="explodes", channels=2)

        def _denoise(self, x, sigma, cond):
            return Prediction(0.1 * x + (float("nan") if len(seen) >= 30 else 0.0))

    problem = dense_problem(20, SHAPE[1:], torch.float32)
    result = LGD(steps=100).sample(Explodes(), problem, None, SeededNoise(0, [0]), SHAPE, seen.append)
    assert result.status is Status.DIVERGED and result.stats.nfe == 50
    assert torch.equal(result.samples, seen[29].x0)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"draws": 0}, {"zeta": -1.0}, {"zeta": float("nan")}, {"grid": "x"}])
def test_settings_are_checked(bad):
    with pytest.raises(ConfigError):
        LGD(**bad)
    with pytest.raises(ConfigError, match="prior"):
        LGD().sample(None, dense_problem(3, SHAPE[1:], torch.float32), None, SeededNoise(0, [0]), SHAPE)


def test_grid_is_the_published_one():
    t = np.linspace(1, 1e-3, 1000)
    assert np.allclose(schedules.grid(LGD().grid, 1000)[:-1], np.sqrt(np.expm1(9.95 * t**2 + 0.1 * t)))


def test_learned_network_runs():
    prior, problem = VPDenoiser(EpsNet(2, True)), dense_problem(ROWS, SHAPE[1:], torch.float64)
    result = LGD(steps=20, grid="vp").sample(prior, problem, None, SeededNoise(0, [0]), SHAPE)
    assert result.status is Status.OK and len(result.stats.residuals) == 20
