"""Integrators against exact solutions under a Gaussian prior, their evaluation counts, and published loops."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sampler_doubles import BatchNoise, generator, relative

from recon import schedules
from recon.errors import ConfigError
from recon.priors.base import Denoiser, Prediction, PriorInfo
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.samplers.base import SeededNoise
from recon.samplers.integrate import INTEGRATORS, Options, evaluations, integrate, sample_prior

SHAPE = (1, 8, 8)
STOCHASTIC = ("ancestral", "sde", "dpm++2m-sde", "pc", "churn")


class Counting(Denoiser):
    """A denoiser that records the levels it is asked at."""

    def __init__(self, prior):
        self.prior, self.info, self.levels = prior, prior.info, []

    def _denoise(self, x, sigma, cond):
        self.levels.append(float(sigma[0]))
        return self.prior(x, sigma, cond)


def gaussian(std=0.5, mean=0.0, exponent=1.0):
    return GaussianPrior(power_law_spectrum(SHAPE, exponent, std), mean)


def exact_ode(prior, x, high, low):
    """Each Fourier mode of the probability flow scales by sqrt((S + low^2)/(S + high^2))."""
    gain = ((prior.spectrum + low**2) / (prior.spectrum + high**2)).sqrt()
    moved = torch.fft.fftn(x - prior.mean, dim=(-2, -1), norm="ortho") * gain
    back = torch.fft.ifftn(moved, dim=(-2, -1), norm="ortho")
    return prior.mean + (back if x.is_complex() else back.real)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("dpm++2m", 2)])
def test_order_of_convergence_to_the_exact_flow(name, order, dtype):
    prior = gaussian(mean=0.3)
    x = 5 * torch.randn(2, *SHAPE, generator=generator(0), dtype=dtype)
    errors = []
    for steps in (32, 64, 128):
        sigmas = np.geomspace(5.0, 0.05, steps + 1)
        errors.append(relative(integrate(prior, x, sigmas, name), exact_ode(prior, x, 5.0, 0.05)))
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(abs(slope - order) < 0.25 for slope in slopes), (errors, slopes)


@pytest.mark.parametrize("name", ["euler", "heun", "dpm++2m"])
def test_last_step_to_zero_returns_the_denoised_image(name):
    prior = gaussian()
    x = torch.randn(2, *SHAPE, generator=generator(1), dtype=torch.float64)
    assert relative(integrate(prior, x, [0.7, 0.0], name), prior(x, 0.7).x0) < 1e-12


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_step_to_zero_adds_no_noise(name):
    prior = gaussian()
    x = torch.randn(2, *SHAPE, generator=generator(1), dtype=torch.float64)
    options = Options(corrections=0, churn=0.0)
    assert relative(integrate(prior, x, [0.7, 0.0], name, BatchNoise(0), options), prior(x, 0.7).x0) < 1e-12


@pytest.mark.parametrize("name", list(INTEGRATORS))
@pytest.mark.parametrize("end", [0.0, 0.02])
def test_network_evaluations_are_counted(name, end):
    prior = Counting(gaussian())
    sigmas = [3.0, 1.0, 0.2, end]
    options = Options(corrections=2)
    integrate(prior, torch.randn(1, *SHAPE), sigmas, name, BatchNoise(0), options)
    assert len(prior.levels) == evaluations(name, sigmas, options)
    if name == "pc":
        assert len(prior.levels) == 9


@pytest.mark.parametrize(
    ("name", "steps", "excess"),
    [
        ("euler", 160, -0.033),
        ("heun", 40, 0.013),
        ("dpm++2m", 40, 0.013),
        ("ancestral", 160, -0.062),
        ("sde", 160, 0.030),
        ("dpm++2m-sde", 80, 0.0),
        ("pc", 160, 0.093),
        ("churn", 160, 0.018),
    ],
)
def test_it_samples_the_prior_but_for_the_power_that_finite_steps_cost(name, steps, excess):
    prior = gaussian(std=0.4, mean=0.2)
    sigmas = schedules.poly_rho(steps, 0.005, 40.0)
    x = sample_prior(prior, (1500, *SHAPE), sigmas, name, BatchNoise(3), torch.float64)
    power = (torch.fft.fft2(x - 0.2, norm="ortho").abs() ** 2).mean(0) / prior.spectrum
    error = (2 / 1500 / 64) ** 0.5
    assert abs(float(power.mean()) - 1 - excess) < 4 * error
    assert abs(float(x.mean()) - 0.2) < 4 * (float(prior.spectrum[0, 0, 0]) / x.numel()) ** 0.5


@pytest.mark.parametrize(("name", "order"), [("ancestral", 1), ("sde", 1), ("dpm++2m-sde", 2)])
def test_reverse_diffusion_draws_the_images_posterior_as_steps_shrink(name, order):
    """p(x0 | x_rho) of N(0, v): mean v/(v + rho^2) x, variance v rho^2/(v + rho^2)."""
    v, rho, x, count = 0.25, 0.5, 0.8, 80000
    prior = GaussianPrior(torch.full((1, 2, 2), v))
    start = torch.full((count // 4, 1, 2, 2), x, dtype=torch.float64)
    std = (v * rho**2 / (v + rho**2)) ** 0.5
    steps = (10, 20, 40)
    drawn = [integrate(prior, start, schedules.poly_rho(n, 0.005, rho), name, BatchNoise(5)) for n in steps]
    biases = [abs(float(d.std()) / std - 1) for d in drawn]
    assert all(a > (1.7 if order == 1 else 2.5) * b for a, b in pairwise(biases)), biases
    assert abs(float(drawn[-1].mean()) - v / (v + rho**2) * x) < (0.016 if name == "sde" else 4 * std / count**0.5)
    assert biases[-1] < {"ancestral": 0.08, "sde": 0.05, "dpm++2m-sde": 0.01}[name]


def test_churn_matches_karras_algorithm_2_literally():
    prior, sigmas = gaussian(), [8.0, 3.0, 1.0, 0.3, 0.04, 0.0]
    options = Options(churn=2.0, churn_noise=1.01, churn_range=(0.05, 5.0))
    ours = integrate(prior, torch.ones(1, *SHAPE, dtype=torch.float64), sigmas, "churn", SeededNoise(1, [0]), options)
    x, noise = torch.ones(1, *SHAPE, dtype=torch.float64), SeededNoise(1, [0])
    for t, s in pairwise(sigmas):
        gamma = min(2.0 / 5, math.sqrt(2) - 1) if 0.05 <= t <= 5.0 else 0
        hat = t + gamma * t
        if gamma:
            x = x + math.sqrt(hat**2 - t**2) * 1.01 * noise.normal(x.shape, x.dtype)
        d = (x - prior(x, hat).x0) / hat
        new = x + (s - hat) * d
        if s:
            new = x + (s - hat) * 0.5 * (d + (new - prior(new, s).x0) / s)
        x = new
    assert relative(ours, x) < 1e-12


def test_predictor_corrector_matches_the_published_steps_literally():
    prior, sigmas = gaussian(), [8.0, 3.0, 1.0, 0.3]
    start = torch.randn(1, *SHAPE, generator=generator(2), dtype=torch.float64)
    ours = integrate(prior, start, sigmas, "pc", SeededNoise(1, [0]))
    x, noise = start, SeededNoise(1, [0])
    for t, s in pairwise(sigmas):
        grad, z = (prior(x, t).x0 - x) / t**2, noise.normal(x.shape, x.dtype)
        step = (0.16 * z.norm() / grad.norm()) ** 2 * 2
        x = x + step * grad + torch.sqrt(step * 2) * z
        score = (prior(x, t).x0 - x) / t**2
        x = x + (t**2 - s**2) * score + math.sqrt(t**2 - s**2) * noise.normal(x.shape, x.dtype)
    assert relative(ours, x) < 1e-12


def test_dpm_solver_matches_the_published_recursion_literally():
    """The authors' data prediction form with alpha = 1: x_t = (s_t/s_s) x - (e^-h - 1) [(1 + 1/2r) D - D'/2r]."""
    prior, sigmas = gaussian(), [8.0, 2.0, 0.9, 0.2]
    start = torch.randn(1, *SHAPE, generator=generator(2), dtype=torch.float64)
    x, old, h_old = start, None, None
    for t, s in pairwise(sigmas):
        d, h = prior(x, t).x0, math.log(t) - math.log(s)
        ratio = None if old is None else h_old / h
        mixed = d if old is None else (1 + 1 / (2 * ratio)) * d - 1 / (2 * ratio) * old
        x, old, h_old = s / t * x - math.expm1(-h) * mixed, d, h
    assert relative(integrate(prior, start, sigmas, "dpm++2m"), x) < 1e-12


@pytest.mark.parametrize("name", list(INTEGRATORS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_a_sample_does_not_depend_on_its_batch(name, dtype):
    prior, sigmas = gaussian(), schedules.poly_rho(12)
    limit = 1e-3 if name == "pc" else 1e-4  # its step sizes divide two norms, which amplifies rounding
    alone = sample_prior(prior, (1, *SHAPE), sigmas, name, SeededNoise(4, [7]), dtype)
    batch = sample_prior(prior, (3, *SHAPE), sigmas, name, SeededNoise(4, [5, 6, 7]), dtype)
    again = sample_prior(prior, (3, *SHAPE), sigmas, name, SeededNoise(4, [5, 6, 7]), dtype)
    assert alone.dtype == dtype
    assert relative(batch[2:], alone) < limit < relative(batch[:1], alone)
    assert torch.equal(batch, again)


def test_steps_are_reported_and_condition_reaches_the_prior():
    seen = []

    class Conditioned(Denoiser):
        info = PriorInfo(name="conditioned", channels=1)

        def _denoise(self, x, sigma, cond):
            return Prediction(0 * x + cond.reshape(-1, 1, 1, 1))

    labels = torch.tensor([1.0, 2.0])
    x = sample_prior(
        Conditioned(), (2, *SHAPE), [1.0, 0.5, 0.0], "heun", SeededNoise(0, [0, 1]), cond=labels, on_step=seen.append
    )
    assert [(s.index, s.count, s.sigma) for s in seen] == [(0, 2, 0.5), (1, 2, 0.0)]
    assert torch.equal(x[:, 0, 0, 0], labels)
    assert torch.equal(seen[1].x0[:, 0, 0, 0], labels)


@pytest.mark.parametrize("sigmas", [[1.0], [1.0, 1.0], [1.0, 2.0], [1.0, -0.1]])
def test_bad_levels_are_refused(sigmas):
    with pytest.raises(ConfigError):
        integrate(gaussian(), torch.zeros(1, *SHAPE), sigmas)


def test_stochastic_dpm_solver_matches_its_published_step_literally():
    """With alpha = 1: (s_t/s_s) e^-h x + (1 - e^-2h) [D + (D - D')/(2r)] + s_t sqrt(1 - e^-2h) z."""
    prior, sigmas, noise = gaussian(), [8.0, 2.0, 0.9, 0.2], SeededNoise(1, [0])
    start = torch.randn(1, *SHAPE, generator=generator(2), dtype=torch.float64)
    x, old, h_old = start, None, None
    for t, s in pairwise(sigmas):
        d, h = prior(x, t).x0, math.log(t) - math.log(s)
        keep = s / t * math.exp(-h) * x + (1 - math.exp(-2 * h)) * d
        if old is not None:
            keep = keep + 0.5 * (1 - math.exp(-2 * h)) * (d - old) * h / h_old
        x = keep + s * math.sqrt(1 - math.exp(-2 * h)) * noise.normal(x.shape, x.dtype)
        old, h_old = d, h
    assert relative(integrate(prior, start, sigmas, "dpm++2m-sde", SeededNoise(1, [0])), x) < 1e-12


def test_unknown_names_and_missing_noise_are_refused():
    with pytest.raises(ConfigError):
        integrate(gaussian(), torch.zeros(1, *SHAPE), [1.0, 0.0], "rk45")
    with pytest.raises(ConfigError):
        evaluations("rk45", [1.0, 0.0])
    with pytest.raises(ConfigError):
        integrate(gaussian(), torch.zeros(1, *SHAPE), [1.0, 0.5], "ancestral")
