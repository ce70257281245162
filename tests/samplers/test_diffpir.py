"""DiffPIR against the authors' VP form, and closed forms under a Gaussian prior."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from sampler_doubles import (
    BatchNoise,
    EpsNet,
    MaskedFourier,
    MultiCoil,
    VPDenoiser,
    dense_problem,
    generator,
    relative,
)
from spectral_cases import (
    SHAPE,
    check_batch_independence,
    check_few_looks,
    fourier_prior,
    matrix_problem,
    operator_problem,
    recorded,
    vp_eps,
)

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian, Poisson
from recon.operators.base import Operator
from recon.priors.base import Denoiser, Prediction, PriorInfo
from recon.priors.gaussian import GaussianPrior
from recon.samplers.base import SeededNoise, Status
from recon.samplers.diffpir import DiffPIR


def quadratic_times(steps, count=1000):
    """The code's seq, from the largest time to 0; equal times once."""
    seq = [int(v) for v in torch.sqrt(torch.linspace(0, count**2, steps, dtype=torch.float64)).tolist()]
    seq[-1] -= 1
    return sorted({count - 1 - min(v, count - 1) for v in seq}, reverse=True)


def authors_form(eps, prox, noise, times, lam, zeta, sigma_n, clip, shape, dtype):
    """The published loop in VP coordinates; yields the data-consistent x0 of each step."""
    bars = schedules.vp_alpha_bars()
    x = noise.normal(shape, dtype)
    for t, following in zip(times, [*times[1:], None], strict=True):
        ab = bars[t]
        x0 = (x - math.sqrt(1 - ab) * eps(x, t)) / math.sqrt(ab)
        x0 = x0.clamp(-1, 1) if clip else x0
        if following is None:
            yield x0
            return
        rho = lam * sigma_n**2 / ((1 - ab) / ab)
        x0 = prox(x0, rho)
        yield x0
        e = (x - math.sqrt(ab) * x0) / math.sqrt(1 - ab)
        z = noise.normal(shape, dtype)
        ab_s = bars[following]
        x = math.sqrt(ab_s) * x0 + math.sqrt(1 - ab_s) * (math.sqrt(1 - zeta) * e + math.sqrt(zeta) * z)


def dense_prox(problem):
    """argmin ||y - A x||^2 + rho ||x - z||^2 as the least squares of the stacked [A; sqrt(rho)], in float64."""
    kind = torch.complex128 if problem.operator.in_dtype.is_complex else torch.float64
    matrix, y = problem.operator.matrix.to(kind), problem.y.to(kind)

    def solve(z, rho):
        stacked = torch.cat([matrix, rho**0.5 * torch.eye(matrix.shape[1], dtype=kind)])
        right = torch.cat([y, rho**0.5 * z.flatten(1).to(kind)], 1)
        return torch.linalg.lstsq(stacked, right.T).solution.T.reshape(z.shape).to(z.dtype)

    return solve


@pytest.mark.parametrize("sigma", [0.0, 0.1])
@pytest.mark.parametrize("zeta", [0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex128])
def test_matches_the_authors_code_step_by_step(sigma, zeta, dtype):
    problem = matrix_problem(dtype, sigma)
    if dtype.is_complex:
        prior = fourier_prior(SHAPE[1:])
        network = vp_eps(prior)
    else:
        net = EpsNet(1, False)
        prior, network = VPDenoiser(net), lambda x, t: net(x, t)
    method = DiffPIR(steps=30, zeta=zeta, lam=2.0)
    ours, result = recorded(method, prior, problem, SeededNoise(3, [0]), SHAPE)
    times = quadratic_times(30)
    theirs = list(
        authors_form(
            network, dense_prox(problem), SeededNoise(3, [0]), times, 2.0, zeta, max(sigma, 0.002),
            not dtype.is_complex, SHAPE, dtype,
        )
    )  # fmt: skip
    assert len(ours) == len(theirs) == method.network_calls == result.stats.nfe
    limit = 2e-3 if dtype == torch.float32 else 1e-8
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) < limit
    assert torch.equal(result.samples, ours[-1]) and result.samples.dtype == dtype
    assert result.stats.operator_calls == 3 * len(ours) - 2


