"""DDRM against the authors' VP form, and closed forms under a Gaussian prior."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from sampler_doubles import BatchNoise, EpsNet, VPDenoiser, dense_problem, relative
from spectral_cases import (
    SHAPE,
    VALUES,
    check_batch_independence,
    check_few_looks,
    fourier_prior,
    known_matrix,
    matrix_problem,
    operator_problem,
    recorded,
    vp_eps,
)

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian, Poisson
from recon.operators.inpaint import Inpaint
from recon.operators.matrix import DenseMatrix
from recon.priors.base import Denoiser, Prediction, PriorInfo
from recon.priors.gaussian import GaussianPrior
from recon.samplers.base import SeededNoise, Status
from recon.samplers.ddrm import DDRM
from recon.samplers.spectral import spectral_data
from recon.solvers.dense import dense_matrix


def authors_form(eps, matrix, y, noise, steps, eta, eta_b, sigma_0, cutoff):
    """The published loop in VP coordinates and in the basis of a full SVD; yields (x0_t, state) of each step.

    singulars below the cutoff are set to zero and listed as unmeasured, as the code's ZERO does.
    """
    u, s, vh = torch.linalg.svd(matrix.to(torch.complex128 if matrix.is_complex() else torch.float64))
    u, vh, s = u.to(y.dtype), vh.to(y.dtype), s.to(y.real.dtype)
    kept = int((s >= cutoff * s[0]).sum())
    s = s[:kept]
    v_t = lambda image: (vh @ image.reshape(-1)).clone()  # noqa: E731
    v = lambda c: (vh.mH @ c).reshape(SHAPE)  # noqa: E731
    u_t_y = (u.mH @ y.reshape(-1))[:kept]
    bars = schedules.vp_alpha_bars()
    skip = 1000 // steps
    times = [k * skip for k in range(steps)]
    largest = bars[times[-1]]
    largest_sigma = math.sqrt((1 - largest) / largest)
    n = v_t(noise.normal(SHAPE, y.dtype))
    init = largest_sigma * n
    large = s * largest_sigma > sigma_0
    remaining = (largest_sigma**2 - sigma_0**2 / s**2).clamp_min(0).sqrt()
    init[:kept] = torch.where(large, u_t_y / s + remaining * n[:kept], init[:kept])
    x = v(init) / math.sqrt(1 + largest_sigma**2)
    for t, following in zip(reversed(times), [*reversed(times[:-1]), -1], strict=True):
        ab, ab_next = bars[t], bars[following] if following >= 0 else 1.0
        et = eps(x, t)
        x0 = (x - et * math.sqrt(1 - ab)) / math.sqrt(ab)
        sigma_next = math.sqrt(1 - ab_next) / math.sqrt(ab_next)
        z = v_t(noise.normal(SHAPE, x.dtype)) if following >= 0 else torch.zeros(36, dtype=x.dtype)
        v_t_x0 = v_t(x0)
        sv_t_x0 = v_t_x0[:kept] * s
        std_a = std_c = sigma_next * eta
        tilde = math.sqrt(sigma_next**2 - std_c**2)
        following_c = v_t_x0 + tilde * v_t(et) + std_c * z
        before, after = s * sigma_next > sigma_0, s * sigma_next < sigma_0
        after_c = v_t_x0[:kept] + tilde * ((u_t_y - sv_t_x0) / (sigma_0 or 1.0)) + std_a * z[:kept]
        diff = (sigma_next**2 - sigma_0**2 / s**2 * eta_b**2).clamp_min(0).sqrt()
        before_c = u_t_y / s * eta_b + (1 - eta_b) * v_t_x0[:kept] + diff * z[:kept]
        measured = torch.where(before, before_c, torch.where(after, after_c, following_c[:kept]))
        x = math.sqrt(ab_next) * v(torch.cat([measured, following_c[kept:]]))
        yield x0, x


@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.6])
@pytest.mark.parametrize(("eta", "eta_b", "cutoff"), [(0.85, 1.0, 0.03), (0.5, 0.7, 0.0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex128])
def test_matches_the_authors_code_step_by_step(sigma, eta, eta_b, cutoff, dtype):
    problem = matrix_problem(dtype, sigma)
    if dtype.is_complex:
        prior = fourier_prior(SHAPE[1:])
        network = vp_eps(prior)
    else:
        net = EpsNet(1, False)
        prior, network = VPDenoiser(net), lambda x, t: net(x, t)
    method = DDRM(steps=25, eta=eta, eta_b=eta_b, cutoff=cutoff)
    ours, result = recorded(method, prior, problem, SeededNoise(3, [0]), SHAPE)
    theirs = list(
        authors_form(network, known_matrix(dtype), problem.y, SeededNoise(3, [0]), 25, eta, eta_b, sigma, cutoff)
    )
    assert len(ours) == len(theirs) == 25
    limit = 2e-4 if dtype == torch.float32 else 1e-8
    assert max(relative(a, b) for a, (b, _) in zip(ours, theirs, strict=True)) < limit
    assert relative(result.samples, theirs[-1][1]) < limit
    assert result.samples.dtype == dtype
    assert result.stats.nfe == result.stats.operator_calls == len(result.stats.residuals) == 25
    assert result.stats.backprops == 0


def test_the_comparison_meets_all_three_branches():
    levels = schedules.vp_discrete(25)[1:-1]
    for sigma, kinds in ((0.05, (True, True)), (0.6, (True, True)), (0.0, (True, False))):
        before = any(v * s > sigma for v in VALUES for s in levels)
        after = any(v * s < sigma for v in VALUES for s in levels)
        assert (before, after) == kinds


def recursion(sigmas, spectrum, s, seen, sigma_y, eta):
    """Mean and variance of each coefficient under a Gaussian prior: every step is linear in c, u and z."""
    first = torch.where(s * sigmas[0] > sigma_y, seen / s.clamp_min(1e-30), 0.0)
    start = (sigmas[0] ** 2 - (sigma_y / s.clamp_min(1e-30)) ** 2).clamp_min(0)
    mean, variance = first, torch.where(s * sigmas[0] > sigma_y, start, sigmas[0] ** 2)
    for t, n in pairwise(sigmas):
        shrink = spectrum / (spectrum + t**2)
        near, far = s * n > sigma_y, (s > 0) & (s * n < sigma_y)
        keep = n * math.sqrt(1 - eta**2)
        taken = torch.where(near, 1 / s.clamp_min(1e-30), torch.where(far, torch.tensor(keep / (sigma_y or 1)), 0.0))
        taken = taken.double()
        own = torch.where(near | far, 0.0, keep)
        factor = shrink - taken * s * shrink + own * (1 - shrink) / t
        fresh = torch.where(near, (n**2 - (sigma_y / s.clamp_min(1e-30)) ** 2).clamp_min(0), (eta * n) ** 2)
        mean, variance = factor * mean + taken * seen, factor**2 * variance + fresh * (n > 0)
    return mean, variance


@pytest.mark.parametrize("sigma", [0.0, 0.05])
def test_deblurring_follows_the_linear_recursion_of_each_mode(sigma):
    """Blur and prior are diagonal in one basis, so that DDRM's limit is known: measured modes at the data's noise."""
    shape = (1, 8, 8)
    problem = operator_problem("blur", {"size": 3, "sigma": 0.8, "boundary": "circular"}, shape, sigma)
    prior = fourier_prior(shape)
    x = DDRM(cutoff=0.0).sample(prior, problem, None, BatchNoise(2), (3000, *shape)).samples
    data = spectral_data("ddrm", problem, 0.0)
    s = data.spectrum.values.expand(shape)
    mean, variance = recursion(schedules.vp_discrete(20), prior.spectrum, s, data.seen[0], sigma, 0.85)
    c = data.spectrum.to_v(x)
    spread = variance.sqrt().clamp_min(1e-9)
    assert float(((c.mean(0) - mean) / spread).abs().max()) < 4.5 / 3000**0.5 + 1e-3
    assert float(((c.std(0) - variance.sqrt()).abs() / spread).max()) < 0.08
    transfer = torch.fft.fft2(impulse_response(problem.operator, shape))
    exact = prior.posterior(problem.y[0], max(sigma, 1e-6), transfer)
    assert relative(x.mean(0), exact.mean) < (0.05 if sigma == 0 else 0.25)


def impulse_response(operator, shape):
    impulse = torch.zeros(1, *shape, dtype=torch.float64)
    impulse[..., 0, 0] = 1
    return operator.forward(impulse)[0]


def test_what_is_not_measured_gets_all_of_its_noise():
    """Unmeasured pixels walk as DDIM-B under the prior, whatever the noise of the measured ones."""
    shape, std = (1, 6, 6), 0.4
    prior = GaussianPrior(torch.full(shape, std**2))
    mask = torch.zeros(6, 6, dtype=torch.float64)
    mask[:, :3] = 1
    operator = Inpaint(shape, mask)
    operator.in_dtype = operator.out_dtype = torch.float64
    for sigma in (0.0, 0.3):
        for eta, steps in ((0.85, 20), (0.0, 500)):
            problem = Problem(operator, torch.zeros(1, *shape, dtype=torch.float64), Gaussian(sigma))
            method = DDRM(steps=steps, eta=eta)
            x = method.sample(prior, problem, None, BatchNoise(0), (200, *shape)).samples
            variance = 1.0 * schedules.vp_discrete(steps)[0] ** 2
            for t, s in pairwise(schedules.vp_discrete(steps)):
                shrink = std**2 / (std**2 + t**2)
                variance *= (shrink + s * math.sqrt(1 - eta**2) * (1 - shrink) / t) ** 2
                variance += (s * eta) ** 2
            assert float(x[..., 3:].std()) == pytest.approx(variance**0.5, rel=0.03)
            if eta == 0:
                assert variance**0.5 == pytest.approx(std, rel=0.01), "the probability-flow ODE keeps the prior"


def test_exact_data_are_met_up_to_the_last_level():
    shape = (1, 6, 6)
    problem = operator_problem("mri", {"mask": "given", "complex_image": True}, shape, 0.0, torch.float32)
    x = DDRM().sample(fourier_prior(shape), problem, None, SeededNoise(0, [0]), (1, *shape)).samples
    assert relative(problem.operator.forward(x), problem.y) < 0.05


@pytest.mark.parametrize(
    ("kind", "params", "shape"),
    [
        ("mri", {"mask": "given", "complex_image": True}, (1, 6, 5)),
        ("mri", {"mask": "given"}, (1, 6, 5)),
        ("downsample", {"factor": 2}, (1, 8, 6)),
    ],
)
def test_sample_does_not_depend_on_its_batch(kind, params, shape):
    problem = operator_problem(kind, params, shape, 0.1, torch.float32)
    check_batch_independence(DDRM(), problem, fourier_prior(shape))


def test_a_real_image_stays_real_and_the_result_does_not_depend_on_the_basis():
    """The blur as a matrix has another V; noise drawn in image space gives the same sample all the same."""
    shape = (1, 6, 5)
    problem = operator_problem("blur", {"size": 3, "sigma": 0.6, "boundary": "circular"}, shape, 0.1)
    matrix = DenseMatrix(shape, shape, torch.eye(30), False).to(dtype=torch.float64)
    matrix.matrix = dense_matrix(problem.operator)
    other = Problem(matrix, problem.y, problem.likelihood)
    prior = fourier_prior(shape)
    samples = [DDRM().sample(prior, p, None, SeededNoise(1, [0]), (1, *shape)).samples for p in (problem, other)]
    assert samples[0].dtype == torch.float64
    assert relative(*samples) < 1e-8


def test_start_from_an_estimate_is_noised_to_the_first_level():
    shape, states = (1, 4, 4), []

    class Spy(Denoiser):
        info = PriorInfo(name="spy", channels=1)

        def _denoise(self, x, sigma, cond):
            states.append((x.clone(), float(sigma[0])))
            return Prediction(x * 0)

    problem, init = operator_problem("denoise", {}, shape, 0.1), torch.full((1, *shape), 0.5, dtype=torch.float64)
    DDRM(steps=3).sample(Spy(), problem, init, SeededNoise(2, [4]), (1, *shape))
    x, sigma = states[0]
    assert torch.allclose(x, init + sigma * SeededNoise(2, [4]).normal((1, *shape), torch.float64), rtol=1e-6)
    assert len(states) == DDRM(steps=3).network_calls == 3


def test_divergence_stops_early_and_returns_finite_values():
    shape, seen = (1, 4, 4), []

    class Explodes(Denoiser):
        info = PriorInfo(name="explodes", channels=1)

        def _denoise(self, x, sigma, cond):
            return Prediction(0.1 * x + (float("inf") if len(seen) >= 30 else 0.0))

    problem = operator_problem("denoise", {}, shape, 0.1)
    result = DDRM(steps=100).sample(Explodes(), problem, None, SeededNoise(0, [0]), (1, *shape), seen.append)
    assert result.status is Status.DIVERGED and result.stats.nfe == 50
    assert torch.equal(result.samples, seen[29].x0)


def test_the_loop_waits_for_the_device_seldom(monkeypatch):
    problem = operator_problem("mri", {"mask": "given"}, (1, 6, 6), 0.1, torch.float32)
    check_few_looks(DDRM(steps=100), problem, fourier_prior((1, 6, 6)), monkeypatch, 100, 0)


def test_unfit_problems_are_refused():
    prior, problem = VPDenoiser(EpsNet(1, False)), matrix_problem(torch.float32, 0.1)
    noise = SeededNoise(0, [0])
    with pytest.raises(ConfigError, match="linear"):
        DDRM().sample(prior, dense_problem(20, SHAPE[1:], torch.float32, linear=False), None, noise, SHAPE)
    with pytest.raises(ConfigError, match="singular value decomposition"):
        DDRM().sample(prior, dense_problem(20, SHAPE[1:], torch.float32), None, noise, SHAPE)
    with pytest.raises(ConfigError, match="Gaussian noise, got Poisson"):
        poisson = replace(problem, likelihood=Poisson(1.0, 1.0, torch.zeros(1, 12)))
        DDRM().sample(prior, poisson, None, noise, SHAPE)
    with pytest.raises(ConfigError, match="prior"):
        DDRM().sample(None, problem, None, noise, SHAPE)
    with pytest.raises(ConfigError, match="do not fit"):
        DDRM().sample(prior, problem, None, noise, (1, 1, 5, 5))


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"eta": 1.1}, {"eta_b": -0.1}, {"eta": float("nan")}, {"cutoff": 1.0}, {"grid": "x"}]
)
def test_settings_are_checked(bad):
    with pytest.raises(ConfigError):
        DDRM(**bad)
