"""RED-diff against the authors' VP form, and what it converges to under a Gaussian prior."""

import math
from dataclasses import replace

import pytest
import torch
from sampler_doubles import EpsNet, VPDenoiser, dense_problem, generator, relative
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
from recon.audit.gaussian import dense_posterior
from recon.baselines.common import scaled_adjoint
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian, Poisson
from recon.priors.base import Denoiser, Prediction, PriorInfo
from recon.samplers.base import SeededNoise, Status
from recon.samplers.reddiff import REDDiff
from recon.solvers.dense import real_rows

WEIGHTS = {
    "linear": lambda snr_inv: snr_inv,
    "sqrt": lambda snr_inv: torch.sqrt(snr_inv),
    "square": lambda snr_inv: torch.square(snr_inv),
    "two-thirds": lambda snr_inv: torch.pow(snr_inv, 2 / 3),
    "log": lambda snr_inv: torch.log(snr_inv + 1.0),
    "clip": lambda snr_inv: torch.clip(snr_inv, max=1.0),
    "const": lambda snr_inv: torch.pow(snr_inv, 0.0),
}


def reals(v):
    """Complex numbers as pairs of real ones."""
    return torch.view_as_real(v) if v.is_complex() else v


def authors_form(eps, forward, y, first, noise, steps, lr, lam, weighting, sigma_x0, obs_weight):
    """The published loop: torch's Adam on a loss whose gradient autograd takes; yields mu after each step."""
    mu = first.clone().requires_grad_()
    optimiser = torch.optim.Adam([mu], lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    bars = torch.from_numpy(schedules.vp_alpha_bars())
    for t in range(1000 - 1000 // steps, -1, -(1000 // steps)):
        ab = bars[t]
        if sigma_x0 > 0:
            noise_x0 = noise.normal(mu.shape, mu.dtype)
        noise_xt = noise.normal(mu.shape, mu.dtype)
        with torch.enable_grad():
            x0_pred = mu + sigma_x0 * noise_x0 if sigma_x0 > 0 else mu
            xt = ab.sqrt() * x0_pred + (1 - ab).sqrt() * noise_xt
            et = eps(xt.detach(), t)
            e_obs = y - forward(x0_pred)
            loss_obs = (reals(e_obs) ** 2).mean() / 2
            loss_noise = (reals((et - noise_xt).detach()) * reals(x0_pred)).mean()
            w_t = lam * WEIGHTS[weighting]((1 - ab).sqrt() / ab.sqrt())
            loss = w_t * loss_noise + obs_weight * loss_obs
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()
        yield mu.detach().clone()


@pytest.mark.parametrize("weighting", list(WEIGHTS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex128])
def test_matches_the_authors_code_step_by_step(weighting, dtype):
    problem = matrix_problem(dtype, 0.05)
    if dtype.is_complex:
        prior = fourier_prior(SHAPE[1:])
        network = vp_eps(prior)
    else:
        net = EpsNet(1, False)
        prior, network = VPDenoiser(net), lambda x, t: net(x, t)
    sigma_x0 = 0.1 if weighting == "linear" else 0.0
    method = REDDiff(steps=50, weighting=weighting, sigma_x0=sigma_x0, lam=0.4, data_weight=1.5)
    ours, result = recorded(method, prior, problem, SeededNoise(3, [0]), SHAPE)
    noise = SeededNoise(3, [0])
    noise.normal(SHAPE, dtype)
    first = problem.operator.svd().above(0.03).pinv(problem.y)
    theirs = list(
        authors_form(network, problem.operator.forward, problem.y, first, noise, 50, 0.1, 0.4, weighting, sigma_x0, 1.5)
    )
    assert len(ours) == len(theirs) == method.network_calls == result.stats.nfe == len(result.stats.residuals)
    limit = 1e-3 if dtype == torch.float32 else 1e-8
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) < limit
    assert torch.equal(result.samples, ours[-1]) and result.samples.dtype == dtype
    assert result.stats.operator_calls == 100 and result.stats.backprops == 0


def test_the_data_term_is_a_mean_over_what_is_measured():
    """Half the pixels, without or with zeros in the place of the others: the authors' operators drop them."""
    shape = (1, 6, 6)
    problem = operator_problem("inpaint", {"mask": "random", "missing": 0.5}, shape, 0.1)
    method = REDDiff()
    u = torch.randn(2, *shape, dtype=torch.float64, generator=generator(0))
    kept = (problem.operator.support != 0).expand(shape)
    count = int(kept.sum())
    problem = replace(problem, y=problem.y * kept)
    gradient, residual = method._data_gradient(problem, u, problem.operator.measured())
    assert relative(gradient, torch.where(kept, (u - problem.y) / count, 0.0)) < 1e-12
    assert torch.allclose(residual, problem.likelihood.residual(problem.operator.forward(u), problem.y, count))


class NoNoise:
    """Zeros: the gradient is then its own expectation, for the denoiser is linear."""

    def normal(self, shape, dtype):
        return torch.zeros(shape, dtype=dtype)


def test_noise_free_inpainting_ends_at_the_posterior_mean():
    """Measured pixels stay at the data, and the others go to their mean given them; the spread is Adam's alone."""
    shape = (1, 6, 6)
    prior = fourier_prior(shape)
    problem = operator_problem("inpaint", {"mask": "random", "missing": 0.5}, shape, 0.0)
    truth = prior.sample(1, generator(5), torch.float64)
    problem = replace(problem, y=problem.operator.forward(truth))
    exact = dense_posterior(problem.operator, covariance(prior, shape), torch.zeros(shape), problem.y, 1e-4)
    hole = (problem.operator.support == 0).expand(shape)
    assert relative(truth[0][hole], exact.mean.reshape(shape)[hole]) > 0.2, "the truth is no mean"
    method = REDDiff(steps=1000)
    x = method.sample(prior, problem, None, NoNoise(), (1, *shape)).samples
    assert relative(real_rows(x)[0], exact.mean) < 0.01
    spreads = []
    for rate in (0.1, 0.02):
        method = REDDiff(steps=500, learning_rate=rate)
        x = method.sample(prior, problem, None, SeededNoise(0, range(16)), (16, *shape)).samples
        assert relative(real_rows(x).mean(0), exact.mean) < 0.2
        assert relative(problem.operator.forward(x), problem.y.expand_as(x)) < 0.03
        spreads.append(float(x.std(0)[hole].mean()))
    posterior = float(exact.covariance.diagonal().reshape(shape)[hole].sqrt().mean())
    assert spreads[1] < 0.6 * spreads[0] < 0.6 * posterior


def covariance(prior, shape):
    """The dense covariance of a stationary prior."""
    eye = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    rows = torch.fft.ifft2(prior.spectrum * torch.fft.fft2(eye)).real
    return rows.reshape(len(eye), -1)


def test_start_of_the_image():
    shape, seen = (1, 6, 6), []

    class Spy(Denoiser):
        info = PriorInfo(name="spy", channels=1)

        def _denoise(self, x, sigma, cond):
            seen.append((x, float(sigma[0])))
            return Prediction(x * 0)

    def first(problem, x_init=None, **settings):
        seen.clear()
        noise = SeededNoise(2, [4])
        REDDiff(steps=2, **settings).sample(Spy(), problem, x_init, noise, (1, *shape))
        again = SeededNoise(2, [4])
        unit, n = (again.normal((1, *shape), seen[0][0].dtype) for _ in range(2))
        return seen[0][0] - seen[0][1] * n, unit

    blur = operator_problem("blur", {"size": 3, "boundary": "circular"}, shape, 0.1)
    ct = operator_problem("ct", {"angles": 5}, shape, 0.1)
    close = {"rtol": 1e-6, "atol": 1e-6}
    assert torch.allclose(first(blur)[0], blur.operator.svd().above(0.03).pinv(blur.y), **close)
    assert torch.allclose(first(ct)[0], ct.operator.pinv(ct.y), **close)
    assert torch.allclose(first(blur, start="adjoint")[0], scaled_adjoint(blur.operator, blur.y), **close)
    assert float(first(blur, start="zero")[0].abs().max()) < 1e-6
    assert torch.allclose(*first(blur, start="noise"), **close)
    given = torch.full((1, *shape), 0.25, dtype=torch.float64)
    assert torch.allclose(first(blur, given)[0], given, **close)
    assert float(given.min()) == float(given.max()) == 0.25, "the estimate is not changed"
    smooth = dense_problem(20, shape, torch.float64, linear=False)
    assert torch.allclose(*first(smooth), **close)


def test_noise_may_be_drawn_once():
    problem, prior = operator_problem("denoise", {}, (1, 4, 4), 0.1), fourier_prior((1, 4, 4))

    class Counting(SeededNoise):
        drawn = 0

        def normal(self, shape, dtype):
            Counting.drawn += 1
            return super().normal(shape, dtype)

    for fresh, expected in ((True, 11), (False, 1)):
        Counting.drawn = 0
        REDDiff(steps=10, fresh_noise=fresh).sample(prior, problem, None, Counting(0, [0]), (1, 1, 4, 4))
        assert Counting.drawn == expected


def test_non_linear_data_are_fitted():
    problem = dense_problem(20, SHAPE[1:], torch.float64, linear=False)
    truth = fourier_prior(SHAPE[1:]).sample(1, generator(1), torch.float64)
    problem = replace(problem, y=problem.operator.forward(truth))
    result = REDDiff(steps=500).sample(fourier_prior(SHAPE[1:]), problem, None, SeededNoise(0, [0]), SHAPE)
    assert relative(problem.operator.forward(result.samples), problem.y) < 0.1
    assert float(result.stats.residuals[-1]) < 0.1 * float(result.stats.residuals[0])


def test_poisson_data_take_their_own_likelihood():
    base = operator_problem("denoise", {}, (1, 4, 4), 0.1)
    likelihood = Poisson(50.0, 2.0, torch.full((1, 1, 4, 4), 3.0, dtype=torch.float64))
    problem = replace(base, likelihood=likelihood)
    u = 0.1 * torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=generator(0))
    gradient, _ = REDDiff(data_weight=0.5)._data_gradient(problem, u, 16)
    rate, counts = 50 * (2 * u + 3), 50 * (2 * problem.y + 3)
    level = (rate / 100**2).flatten(1).mean(1).reshape(-1, 1, 1, 1)
    assert relative(gradient, 0.5 * level * 100 * (1 - counts / rate) / 16) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_sample_does_not_depend_on_its_batch(dtype):
    params = {"mask": "given", "complex_image": dtype.is_complex}
    problem = operator_problem("mri", params, (1, 6, 5), 0.1, torch.float32)
    check_batch_independence(REDDiff(steps=20, sigma_x0=0.05), problem, fourier_prior((1, 6, 5)))