def test_weight_is_a_quarter_of_the_codes():
    """The code's rho is lam sigma^2/sigma_t^2 with sigma of [0, 1], its prox in [0, 1]: ours in [-1, 1] for lam/4."""
    problem = operator_problem("blur", {"size": 3, "boundary": "circular"}, (1, 6, 6), 0.1)
    noise_in_unit_range, code_lam, sigma_t = problem.likelihood.sigma / 2, 7.0, 0.7
    tau = code_lam * noise_in_unit_range**2 / sigma_t**2
    z = torch.randn(1, 1, 6, 6, dtype=torch.float64, generator=generator(0))
    there = 2 * problem.operator.prox(z / 2 + 0.5, tau, problem.y / 2 + 0.5) - 1
    step, calls = DiffPIR(lam=code_lam / 4)._data_step(problem, z)
    assert relative(step(z, sigma_t), there) < 1e-6
    assert calls == 2 and DiffPIR().lam == 7 / 4


@pytest.mark.parametrize("case", ["coils", "complex coils", "tomography"])
def test_data_step_without_a_closed_form_is_the_exact_one(case):
    if case == "tomography":
        problem = operator_problem("ct", {"angles": 5}, (1, 6, 6), 0.1)
    else:
        kind = torch.complex128
        coils = torch.randn(3, 6, 6, generator=generator(2), dtype=kind)
        mask = (torch.rand(6, 6, generator=generator(3)) < 0.4).double()
        operator = MultiCoil(mask, coils)
        y = mask * torch.randn(1, 3, 6, 6, generator=generator(4), dtype=kind)
        problem = Problem(operator, y, Gaussian(0.1))
    z = torch.randn(2, 1, 6, 6, generator=generator(5), dtype=problem.operator.in_dtype)
    step, calls = DiffPIR(cg_iterations=80)._data_step(problem, z)
    x = step(z, 0.5)
    operator, rho = problem.operator, 1.75 * 0.1**2 / 0.5**2
    gradient = operator.normal(x) - operator.adjoint(problem.y) + rho * (x - z)
    assert relative(gradient + operator.adjoint(problem.y), operator.adjoint(problem.y).expand_as(x)) < 1e-5
    assert calls == 2 * 81


def chain(sigmas, spectrum, s, sigma_y, lam, zeta):
    """Gain on U^H y and variance of each coefficient of x0' under a Gaussian prior: every step is linear."""
    mean, variance = torch.zeros_like(spectrum), torch.full_like(spectrum, 1 + sigmas[0] ** 2)
    for t, n in pairwise(sigmas):
        shrink = spectrum / (spectrum + t**2)
        rho = lam * sigma_y**2 / t**2
        keep, data = (shrink * rho / (s**2 + rho), s / (s**2 + rho)) if n > 0 else (shrink, torch.zeros_like(s))
        # x_s = x0' + n (sqrt(1 - zeta) (x - x0')/t + sqrt(zeta) z)
        carried = n * math.sqrt(1 - zeta) / t
        factor = keep * (1 - carried) + carried
        mean, variance = factor * mean + data * (1 - carried), factor**2 * variance + zeta * n**2
    return mean, variance


