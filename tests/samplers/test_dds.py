"""DDS against the authors' VP form, and closed forms under a Gaussian prior."""

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
from recon.likelihoods import Gaussian, Poisson, per_item_norm
from recon.operators.cartesian import CartesianMRI
from recon.operators.coils import birdcage_maps
from recon.priors.base import Denoiser, Prediction, PriorInfo
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.samplers.base import SeededNoise, Status
from recon.samplers.dds import DDS

SHAPE = (1, 1, 6, 6)


def authors_cg(matrix, b, x, iterations):
    """Textbook conjugate gradients of the published code, for real vectors of one sample."""
    r = b - matrix(x)
    p, old = r, (r * r).sum()
    for _ in range(iterations):
        ap = matrix(p)
        alpha = old / (p * ap).sum()
        x = x + alpha * p
        r = r - alpha * ap
        new = (r * r).sum()
        if abs(float(new) ** 0.5) < 1e-5:
            break
        p = r + new / old * p
        old = new
    return x


def authors_form(net, problem, noise, steps, eta, gamma, mode, shape, clean_last_call):
    """The published loop in VP coordinates; yields the corrected x0hat of each step."""
    ab_all = schedules.vp_alpha_bars()
    a, at, y = problem.operator.forward, problem.operator.adjoint, problem.y
    skip = 1000 // steps
    times = [k * skip for k in range(steps)][::-1]
    x = noise.normal(shape, y.real.dtype)
    for i, j in zip(times, [*times[1:], -1], strict=True):
        ab, ab_next = ab_all[i], ab_all[j] if j >= 0 else 1.0
        e = net(x, i)[:, : shape[1]]
        x0 = (x - math.sqrt(1 - ab) * e) / math.sqrt(ab)
        if mode == "projection":
            x0h = x0 - problem.operator.pinv(a(x0) - y)
        elif mode == "cg-noiseless":
            x0h = authors_cg(lambda v: at(a(v)), at(y), x0, 5)
        else:
            x0h = authors_cg(lambda v: v + gamma * at(a(v)), x0 + gamma * at(y), x0, 5)
        yield x0h
        if j < 0 or (j == 0 and clean_last_call):
            x = x0h
        else:
            z = noise.normal(shape, x.dtype)
            x = math.sqrt(ab_next) * x0h + math.sqrt(1 - ab_next) * (eta * z + math.sqrt(1 - eta**2) * e)


def run_recording(method, prior, problem, noise, shape):
    seen = []
    result = method.sample(prior, problem, None, noise, shape, lambda step: seen.append(step.x0.clone()))
    return seen, result


def fourier_problem(shape, dtype, sigma=0.05):
    mask = (torch.rand(shape[1:], generator=generator(0)) < 0.5).to(dtype.to_real())
    operator = MaskedFourier(mask, dtype)
    truth = torch.randn(1, *shape, generator=generator(1), dtype=dtype)
    return Problem(operator, operator.forward(truth), Gaussian(sigma))


