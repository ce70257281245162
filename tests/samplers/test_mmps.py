"""MMPS against the authors' loop, and against exact posteriors of Gaussian priors."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from sampler_doubles import (
    BatchNoise,
    Dense,
    EpsNet,
    MaskedFourier,
    MultiCoil,
    VPDenoiser,
    dense_problem,
    generator,
    relative,
)

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian, Poisson
from recon.priors.base import Denoiser, Prediction, PriorInfo
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.priors.mixture import MixturePrior
from recon.samplers.base import SeededNoise, Stats, Status
from recon.samplers.gradient import Traced
from recon.samplers.mmps import MMPS, MomentMatched

SHAPE = (1, 1, 6, 6)


def authors_cg(matrix, b, iterations):
    """Textbook conjugate gradients from zero."""
    x, r = torch.zeros_like(b), b
    p, old = r, (r * r).sum()
    for _ in range(iterations):
        mp = matrix(p)
        alpha = old / (p * mp).sum()
        x, r = x + alpha * p, r - alpha * mp
        new = (r * r).sum()
        p, old = r + new / old * p, new
    return x


def authors_form(prior, problem, noise, sigmas, iterations, eta):
    """The published posterior denoiser within DDPM (eta = 1) or DDIM (eta = 0); yields its x0 of each step."""
    a, at = problem.operator.forward, problem.operator.adjoint
    x = sigmas[0] * noise.normal(SHAPE, problem.y.dtype)
    for t, s in pairwise(sigmas):
        x0, vjp = torch.func.vjp(lambda u, t=t: prior(u, t).x0, x)
        v = authors_cg(
            lambda u, vjp=vjp, t=t: problem.likelihood.sigma**2 * u + t**2 * a(vjp(at(u))[0]),
            problem.y - a(x0),
            iterations,
        )
        x0 = x0 + t**2 * vjp(at(v))[0]
        yield x0
        tau = 1 - (s / t) ** 2
        if eta == 1:
            x = x - tau * (x - x0)
            if s > 0:
                x = x + s * math.sqrt(tau) * noise.normal(SHAPE, x.dtype)
        else:
            x = x - (1 - s / t) * (x - x0)


def two_modes():
    """A mixture of two images with pixelwise variances: a non-linear denoiser with an exact Jacobian."""
    means = torch.randn(2, *SHAPE[1:], generator=generator(6), dtype=torch.float64)
    return MixturePrior(torch.ones(2), 0.3 * means, torch.rand(means.shape, generator=generator(7)) + 0.2)


def run_recording(method, prior, problem, noise, shape):
    seen = []
    result = method.sample(prior, problem, None, noise, shape, lambda step: seen.append(step.x0.clone()))
    return seen, result


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_matches_the_authors_code_step_by_step(iterations, eta, dtype):
    # conjugate gradients need the symmetric Jacobian of an exact denoiser, one step along the misfit does not
    prior = VPDenoiser(EpsNet(1, False)) if iterations == 1 else two_modes()
    problem = dense_problem(20, SHAPE[1:], dtype, sigma=0.2)
    method = MMPS(steps=40, eta=eta, iterations=iterations)
    ours, result = run_recording(method, prior, problem, SeededNoise(3, [0]), SHAPE)
    sigmas = schedules.grid("log", 40)
    theirs = list(authors_form(prior, problem, SeededNoise(3, [0]), sigmas, iterations, eta))
    assert len(ours) == len(theirs) == 40
    limit = 1e-8 if dtype == torch.float64 else 1e-4
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) < limit
    assert torch.equal(result.samples, ours[-1]) and result.samples.dtype == dtype
    assert result.status is Status.OK


def scalar_problem():
    """The scalar case that other libraries were measured on: exact posterior N(.6385, .0832^2)."""
    shape = (1, 8, 8)
    problem = Problem(Dense(torch.eye(64), shape), torch.full((1, 64), 0.7), Gaussian(0.1))
    return GaussianPrior(torch.full(shape, 0.15**2), 0.5), problem


@pytest.mark.parametrize(
    ("integrator", "steps", "narrowing"),
    [("ddim", 64, 0.10), ("ddim", 400, 0.02), ("heun", 40, 0.01), ("dpm++2m", 64, 0.01), ("sde", 400, 0.015)],
)
def test_scalar_posterior_is_reached_as_steps_grow(integrator, steps, narrowing):
    prior, problem = scalar_problem()
    method = MMPS(steps=steps, integrator=integrator)
    x = method.sample(prior, problem, None, BatchNoise(4), (500, 1, 8, 8)).samples.double()
    mean, std = 0.6384615, 0.0832050
    # 32000 pixels: standard errors .0005 of the mean and .4 % of the spread; the start misses the prior's mean
    assert abs(float(x.mean()) - mean) < 0.0025
    assert abs(float(x.std()) / std - 1) < narrowing + 0.012
    if steps == 64 and integrator == "ddim":
        assert float(x.std()) < 0.95 * std  # 64 ancestral steps lose variance


def matched(prior, problem, iterations=60, **settings):
    stats = Stats()
    return MomentMatched(prior, problem, MMPS(iterations=iterations, **settings), stats), stats


@pytest.mark.parametrize("sigma", [0.05, 1.0, 30.0])
def test_denoiser_is_the_exact_posterior_one_for_masked_fourier_data(sigma):
    shape = (1, 6, 6)
    mask = (torch.rand(6, 6, generator=generator(0)) < 0.5).double()
    prior = GaussianPrior(power_law_spectrum(shape, 2.0, 0.5), torch.tensor(0.2 + 0.1j))
    truth = prior.sample(1, generator(1), torch.complex128)
    operator = MaskedFourier(mask, torch.complex128)
    noise = torch.randn(truth.shape, generator=generator(2), dtype=torch.complex128)
    y = operator.forward(truth) + 0.1 * mask * noise
    exact = prior.posterior(operator.adjoint(y)[0], 0.1, mask[None].to(torch.complex128))
    x = truth + sigma * torch.randn(3, *shape, generator=generator(3), dtype=torch.complex128)
    with torch.no_grad():
        found = matched(prior, Problem(operator, y, Gaussian(0.1)))[0](x, sigma).x0
    assert relative(found, exact(x, sigma).x0) < 1e-6
    assert relative(prior(x, sigma).x0, exact(x, sigma).x0) > 0.003


@pytest.mark.parametrize("sigma", [0.1, 2.0])
def test_denoiser_is_the_exact_posterior_one_for_any_covariance(sigma):
    shape, size = (1, 3, 4), 12
    root = torch.randn(size, size, generator=generator(0), dtype=torch.float64)
    prior = MixturePrior(torch.ones(1), torch.ones(1, *shape), (root @ root.T / size)[None])
    problem = dense_problem(7, shape, torch.float64, sigma=0.3)
    x = torch.randn(2, *shape, generator=generator(3), dtype=torch.float64) * sigma
    with torch.no_grad():
        found = matched(prior, problem)[0](x, sigma).x0
    assert relative(found, prior.posterior(problem.operator, problem.y, 0.3)(x, sigma).x0) < 1e-6


def test_samples_have_the_posterior_mean_and_spectrum():
    shape = (1, 8, 8)
    spectrum = power_law_spectrum(shape, 2.0, 0.5)
    prior = GaussianPrior(spectrum)
    y = prior.sample(1, generator(4)) + 0.2 * torch.randn(1, *shape, generator=generator(5))
    problem = Problem(Dense(torch.eye(64), shape), y.reshape(1, 64), Gaussian(0.2))
    method = MMPS(steps=40, integrator="heun", iterations=12)
    x = method.sample(prior, problem, None, BatchNoise(2), (600, *shape)).samples.double()
    exact = prior.posterior(y[0], 0.2)
    assert relative(x.mean(0), exact.mean) < 0.06  # 600 samples
    power = (torch.fft.fft2(x - x.mean(0), norm="ortho").abs() ** 2).mean(0) / exact.spectrum
    assert abs(float(power.mean()) - 1) < 0.02
    assert float(power.log().abs().max()) < 0.3


def test_exact_data_are_fitted():
    shape = (1, 6, 6)
    prior = GaussianPrior(power_law_spectrum(shape, 1.0, 0.5))
    mask = (torch.rand(6, 6, generator=generator(0)) < 0.5).float()
    operator = MaskedFourier(mask, torch.complex64)
    y = operator.forward(prior.sample(1, generator(1), torch.complex64))
    problem = Problem(operator, y, Gaussian(0.0))
    result = MMPS(steps=30, iterations=8).sample(prior, problem, None, SeededNoise(0, [0, 1]), (2, *shape))
    assert relative(operator.forward(result.samples), y.expand(2, *y.shape[1:])) < 5e-3
    assert relative(result.samples[:1], result.samples[1:]) > 0.05


def test_counts_have_the_variance_of_their_rate():
    shape = (1, 2, 4)
    prior = GaussianPrior(torch.full(shape, 0.09), 1.0)
    matrix = torch.eye(8, dtype=torch.float64)
    counts = Poisson(gain=20.0, scale=1.0, offset=torch.zeros(1, 8, dtype=torch.float64))
    y = torch.rand(1, 8, generator=generator(1), dtype=torch.float64) + 0.5
    with torch.no_grad():
        x = torch.full((1, *shape), 1.2, dtype=torch.float64)
        found = matched(prior, Problem(Dense(matrix, shape), y, counts))[0](x, 0.4).x0.flatten()
        x0 = prior(x, 0.4).x0.flatten()
    variance = 1 / (1 / 0.09 + 1 / 0.16)
    assert relative(found, x0 + variance / (variance + x0 / 20) * (y[0] - x0)) < 1e-6


def test_nonlinear_operators_are_linearised():
    shape = (1, 4, 4)
    problem = dense_problem(10, shape, torch.float64, sigma=0.1, linear=False)
    prior = GaussianPrior(power_law_spectrum(shape, 1.0, 0.5))
    x = torch.randn(1, *shape, generator=generator(5), dtype=torch.float64)
    with torch.no_grad():
        found = matched(prior, problem)[0](x, 0.5).x0
    x0 = prior(x, 0.5).x0
    slope = torch.autograd.functional.jacobian(problem.operator.forward, x0).reshape(10, 16)
    jacobian = torch.autograd.functional.jacobian(lambda u: prior(u, 0.5).x0, x).reshape(16, 16)
    spread = 0.25 * jacobian @ slope.T
    weights = torch.linalg.solve(slope @ spread + 0.01 * torch.eye(10), (problem.y - problem.operator.forward(x0))[0])
    assert relative(found, x0 + (spread @ weights).reshape(x.shape)) < 1e-6
    truth = prior.sample(1, generator(8), torch.float64)
    problem = replace(problem, y=problem.operator.forward(truth))
    result = MMPS(steps=40, iterations=5).sample(prior, problem, None, SeededNoise(0, [0]), (1, *shape))
    assert relative(problem.operator.forward(result.samples), problem.y) < 0.3


def test_multi_coil_and_values_off_the_support():
    size = 6
    coils = torch.randn(3, size, size, generator=generator(2), dtype=torch.complex128)
    mask = (torch.rand(size, size, generator=generator(3)) < 0.4).double()
    operator = MultiCoil(mask, coils)
    prior = GaussianPrior(power_law_spectrum((1, size, size), 1.0, 1.0))
    y = torch.randn(1, 3, size, size, generator=generator(4), dtype=torch.complex128)
    x = torch.randn(1, 1, size, size, generator=generator(5), dtype=torch.complex128)
    with torch.no_grad():
        found = matched(prior, Problem(operator, y, Gaussian(0.3)), 80)[0](x, 0.7).x0
    units = torch.eye(size * size, dtype=torch.complex128).reshape(-1, 1, size, size)
    matrix = operator.forward(units).flatten(1).T
    covariance = 0.49 * prior(units, 0.7).x0.flatten(1).T
    x0 = prior(x, 0.7).x0.flatten()
    total = matrix @ covariance @ matrix.mH + 0.09 * torch.eye(len(matrix))
    misfit = (mask * y).flatten() - matrix @ x0
    assert relative(found.flatten(), x0 + covariance @ matrix.mH @ torch.linalg.solve(total, misfit)) < 1e-5


@pytest.mark.parametrize("integrator", ["ddim", "heun", "pc"])
@pytest.mark.parametrize("warm_start", [False, True])
def test_counts_are_true(integrator, warm_start, monkeypatch):
    evaluations, pulls = [], []
    inner, shape = GaussianPrior(power_law_spectrum((1, 6, 6), 1.0, 0.5)), (2, 1, 6, 6)

    class Counted(Denoiser):
        info = PriorInfo(name="counted", channels=1)

        def _denoise(self, x, sigma, cond):
            evaluations.append(1)
            return Prediction(inner(x, sigma).x0)

    pull = Traced.pull
    monkeypatch.setattr(Traced, "pull", lambda self, v, keep=False: (pulls.append(1), pull(self, v, keep))[1])
    method = MMPS(steps=10, integrator=integrator, iterations=3, warm_start=warm_start)
    problem = dense_problem(20, (1, 6, 6), torch.float32)
    stats = method.sample(Counted(), problem, None, SeededNoise(0, [0, 1]), shape).stats
    assert stats.nfe == len(evaluations) == method.network_calls == len(stats.residuals)
    assert stats.nfe == {"ddim": 10, "heun": 19, "pc": 20}[integrator]
    assert stats.backprops == len(pulls) == 3 * stats.nfe
    assert stats.operator_calls == 7 * stats.nfe


def test_a_warm_start_repeats_the_last_answer():
    prior = GaussianPrior(power_law_spectrum((1, 6, 6), 2.0, 0.5))
    problem = dense_problem(30, (1, 6, 6), torch.float64, sigma=0.05)
    x = torch.randn(1, 1, 6, 6, generator=generator(0), dtype=torch.float64)
    exact = matched(prior, problem, 200)[0]
    with torch.no_grad():
        target = exact(x, 0.3).x0
        errors = {}
        for warm in (False, True):
            denoiser = matched(prior, problem, 4, warm_start=warm)[0]
            errors[warm] = [relative(denoiser(x, 0.3).x0, target) for _ in range(8)]
    assert errors[False][0] == errors[False][-1] == errors[True][0]
    assert errors[True][-1] < 0.5 * errors[True][0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_sample_does_not_depend_on_its_batch(dtype):
    shape = (1, 6, 5)
    mask = (torch.rand(6, 5, generator=generator(0)) < 0.5).float()
    operator = MaskedFourier(mask, dtype)
    problem = Problem(
        operator, operator.forward(torch.randn(1, *shape, generator=generator(1), dtype=dtype)), Gaussian(0.1)
    )
    prior = GaussianPrior(power_law_spectrum((1, 6, 5), 2.0, 0.5))
    method = MMPS(steps=20, iterations=2, warm_start=True)
    alone = method.sample(prior, problem, None, SeededNoise(11, [7]), (1, *shape)).samples
    batch = method.sample(prior, problem, None, SeededNoise(11, [5, 6, 7]), (3, *shape)).samples
    assert alone.dtype == dtype
    assert relative(batch[2:], alone) < 1e-4 and relative(batch[:1], alone) > 1e-2
    per_sample_y = replace(problem, y=problem.y.expand(3, *problem.y.shape[1:]).clone())
    again = method.sample(prior, per_sample_y, None, SeededNoise(11, [5, 6, 7]), (3, *shape)).samples
    assert relative(again, batch) < 1e-5


def test_divergence_stops_early_and_returns_finite_values():
    seen = []

    class Explodes(Denoiser):
        info = PriorInfo(name="explodes", channels=1)

        def _denoise(self, x, sigma, cond):
            return Prediction(0.1 * x + (float("inf") if len(seen) >= 30 else 0.0))

    problem = dense_problem(20, (1, 6, 6), torch.float32)
    result = MMPS(steps=100).sample(Explodes(), problem, None, SeededNoise(0, [0]), SHAPE, seen.append)
    assert result.status is Status.DIVERGED and result.stats.nfe == 50
    assert torch.equal(result.samples, seen[29].x0)


@pytest.mark.parametrize(
    "bad",
    [{"steps": 0}, {"iterations": 0}, {"eta": 1.1}, {"floor": 0.0}, {"integrator": "midpoint"}, {"grid": "x"}],
)
def test_settings_are_checked(bad):
    with pytest.raises(ConfigError):
        MMPS(**bad)
    with pytest.raises(ConfigError, match="prior"):
        MMPS().sample(None, dense_problem(3, (1, 6, 6), torch.float32), None, SeededNoise(0, [0]), SHAPE)


def test_defaults_are_the_published_ones():
    assert (MMPS().steps, MMPS().iterations, MMPS().eta, MMPS().network_calls) == (64, 1, 1.0, 64)
    assert np.allclose(np.diff(np.log(schedules.grid(MMPS().grid, 64)[:-1])), np.log(1e-4) / 63)