@pytest.mark.parametrize(("lam", "zeta", "closeness"), [(1.75, 0.3, 0.25), (1.0, 1.0, 0.3)])
def test_deblurring_follows_the_linear_recursion_of_each_mode(lam, zeta, closeness):
    shape, sigma = (1, 8, 8), 0.1
    problem = operator_problem("blur", {"size": 3, "sigma": 0.8, "boundary": "circular"}, shape, sigma)
    prior = fourier_prior(shape)
    x = DiffPIR(lam=lam, zeta=zeta, clip=False).sample(prior, problem, None, BatchNoise(2), (1500, *shape)).samples
    spectrum = problem.operator.svd()
    s = spectrum.values.expand(shape)
    gain, variance = chain(schedules.vp_quadratic(100), prior.spectrum, s, sigma, lam, zeta)
    c, mean = spectrum.to_v(x), gain * spectrum.to_u(problem.y)[0]
    spread = variance.sqrt()
    assert float(((c.mean(0) - mean) / spread).abs().max()) < 4.5 / 1500**0.5
    assert float((c.std(0) / spread - 1).abs().max()) < 0.09
    impulse = torch.zeros(1, *shape, dtype=torch.float64)
    impulse[..., 0, 0] = 1
    exact = prior.posterior(problem.y[0], sigma, torch.fft.fft2(problem.operator.forward(impulse)[0]))
    assert relative(x.mean(0), exact.mean) < closeness


def test_without_data_it_walks_as_ddim():
    shape = (1, 8, 8)
    prior = fourier_prior(shape)
    problem = operator_problem("denoise", {}, shape, 0.1)
    method = DiffPIR(lam=1e12, zeta=0.0, steps=400, grid="vp", clip=False)
    x = method.sample(prior, problem, None, BatchNoise(1), (300, *shape)).samples
    power = (torch.fft.fft2(x, norm="ortho").abs() ** 2).mean(0) / prior.spectrum
    assert abs(float(power.mean()) - 1) < 0.04, "the probability-flow ODE samples the prior"


class Amplitude(Operator):
    """y = |M x|: non-linear."""

    def __init__(self, matrix, in_shape):
        self.matrix, self.in_shape, self.out_shape = matrix, in_shape, (len(matrix),)
        self.in_dtype = self.out_dtype = matrix.dtype

    def _forward(self, x):
        return ((x.flatten(1) @ self.matrix.T) ** 2 + 1e-3).sqrt()


def test_non_linear_operators_take_one_gradient_step():
    problem = dense_problem(20, SHAPE[1:], torch.float64, sigma=0.3, linear=False)
    method = DiffPIR(lam=2.0)
    z = 0.1 * torch.randn(2, *SHAPE[1:], dtype=torch.float64, generator=generator(0))
    step, calls = method._data_step(problem, z)
    leaf = z.clone().requires_grad_()
    square = ((problem.y - problem.operator.forward(leaf)) ** 2).sum(1)
    (gradient,) = torch.autograd.grad(square.sum(), leaf)
    for sigma_t in (1e-3, 0.05):
        rho = 2.0 * 0.3**2 / sigma_t**2
        # eq. 13: x0 - sigma_t^2/(2 lam sigma_n^2) grad ||y - A(x0)||^2
        assert relative(step(z, sigma_t), z - gradient / (2 * rho)) < 1e-10
    longest = (square / (gradient.flatten(1) ** 2).sum(1)).detach().reshape(-1, 1, 1, 1)
    assert relative(step(z, 1e3), z - longest * gradient) < 1e-10
    assert calls == 2


def test_poisson_data_take_the_gradient_of_their_likelihood():
    base = operator_problem("denoise", {}, (1, 4, 4), 0.1)
    likelihood = Poisson(50.0, 1.0, torch.ones(1, 1, 4, 4, dtype=torch.float64))
    problem = replace(base, likelihood=likelihood, y=base.y.clamp_min(-0.5))
    z = 0.1 * torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=generator(0))
    step, _ = DiffPIR(lam=2.0)._data_step(problem, z)
    gradient = 50.0 * (1 - (problem.y + 1) / (z + 1))
    assert relative(step(z, 0.01), z - 0.01**2 / 2 * gradient) < 1e-10
    before, after = (likelihood.loss(v, problem.y) for v in (z, step(z, 100.0)))
    assert bool((after < before).all()), "the bounded step descends where the published one overshoots"