@pytest.mark.parametrize("mode", ["cg", "cg-noiseless", "projection"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("steps", [50, 200])
def test_matches_the_authors_code_step_by_step(mode, dtype, steps):
    net = EpsNet(1, False)
    problem = dense_problem(20, SHAPE[1:], dtype) if mode != "projection" else fourier_problem(SHAPE[1:], dtype)
    method = DDS(steps=steps, correction=mode, gamma=2.0)
    ours, result = run_recording(method, VPDenoiser(net), problem, SeededNoise(3, [0]), SHAPE)
    limit = 1e-9 if dtype == torch.float64 else 1e-4
    for clean_last_call in (False, True):
        theirs = list(authors_form(net, problem, SeededNoise(3, [0]), steps, 0.85, 2.0, mode, SHAPE, clean_last_call))
        assert len(ours) == len(theirs) == steps
        # the code hands the clean estimate to its last network call: the step that we take like every other
        compared = slice(None, -1 if clean_last_call else None)
        pairs = zip(ours[compared], theirs[compared], strict=True)
        assert max(relative(a, b) for a, b in pairs) < limit
    assert torch.equal(result.samples, ours[-1])
    assert result.samples.dtype == dtype
    assert result.stats.nfe == len(result.stats.residuals) == steps
    assert result.stats.operator_calls == steps * (2 if mode == "projection" else 12)
    assert result.stats.backprops == 0


def test_matched_weighting_is_unbiased_and_fits_the_noise_where_constant_gamma_overfits():
    shape, sigma = (1, 8, 8), 0.1
    prior = GaussianPrior(power_law_spectrum(shape, 0.0, 0.5))
    y = prior.sample(1, generator(4)) + sigma * torch.randn(1, *shape, generator=generator(5))
    problem, exact = identity_problem(y, sigma), prior.posterior(y[0], sigma)
    found = {}
    for weighting, gamma in (("matched", 1.0), ("constant", 50.0)):
        method = DDS(steps=100, grid="edm", eta=1.0, gamma=gamma, weighting=weighting)
        x = method.sample(prior, problem, None, BatchNoise(2), (500, *shape)).samples.double()
        r = (x.mean(0) - y[0]).square().mean().sqrt() / sigma
        found[weighting] = relative(x.mean(0), exact.mean), float(r)
    # a white prior of the assumed spread: the conditional mean is exact at every level, so the chain is unbiased
    assert found["matched"][0] < 1e-2 < 3e-2 < found["constant"][0]
    fitted = float((exact.mean - y[0]).square().mean().sqrt()) / sigma
    assert abs(found["matched"][1] / fitted - 1) < 0.05
    assert found["constant"][1] < 0.6 * fitted


def test_matched_weighting_is_per_sample_and_takes_poisson_data():
    shape = (1, 6, 6)
    prior = GaussianPrior(power_law_spectrum(shape, 2.0, 0.2), 0.5)
    rate = prior.sample(2, generator(1)).clamp_min(0.05)
    y = torch.poisson(20 * rate, generator=generator(2)) / 20
    problem = Problem(
        Dense(torch.eye(36), shape), y.flatten(1), Poisson(gain=20.0, scale=1.0, offset=torch.zeros(1, 36))
    )
    method = DDS(steps=30, grid="edm", eta=1.0, weighting="matched")
    both = method.sample(prior, problem, None, SeededNoise(0, [0, 1]), (2, *shape)).samples
    alone = method.sample(prior, replace(problem, y=problem.y[1:]), None, SeededNoise(0, [1]), (1, *shape)).samples
    assert relative(both[1:], alone) < 1e-5
    assert (both - rate).square().mean() < 0.8 * (y - rate).square().mean()


def test_operator_calls_are_counted_truly():
    calls = []

    class Counted(Dense.__mro__[1]):
        def __init__(self, base):
            self.base = base
            self.in_shape, self.out_shape = base.in_shape, base.out_shape

        def _forward(self, x):
            calls.append(1)
            return self.base.forward(x)

        def _adjoint(self, y):
            calls.append(1)
            return self.base.adjoint(y)

    problem = dense_problem(20, SHAPE[1:], torch.float32)
    problem = replace(problem, operator=Counted(problem.operator))
    result = DDS(steps=10).sample(VPDenoiser(EpsNet(1, False)), problem, None, SeededNoise(0, [0]), SHAPE)
    assert len(calls) == result.stats.operator_calls == 10 * 12


def test_multi_coil_correction_solves_the_complex_normal_equations():
    size = 6
    coils = torch.randn(3, size, size, generator=generator(2), dtype=torch.complex128)
    mask = (torch.rand(size, size, generator=generator(3)) < 0.4).double()
    operator = MultiCoil(mask, coils)
    y = mask * torch.randn(1, 3, size, size, generator=generator(4), dtype=torch.complex128)
    prior = GaussianPrior(power_law_spectrum((1, size, size), 1.0, 1.0))
    gamma, denoised = 3.0, []

    class Spy(Denoiser):
        info = PriorInfo(name="spy", channels=1)

        def _denoise(self, x, sigma, cond):
            denoised.append(prior(x, sigma).x0)
            return Prediction(denoised[-1])

    method = DDS(steps=8, gamma=gamma, cg_iterations=60)
    shape = (1, 1, size, size)
    corrected, _ = run_recording(method, Spy(), Problem(operator, y, Gaussian(0.1)), SeededNoise(0, [0]), shape)
    units = torch.eye(size * size, dtype=torch.complex128).reshape(-1, 1, size, size)
    normal = operator.normal(units).reshape(size * size, -1).T
    for x0, found in zip(denoised, corrected, strict=True):
        b = (x0 + gamma * operator.adjoint(y)).flatten()
        exact = torch.linalg.solve(torch.eye(size * size) + gamma * normal, b)
        assert relative(found.flatten(), exact) < 1e-5


def test_auto_is_exact_for_exact_data():
    shape = (1, 6, 6)
    prior = GaussianPrior(power_law_spectrum(shape, 2.0, 0.5))
    for sigma, same, other in ((0.0, "cg-noiseless", "cg"), (0.05, "cg", "cg-noiseless")):
        problem = fourier_problem(shape, torch.complex64, sigma)

        def run(correction, problem=problem):
            method = DDS(steps=10, correction=correction)
            return method.sample(prior, problem, None, SeededNoise(0, [0]), (1, *shape)).samples

        assert torch.equal(run("auto"), run(same))
        assert relative(run("auto"), run(other)) > 0.05
    exact = fourier_problem(shape, torch.complex64, 0.0)
    sample = DDS(steps=10).sample(prior, exact, None, SeededNoise(0, [0]), (1, *shape)).samples
    assert relative(exact.operator.forward(sample), exact.y) < 1e-5


@pytest.mark.parametrize("weighting", ["constant", "matched"])
def test_exact_correction_is_the_limit_of_cg_and_falls_back_to_it(weighting):
    shape = (1, 6, 6)
    prior = GaussianPrior(power_law_spectrum(shape, 2.0, 0.5))

    def run(problem, correction, iterations):
        method = DDS(steps=10, correction=correction, cg_iterations=iterations, weighting=weighting, gamma=2.0)
        result = method.sample(prior, problem, None, SeededNoise(0, [0]), (1, *shape))
        return result.samples, result.stats.operator_calls

    mask = (torch.rand(shape[1:], generator=generator(3)) < 0.5).double()
    mri = CartesianMRI(mask, None, complex_image=False)
    problem = Problem(mri, mri.forward(torch.randn(1, *shape, generator=generator(4)).double()), Gaussian(0.05))
    closed, calls = run(problem, "exact", 0)
    assert relative(closed, run(problem, "cg", 40)[0]) < 1e-5 and calls == 20
    assert relative(closed, run(problem, "cg", 1)[0]) > 1e-3

    maps = torch.from_numpy(birdcage_maps(2, shape[1:])).to(torch.complex128)
    coils = CartesianMRI(mask, maps, complex_image=False)
    several = Problem(coils, coils.forward(torch.randn(1, *shape, generator=generator(4)).double()), Gaussian(0.05))
    samples, calls = run(several, "exact", 3)
    assert torch.equal(samples, run(several, "cg", 3)[0]) and calls == 80
    with pytest.raises(ConfigError, match="gamma"):
        DDS(correction="exact", gamma=0.0)


@pytest.mark.parametrize("sigma", [0.0, 1e-6, 1e-4, 1e-3])
def test_exact_correction_holds_where_the_data_have_next_to_no_noise(sigma):
    shape = (1, 33, 29)
    prior = GaussianPrior(power_law_spectrum(shape, 2.0, 0.5))
    mask = (torch.rand(shape[1:], generator=generator(3)) < 0.4).float()
    mri = CartesianMRI(mask, None, complex_image=False)
    problem = Problem(mri, mri.forward(prior.sample(1, generator(4)).float()), Gaussian(sigma))

    def run(correction):
        method = DDS(steps=20, grid="edm:0.01:1", eta=1.0, weighting="matched", correction=correction, cg_iterations=10)
        return method.sample(prior, problem, None, SeededNoise(0, [0]), (1, *shape)).samples

    assert relative(run("exact"), run("auto")) < 0.05


def chain(sigmas, spectrum, gamma, eta):
    """Mean (as a multiple of y) and variance of each Fourier mode, for denoising: every step is linear."""
    mean, variance = torch.zeros_like(spectrum), torch.full_like(spectrum, 1 + sigmas[0] ** 2)
    for t, s in pairwise(sigmas):
        shrink = spectrum / (spectrum + t**2)
        keep = shrink / (1 + gamma) + s * math.sqrt(1 - eta**2) * (1 - shrink) / t
        mean, variance = keep * mean + gamma / (1 + gamma), keep**2 * variance + (s * eta) ** 2
    return mean, variance


def identity_problem(y, sigma):
    size = y[0].numel()
    return Problem(Dense(torch.eye(size), tuple(y.shape[1:])), y.reshape(1, size), Gaussian(sigma))


@pytest.mark.parametrize(
    ("exponent", "gamma", "sigma", "closeness"),
    [(0.0, 0.336, 0.2, 0.03), (2.0, 0.3, 0.2, 0.12), (2.0, 0.18, 0.3, 0.15)],
)
def test_denoising_follows_the_linear_recursion_near_the_posterior_mean(exponent, gamma, sigma, closeness):
    shape = (1, 8, 8)
    spectrum = power_law_spectrum(shape, exponent, 0.5)
    prior = GaussianPrior(spectrum)
    y = prior.sample(1, generator(4)) + sigma * torch.randn(1, *shape, generator=generator(5))
    method = DDS(gamma=gamma)
    x = method.sample(prior, identity_problem(y, sigma), None, BatchNoise(2), (1000, *shape)).samples.double()
    mean, variance = chain(schedules.vp_discrete(50), spectrum, gamma, 0.85)
    expected = torch.fft.ifft2(mean * torch.fft.fft2(y[0].double())).real
    assert relative(x.mean(0), expected) < 0.03
    power = (torch.fft.fft2(x - x.mean(0), norm="ortho").abs() ** 2).mean(0) / variance
    assert abs(float(power.mean()) - 1) < 0.03
    exact = prior.posterior(y[0], sigma)
    assert relative(x.mean(0), exact.mean) < closeness
    assert relative(x.mean(0), exact.mean) < 0.75 * relative(y[0].double(), exact.mean)


@pytest.mark.parametrize(
    ("steps", "eta", "bias"), [pytest.param(1000, 0.0, 0.02, marks=pytest.mark.slow), (50, 0.85, 0.6)]
)
def test_without_data_it_samples_the_prior(steps, eta, bias):
    shape = (1, 7, 8)
    spectrum = power_law_spectrum(shape, 2.0, 0.8)
    prior = GaussianPrior(spectrum, 0.2)
    problem = identity_problem(torch.zeros(1, *shape), 0.1)
    method = DDS(steps=steps, eta=eta, gamma=0.0)
    x = method.sample(prior, problem, None, BatchNoise(1), (400, *shape)).samples
    _, variance = chain(schedules.vp_discrete(steps), spectrum, 0.0, eta)
    power = (torch.fft.fft2(x.double() - 0.2, norm="ortho").abs() ** 2).mean(0)
    assert abs(float((power / variance).mean()) - 1) < 0.03
    # eta = 0 with many steps is the probability-flow ODE; fresh noise at a fixed share loses variance
    assert float((variance / spectrum - 1).abs().max()) < bias
    if eta > 0:
        assert float((variance / spectrum).max()) < 0.8
    assert abs(float(x.mean()) - 0.2) < 4 * (float(spectrum[0, 0, 0]) / x.numel()) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_sample_does_not_depend_on_its_batch(dtype):
    shape = (1, 6, 5)
    problem = fourier_problem(shape, dtype)
    prior = GaussianPrior(power_law_spectrum(shape, 2.0, 0.5))
    alone = DDS(steps=20).sample(prior, problem, None, SeededNoise(11, [7]), (1, *shape)).samples
    batch = DDS(steps=20).sample(prior, problem, None, SeededNoise(11, [5, 6, 7]), (3, *shape)).samples
    assert alone.dtype == dtype
    assert relative(batch[2:], alone) < 1e-4
    assert relative(batch[:1], alone) > 1e-2
    per_sample_y = replace(problem, y=problem.y.expand(3, *problem.y.shape[1:]).clone())
    again = DDS(steps=20).sample(prior, per_sample_y, None, SeededNoise(11, [5, 6, 7]), (3, *shape)).samples
    assert relative(again, batch) < 1e-5


def test_residual_is_of_the_denoised_image():
    shape = (1, 6, 6)
    problem, prior = fourier_problem(shape, torch.float32, 0.3), GaussianPrior(power_law_spectrum(shape, 2.0, 0.5))
    stats = DDS(steps=5, gamma=0.0).sample(prior, problem, None, SeededNoise(0, [0, 1]), (2, *shape)).stats
    seen, _ = run_recording(DDS(steps=5, gamma=0.0), prior, problem, SeededNoise(0, [0, 1]), (2, *shape))
    for x0, residual in zip(seen, stats.residuals, strict=True):
        z = problem.operator.forward(x0)
        expected = per_item_norm(z - problem.y) / (0.3 * problem.operator.measured() ** 0.5)
        assert torch.allclose(residual, expected, rtol=1e-5)


def test_start_from_an_estimate_is_noised_to_the_first_level():
    shape, states = (1, 4, 4), []

    class Spy(Denoiser):
        info = PriorInfo(name="spy", channels=1)

        def _denoise(self, x, sigma, cond):
            states.append((x.clone(), float(sigma[0])))
            return Prediction(x * 0)

    problem, init = fourier_problem(shape, torch.float32), torch.full((1, *shape), 0.5)
    z = SeededNoise(2, [4]).normal((1, *shape), torch.float32)
    for grid, start in (("vp", init), ("vp", None), ("edm", None)):
        states.clear()
        DDS(steps=3, grid=grid).sample(Spy(), problem, start, SeededNoise(2, [4]), (1, *shape))
        x, sigma = states[0]
        expected = z * ((1 + sigma**2) ** 0.5 if grid == "vp" else sigma) if start is None else init + sigma * z
        assert torch.allclose(x, expected, rtol=1e-5)
        assert len(states) == 3


def test_divergence_stops_early_and_returns_finite_values():
    shape, seen = (1, 4, 4), []

    class Explodes(Denoiser):
        info = PriorInfo(name="explodes", channels=1)

        def _denoise(self, x, sigma, cond):
            return Prediction(0.1 * x + (float("inf") if len(seen) >= 30 else 0.0))

    result = DDS(steps=100).sample(
        Explodes(), fourier_problem(shape, torch.complex64), None, SeededNoise(0, [0]), (1, *shape), seen.append
    )
    assert result.status is Status.DIVERGED
    assert result.stats.nfe == 50
    assert torch.equal(result.samples, seen[29].x0)


def test_loop_waits_for_the_device_at_most_every_25_steps(monkeypatch):
    shape = (1, 6, 6)
    problem, prior = fourier_problem(shape, torch.complex64), GaussianPrior(power_law_spectrum(shape, 2.0, 0.5))
    looks = []
    for name in ("item", "__bool__", "__float__", "__int__", "__index__", "tolist", "numpy", "cpu"):
        original = getattr(torch.Tensor, name)

        def spied(self, *args, _original=original, _name=name, **kwargs):
            looks.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, spied)
    DDS(steps=100).sample(prior, problem, None, SeededNoise(0, [0]), (1, *shape))
    assert 1 <= len(looks) <= 100 // 25 + 2


def test_unfit_operators_are_refused():
    prior = VPDenoiser(EpsNet(1, False))
    saturating = dense_problem(20, SHAPE[1:], torch.float32, linear=False)
    with pytest.raises(ConfigError, match="linear"):
        DDS(steps=2).sample(prior, saturating, None, SeededNoise(0, [0]), SHAPE)
    dense = dense_problem(20, SHAPE[1:], torch.float32)
    with pytest.raises(ConfigError, match="pseudo-inverse"):
        DDS(steps=2, correction="projection").sample(prior, dense, None, SeededNoise(0, [0]), SHAPE)
    with pytest.raises(ConfigError, match="do not fit"):
        DDS(steps=2).sample(prior, dense, None, SeededNoise(0, [0]), (1, 1, 5, 5))
    with pytest.raises(ConfigError, match="prior"):
        DDS(steps=2).sample(None, dense, None, SeededNoise(0, [0]), SHAPE)


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"eta": 1.1}, {"gamma": -1.0}, {"gamma": float("nan")}, {"cg_iterations": -1}, {"grid": "x"}]
)
def test_settings_are_checked(bad):
    with pytest.raises(ConfigError):
        DDS(**bad)


def test_grid_is_the_published_one():
    assert DDS().network_calls == 50
    ab = schedules.vp_alpha_bars()[np.arange(980, -1, -20)]
    assert np.allclose(schedules.grid(DDS().grid, DDS().steps)[:-1], np.sqrt((1 - ab) / ab))