def test_divergence_stops_early_and_returns_finite_values():
    shape, seen = (1, 4, 4), []

    class Explodes(Denoiser):
        info = PriorInfo(name="explodes", channels=1)

        def _denoise(self, x, sigma, cond):
            return Prediction(0.1 * x + (float("nan") if len(seen) >= 30 else 0.0))

    problem = operator_problem("denoise", {}, shape, 0.1)
    result = REDDiff().sample(Explodes(), problem, None, SeededNoise(0, [0]), (1, *shape), seen.append)
    assert result.status is Status.DIVERGED and result.stats.nfe == 50
    assert torch.equal(result.samples, seen[29].x0), "what is reported is not changed later"


def test_the_loop_waits_for_the_device_seldom(monkeypatch):
    problem = operator_problem("mri", {"mask": "given"}, (1, 6, 6), 0.1, torch.float32)
    check_few_looks(REDDiff(), problem, fourier_prior((1, 6, 6)), monkeypatch, 100, 0)


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"learning_rate": 0.0},
        {"lam": -1.0},
        {"data_weight": float("nan")},
        {"sigma_x0": -0.1},
        {"grid": "x"},
    ],
)
def test_settings_are_checked(bad):
    with pytest.raises(ConfigError):
        REDDiff(**bad)


def test_unfit_calls_are_refused():
    problem = matrix_problem(torch.float32, 0.1)
    with pytest.raises(ConfigError, match="prior"):
        REDDiff().sample(None, problem, None, SeededNoise(0, [0]), SHAPE)
    with pytest.raises(ConfigError, match="do not fit"):
        REDDiff().sample(fourier_prior(SHAPE[1:]), problem, None, SeededNoise(0, [0]), (1, 1, 5, 5))
    assert isinstance(problem, Problem) and isinstance(problem.likelihood, Gaussian)