def test_phase_retrieval_like_data_stay_finite_and_are_fitted():
    shape = (1, 1, 4, 4)
    matrix = torch.randn(64, 16, dtype=torch.float64, generator=generator(0)) / 4
    operator = Amplitude(matrix, shape[1:])
    prior = GaussianPrior(torch.full(shape[1:], 0.25, dtype=torch.float64))
    truth = prior.sample(1, generator(1), torch.float64)
    problem = Problem(operator, operator.forward(truth), Gaussian(0.05))
    result = DiffPIR(steps=300, lam=0.2).sample(prior, problem, None, SeededNoise(0, range(8)), (8, *shape[1:]))
    assert result.status is Status.OK
    first, last = result.stats.residuals[0].median(), result.stats.residuals[-2].median()
    assert float(last) < 0.35 * float(first)


def test_real_images_are_clipped_and_complex_ones_are_not():
    class Bright(Denoiser):
        def __init__(self, complex_channels=False):
            self.info = PriorInfo(name="bright", channels=1, complex_channels=complex_channels)

        def _denoise(self, x, sigma, cond):
            return Prediction(x * 0 + 3)

    def result(prior, dtype=torch.float32, **settings):
        mask = torch.zeros(4, 4, dtype=dtype.to_real())
        mask[0, 0] = 1
        problem = Problem(MaskedFourier(mask, dtype), torch.zeros(1, 1, 4, 4, dtype=dtype.to_complex()), Gaussian(0.1))
        return DiffPIR(steps=3, **settings).sample(prior, problem, None, SeededNoise(0, [0]), (1, 1, 4, 4)).samples

    assert float(result(Bright()).real.max()) == 1
    assert float(result(Bright(), clip=False).real.max()) == 3
    assert float(result(Bright(), torch.complex64).real.max()) == 3
    assert float(result(Bright(True)).real.max()) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_sample_does_not_depend_on_its_batch(dtype):
    problem = operator_problem(
        "mri", {"mask": "given", "complex_image": dtype.is_complex}, (1, 6, 5), 0.1, torch.float32
    )
    check_batch_independence(DiffPIR(steps=20), problem, fourier_prior((1, 6, 5)))
    problem = dense_problem(20, SHAPE[1:], torch.float32, sigma=0.3, linear=False)
    check_batch_independence(DiffPIR(steps=20), problem, fourier_prior(SHAPE[1:]))


def test_divergence_stops_early_and_returns_finite_values():
    shape, seen = (1, 4, 4), []

    class Explodes(Denoiser):
        info = PriorInfo(name="explodes", channels=1)

        def _denoise(self, x, sigma, cond):
            return Prediction(0.1 * x + (float("nan") if len(seen) >= 30 else 0.0))

    problem = operator_problem("denoise", {}, shape, 0.1)
    result = DiffPIR().sample(Explodes(), problem, None, SeededNoise(0, [0]), (1, *shape), seen.append)
    assert result.status is Status.DIVERGED and result.stats.nfe == 50
    assert torch.equal(result.samples, seen[29].x0)


def test_the_loop_waits_for_the_device_seldom(monkeypatch):
    problem = operator_problem("mri", {"mask": "given"}, (1, 6, 6), 0.1, torch.float32)
    check_few_looks(DiffPIR(), problem, fourier_prior((1, 6, 6)), monkeypatch, 100, 0)


def test_default_grid_is_the_published_quadratic_one():
    bars = schedules.vp_alpha_bars()
    levels = [((1 - bars[t]) / bars[t]) ** 0.5 for t in quadratic_times(100)]
    assert schedules.grid(DiffPIR().grid, 100)[:-1] == pytest.approx(levels)
    assert DiffPIR().network_calls == len(levels)


@pytest.mark.parametrize(
    "bad",
    [{"steps": 0}, {"lam": 0.0}, {"lam": float("nan")}, {"zeta": 1.1}, {"noise_floor": 0.0}, {"cg_iterations": 0}],
)
def test_settings_are_checked(bad):
    with pytest.raises(ConfigError):
        DiffPIR(**bad)


def test_a_prior_is_needed():
    with pytest.raises(ConfigError, match="prior"):
        DiffPIR().sample(None, matrix_problem(torch.float32, 0.1), None, SeededNoise(0, [0]), SHAPE)
