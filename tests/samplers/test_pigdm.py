"""PiGDM against the loops of RED-diff and InverseBench, and closed forms under Gaussian priors."""

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
    VPDenoiser,
    dense_problem,
    generator,
    relative,
)

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian, Poisson
from recon.operators.inpaint import Inpaint
from recon.priors.base import Denoiser, Prediction, PriorInfo
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.samplers.base import SeededNoise, Status
from recon.samplers.pigdm import PiGDM

SHAPE = (1, 1, 6, 6)


def red_diff_form(net, operator, pinv, y, noise, steps, eta, inpaint):
    """The published VP loop (noise-free); yields the x0hat that each step starts its renoising from."""
    ab_all = schedules.vp_alpha_bars()
    times = [k * (1000 // steps) for k in range(steps)]
    ab = ab_all[times[-1]]
    x = math.sqrt(ab) * pinv(y) + math.sqrt(1 - ab) * noise.normal(SHAPE, y.dtype)
    for t, s in zip(reversed(times), [*reversed(times[:-1]), -1], strict=True):
        ab_t, ab_s = ab_all[t], ab_all[s] if s >= 0 else 1.0
        c1 = math.sqrt((1 - ab_t / ab_s) * (1 - ab_s) / (1 - ab_t)) * eta
        c2 = math.sqrt(1 - ab_s - c1**2)
        x = x.detach().requires_grad_()
        e = net(x, t)
        x0 = (x - math.sqrt(1 - ab_t) * e) / math.sqrt(ab_t)
        mat = (pinv(y) - pinv(operator.forward(x0))).detach()
        (g,) = torch.autograd.grad((mat * x0).sum(), x)
        x0, e = x0.detach(), e.detach()
        if inpaint:
            x0 = x0 * (1 - operator.mask) + y * operator.mask
            g = g * (1 - operator.mask)
        yield x0
        fresh = noise.normal(SHAPE, y.dtype) if s >= 0 and eta > 0 else 0.0
        x = (math.sqrt(ab_s) * x0 + c1 * fresh + c2 * e + math.sqrt(ab_s * ab_t) * g).detach()
    yield x


def run_recording(method, prior, problem, noise, x_init=None):
    seen = []
    result = method.sample(prior, problem, x_init, noise, SHAPE, lambda step: seen.append(step.x0.clone()))
    return [*seen, result.samples], result


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("inpaint", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_matches_the_red_diff_code_step_by_step(eta, inpaint, dtype):
    net = EpsNet(1, False)
    if inpaint:
        operator = Inpaint(SHAPE[1:], (torch.rand(6, 6, generator=generator(0)) < 0.5).float()).to(dtype=dtype)
        y = operator.forward(torch.randn(SHAPE, generator=generator(1), dtype=torch.float64).to(dtype))
        problem = Problem(operator, y, Gaussian(0.0))

        def pinv(v):
            return operator.pinv(v)
    else:
        problem = dense_problem(12, SHAPE[1:], dtype)
        operator, y = problem.operator, problem.y
        inverse = torch.linalg.pinv(operator.matrix)

        def pinv(v):
            return (v @ inverse.T).reshape(SHAPE)

    method = PiGDM(eta=eta, form="noise-free", project=inpaint, iterations=60)
    ours, result = run_recording(method, VPDenoiser(net), problem, SeededNoise(3, [0]), pinv(y))
    theirs = list(red_diff_form(net, operator, pinv, y, SeededNoise(3, [0]), 100, eta, inpaint))
    assert len(ours) == len(theirs) == 101
    limit = (1e-8 if inpaint else 1e-5) if dtype == torch.float64 else (1e-4 if inpaint else 2e-3)
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) < limit  # CG is not exact
    assert result.status is Status.OK and result.samples.dtype == dtype
    assert (result.stats.nfe, result.stats.backprops, len(result.stats.residuals)) == (100, 100, 100)


def inverse_bench_form(prior, problem, noise, eta):
    """InverseBench's loop (noisy, dense inverse) in sigma-space; yields x0hat of each step, then the final state."""
    a, y = problem.operator.matrix, problem.y
    sigmas = schedules.log_spaced(100)
    x = sigmas[0] * noise.normal(SHAPE, y.dtype)
    for sigma, after in pairwise(sigmas):
        x = x.detach().requires_grad_()
        d = prior(x, sigma).x0
        coeff = (sigma**2 + 1) / sigma**2
        total = a @ a.T + torch.eye(len(a), dtype=a.dtype) * problem.likelihood.sigma**2 * coeff
        vec = a.T @ torch.linalg.inv(total) @ (y[0] - a @ d.detach().flatten())
        (grad,) = torch.autograd.grad((vec.reshape(SHAPE) * d).sum(), x)
        yield d.detach()
        x = (d + math.sqrt(1 - eta**2) * after / sigma * (x - d)).detach()
        if after > 0:
            x = x + eta * after * noise.normal(SHAPE, y.dtype)
        x = x + grad
    yield x


class WithProx(Dense):
    """A dense operator with its closed-form proximal map."""

    def prox(self, z, rho, y):
        a = self.matrix
        misfit = y - self.forward(z)
        return z + torch.linalg.solve(a @ a.T + rho * torch.eye(len(a), dtype=a.dtype), misfit.T).T.matmul(a).reshape(
            z.shape
        )


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_matches_inverse_bench_step_by_step(closed, dtype):
    prior = VPDenoiser(EpsNet(1, False))
    problem = dense_problem(20, SHAPE[1:], dtype, sigma=0.3)
    if closed:
        problem = replace(problem, operator=WithProx(problem.operator.matrix, SHAPE[1:]))
    method = PiGDM(grid="log", rule="ddim-b", eta=0.2, iterations=40)
    ours, result = run_recording(method, prior, problem, SeededNoise(5, [0]))
    theirs = list(inverse_bench_form(prior, problem, SeededNoise(5, [0]), 0.2))
    limit = (1e-8 if closed else 1e-4) if dtype == torch.float64 else (1e-4 if closed else 1e-3)
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) < limit
    assert result.stats.operator_calls == 100 * (1 + (2 if closed else 82))


def unit_prior_problem(sigma):
    shape = (1, 8, 8)
    operator = Inpaint(shape, torch.ones(8, 8))
    return shape, GaussianPrior(torch.ones(shape)), Problem(operator, torch.full((1, *shape), 0.8), Gaussian(sigma))


@pytest.mark.parametrize(("steps", "bias"), [(100, 0.12), (600, 0.02)])
def test_score_guidance_tends_to_the_posterior_of_a_unit_prior(steps, bias):
    shape, prior, problem = unit_prior_problem(0.5)
    method = PiGDM(steps=steps, grid="log", guidance="score")
    x = method.sample(prior, problem, None, BatchNoise(0), (300, *shape)).samples.double()
    mean, std = 0.8 / 1.25, math.sqrt(0.25 / 1.25)
    assert abs(float(x.mean()) - mean) < 0.012  # standard error 0.003
    assert abs(float(x.std()) / std - 1) < bias
    if steps == 100:
        assert float(x.std()) / std < 0.97  # ancestral steps of this size lose variance


def test_added_guidance_is_the_linear_recursion_and_no_posterior():
    shape, prior, problem = unit_prior_problem(0.5)
    method = PiGDM(steps=100, grid="log")
    x = method.sample(prior, problem, None, BatchNoise(0), (300, *shape)).samples.double()
    mean, variance = 0.0, 100.0**2
    for t, s in pairwise(schedules.log_spaced(100)):
        shrink, square = 1 / (1 + t**2), t**2 / (1 + t**2)
        gain = shrink * square / (square + 0.25)
        keep = shrink + (s / t) ** 2 * (1 - shrink) - gain * shrink
        mean, variance = keep * mean + gain * 0.8, keep**2 * variance + s**2 * (t**2 - s**2) / t**2
    assert abs(float(x.mean()) - mean) < 0.01
    assert abs(float(x.std()) / math.sqrt(variance) - 1) < 0.02
    assert abs(mean - 0.64) > 0.05


def test_small_noise_tends_to_the_noise_free_form_and_zero_noise_is_it():
    operator = Inpaint((1, 6, 6), (torch.rand(6, 6, generator=generator(0)) < 0.5).float()).to(dtype=torch.float64)
    y = operator.forward(torch.randn(SHAPE, generator=generator(1), dtype=torch.float64))
    prior = GaussianPrior(power_law_spectrum((1, 6, 6), 2.0, 0.5))

    def run(sigma, **settings):
        problem = Problem(operator, y, Gaussian(sigma))
        return PiGDM(steps=30, **settings).sample(prior, problem, None, SeededNoise(0, [0]), SHAPE).samples

    free = run(0.3, form="noise-free")
    assert torch.equal(run(0.0), free)
    assert relative(run(0.0, form="noisy"), free) < 1e-3
    assert relative(run(1e-5), free) < 1e-3 < 0.01 < relative(run(0.3), free)
    assert relative(operator.forward(run(0.0, project=True)), y) < 1e-12


def test_counts_go_by_their_variance():
    shape = (1, 4, 4)
    prior = GaussianPrior(torch.ones(shape), 2.0)
    y = torch.full((1, 16), 2.5)
    dark = Poisson(gain=1e4, scale=1.0, offset=torch.zeros(1, 16))
    problem = Problem(Dense(torch.eye(16), shape), y, dark)
    method = PiGDM(steps=60, grid="log", guidance="score")
    sample = method.sample(prior, problem, None, SeededNoise(0, [0]), (1, *shape)).samples
    assert abs(float(sample.mean()) - 2.5) < 0.02  # counts of 25000: noise 0.016
    few = replace(problem, likelihood=replace(dark, gain=0.5))
    sample = method.sample(prior, few, None, SeededNoise(0, range(50)), (50, *shape)).samples
    assert float(sample.mean()) < 2.3 and float(sample.std()) > 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("guidance", ["added", "score"])
def test_sample_does_not_depend_on_its_batch(dtype, guidance):
    shape = (1, 6, 5)
    operator = MaskedFourier((torch.rand(6, 5, generator=generator(0)) < 0.5).float(), dtype)
    y = operator.forward(torch.randn(1, *shape, generator=generator(1), dtype=dtype))
    problem = Problem(operator, y, Gaussian(0.1))
    prior = GaussianPrior(power_law_spectrum(shape, 2.0, 0.5))
    method = PiGDM(steps=20, guidance=guidance, project=guidance == "added")
    alone = method.sample(prior, problem, None, SeededNoise(11, [7]), (1, *shape)).samples
    batch = method.sample(prior, problem, None, SeededNoise(11, [5, 6, 7]), (3, *shape)).samples
    assert alone.dtype == dtype
    assert relative(batch[2:], alone) < 1e-4 and relative(batch[:1], alone) > 1e-2
    per_sample_y = replace(problem, y=y.expand(3, *y.shape[1:]).clone())
    again = method.sample(prior, per_sample_y, None, SeededNoise(11, [5, 6, 7]), (3, *shape)).samples
    assert relative(again, batch) < 1e-5


def test_complex_images_are_guided_towards_their_data():
    shape = (1, 6, 6)
    operator = MaskedFourier((torch.rand(6, 6, generator=generator(0)) < 0.5).double(), torch.complex128)
    prior = GaussianPrior(torch.ones(shape))
    y = operator.forward(prior.sample(1, generator(1), torch.complex128))
    method = PiGDM(steps=50, grid="log", guidance="score")
    problem = Problem(operator, y, Gaussian(0.01))
    x = method.sample(prior, problem, None, SeededNoise(0, [0]), (1, *shape)).samples
    assert relative(operator.forward(x), y) < 0.03
    unseen = torch.fft.fft2(x, norm="ortho")[0, 0][operator.mask == 0]
    assert float(unseen.abs().mean()) > 0.5


def test_divergence_stops_early_and_returns_finite_values():
    seen = []

    class Explodes(Denoiser):
        info = PriorInfo(name="explodes", channels=1)

        def _denoise(self, x, sigma, cond):
            return Prediction(0.1 * x + (float("nan") if len(seen) >= 30 else 0.0))

    problem = dense_problem(20, SHAPE[1:], torch.float32)
    result = PiGDM().sample(Explodes(), problem, None, SeededNoise(0, [0]), SHAPE, seen.append)
    assert result.status is Status.DIVERGED and result.stats.nfe == 50
    assert torch.equal(result.samples, seen[29].x0)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"iterations": 0}, {"eta": 1.1}, {"weight": -1.0}, {"grid": "x"}])
def test_settings_are_checked(bad):
    with pytest.raises(ConfigError):
        PiGDM(**bad)


def test_unfit_problems_are_refused():
    prior, saturating = VPDenoiser(EpsNet(1, False)), dense_problem(20, SHAPE[1:], torch.float32, linear=False)
    with pytest.raises(ConfigError, match="linear"):
        PiGDM().sample(prior, saturating, None, SeededNoise(0, [0]), SHAPE)
    with pytest.raises(ConfigError, match="prior"):
        PiGDM().sample(None, saturating, None, SeededNoise(0, [0]), SHAPE)


def test_grid_is_the_published_one():
    assert PiGDM().network_calls == 100
    ab = schedules.vp_alpha_bars()[np.arange(990, -1, -10)]
    assert np.allclose(schedules.grid(PiGDM().grid, PiGDM().steps)[:-1], np.sqrt((1 - ab) / ab))
