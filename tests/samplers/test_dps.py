"""DPS against the authors' VP form, InverseBench's form, and closed forms under a Gaussian prior."""

import math
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
from recon.likelihoods import Gaussian
from recon.operators.denoise import Identity
from recon.priors.base import Denoiser, Prediction, PriorInfo
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.samplers.base import SeededNoise, Status
from recon.samplers.dps import DPS

SHAPE = (1, 2, 4, 4)
ROWS = 64  # more than unknowns: ||r|| stays away from its kink at 0, where trajectories are chaotic


def authors_form(net, problem, noise, times, zeta, norm, clip):
    """The published loop in VP coordinates; yields x0hat of each step, then the final state."""
    ab_all = schedules.vp_alpha_bars()
    dtype = problem.y.dtype
    x = noise.normal(SHAPE, dtype)
    for t, prev in zip(times, [*times[1:], -1], strict=True):
        ab, ab_prev = ab_all[t], ab_all[prev] if prev >= 0 else 1.0
        b = 1 - ab / ab_prev
        low = b * (1 - ab_prev) / (1 - ab)
        x = x.detach().requires_grad_()
        out = net(x, t)
        eps, v = out[:, :2], out[:, 2:]
        x0 = x * math.sqrt(1 / ab) - math.sqrt(1 / ab - 1) * eps
        if clip:
            x0 = x0.clamp(-1, 1)
        mean = b * math.sqrt(ab_prev) / (1 - ab) * x0 + (1 - ab_prev) * math.sqrt(1 - b) / (1 - ab) * x
        new = mean
        if prev >= 0:
            f = (v + 1) / 2
            log_variance = (
                f * math.log(b) + (1 - f) * math.log(low) if v.shape[1] else torch.tensor(math.log(low), dtype=dtype)
            )
            new = mean + (0.5 * log_variance).exp() * noise.normal(SHAPE, dtype)
        r = problem.y - problem.operator.forward(x0)
        n = torch.linalg.norm(r)
        if norm == "squared":
            n = n**2
        if norm == "poisson":
            n = (torch.linalg.norm(r) / problem.y.abs()).mean()
        (grad,) = torch.autograd.grad(n, x)
        x = (new - zeta * grad).detach()
        yield x0.detach()
    yield x


def run_recording(method, prior, problem, noise, shape=SHAPE):
    seen = []
    result = method.sample(prior, problem, None, noise, shape, lambda step: seen.append(step.x0.clone()))
    return [*seen, result.samples], result


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize(
    ("steps", "norm"),
    [pytest.param(1000, "norm", marks=pytest.mark.slow), (100, "norm"), (100, "squared"), (100, "poisson")],
)
def test_matches_the_authors_code_step_by_step(steps, learned, norm):
    net = EpsNet(2, learned)
    problem = dense_problem(ROWS, SHAPE[1:], torch.float64)
    times = [int(t) for t in np.arange(steps)[::-1] * (1000 // steps)]
    zeta = {"norm": 0.5, "squared": 0.1, "poisson": 0.05}[norm]
    method = DPS(steps=steps, zeta=zeta, norm=norm)
    ours, result = run_recording(method, VPDenoiser(net), problem, SeededNoise(3, [0]))
    theirs = list(authors_form(net, problem, SeededNoise(3, [0]), times, zeta, norm, True))
    assert len(ours) == len(theirs) == steps + 1
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) < 1e-8
    assert (result.stats.nfe, result.stats.backprops, len(result.stats.residuals)) == (steps, steps, steps)
    assert result.status is Status.OK


@pytest.mark.parametrize("clip", [True, False])
def test_matches_the_authors_code_in_float32(clip):
    net = EpsNet(2, True)
    problem = dense_problem(ROWS, SHAPE[1:], torch.float32)
    times = [int(t) for t in np.arange(200)[::-1] * 5]
    method = DPS(steps=200, zeta=0.3, clip=clip)
    ours, _ = run_recording(method, VPDenoiser(net), problem, SeededNoise(3, [0]))
    theirs = list(authors_form(net, problem, SeededNoise(3, [0]), times, 0.3, "norm", clip))
    assert ours[0].dtype == torch.float32
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) < 1e-4


def inverse_bench_form(prior, problem, noise, grid, steps, zeta, sde):
    """InverseBench's scheduler and update; yields x0hat of each step, then the final state (at sigma = 0)."""
    if grid == "vp-continuous":
        t = np.linspace(1, 1e-3, steps)
        sigma = np.sqrt(np.exp(9.95 * t**2 + 0.1 * t) - 1)
        scale = 1 / np.sqrt(1 + sigma**2)
        sigma_dot = (19.9 * t + 0.1) * (1 + sigma**2) / (2 * sigma)
        scale_dot = -sigma * sigma_dot * scale**3
        start, factor = 1.0, lambda _i: 1.0
    else:
        t = sigma = schedules.grid(grid, steps)[:-1]
        scale, sigma_dot, scale_dot = np.ones(steps), np.ones(steps), np.zeros(steps)
        ends = np.append(sigma, 0.0)
        # unscaled coordinates keep the VP meaning of zeta
        start, factor = sigma[0], lambda i: math.sqrt((1 + ends[i] ** 2) * (1 + ends[i + 1] ** 2))
    x = start * noise.normal(SHAPE, problem.y.dtype)
    for i in range(steps):
        x = x.detach().requires_grad_()
        d = prior(x / scale[i], sigma[i]).x0
        (grad,) = torch.autograd.grad(torch.linalg.norm(problem.y - problem.operator.forward(d)), x)
        yield d.detach()
        if i == steps - 1:
            x = d - factor(i) * zeta * grad
            break
        dt = t[i] - t[i + 1]
        f = 2 * scale[i] ** 2 * sigma_dot[i] * sigma[i] * dt
        score = (d - x / scale[i]) / sigma[i] ** 2 / scale[i]
        drift = f * score + math.sqrt(f) * noise.normal(SHAPE, x.dtype) if sde else 0.5 * f * score
        x = x * (1 - scale_dot[i] / scale[i] * dt) + drift - factor(i) * zeta * grad
    yield x.detach()


@pytest.mark.parametrize("grid", ["vp-continuous", "edm"])
@pytest.mark.parametrize("form", ["sde", "ode"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_matches_inverse_bench_step_by_step(grid, form, dtype):
    prior = GaussianPrior(power_law_spectrum(SHAPE[1:], 2.0, 0.5))
    problem = dense_problem(ROWS, SHAPE[1:], dtype)
    method = DPS(steps=200, grid=grid, form=form, zeta=0.2, clip=False)
    ours, result = run_recording(method, prior, problem, SeededNoise(5, [0]))
    theirs = list(inverse_bench_form(prior, problem, SeededNoise(5, [0]), grid, 200, 0.2, form == "sde"))
    assert len(ours) == len(theirs) == 201
    limit = 1e-9 if dtype == torch.float64 else 1e-4
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) < limit
    assert result.samples.dtype == dtype


def moments_of_linear_chain(grid, steps, spectrum, step_gain, sigma_s_of_noise):
    """Follow mean (as a multiple of y) and variance of x_s = keep x_t + pull y + noise, mode by mode."""
    sigmas = schedules.grid(grid, steps)
    start = sigmas[0] ** 2 + (1 if grid == "vp" else 0)
    mean, variance = torch.zeros_like(spectrum), torch.full_like(spectrum, start)
    for t, s in pairwise(sigmas):
        keep, pull = step_gain(spectrum / (spectrum + t**2), t, s)
        mean, variance = keep * mean + pull, keep**2 * variance + sigma_s_of_noise(t, s) ** 2
    return mean, variance


def identity_problem(y, sigma):
    size = y[0].numel()
    operator = Dense(torch.eye(size, dtype=y.dtype), tuple(y.shape[1:]))
    return Problem(operator, y.reshape(1, size), Gaussian(sigma))


@pytest.mark.parametrize(
    ("form", "grid", "steps", "bias"),
    [
        pytest.param("ancestral", "vp", 1000, 0.1, marks=pytest.mark.slow),
        ("ancestral", "edm", 250, 0.1),
        ("ode", "edm", 250, 0.05),
    ],
)
def test_without_data_it_samples_the_prior(form, grid, steps, bias):
    shape = (1, 7, 8)
    spectrum = power_law_spectrum(shape, 2.0, 0.3)
    prior = GaussianPrior(spectrum, 0.2)
    problem = identity_problem(torch.zeros(1, *shape), 0.1)
    method = DPS(steps=steps, grid=grid, form=form, zeta=0.0, clip=False)
    x = method.sample(prior, problem, None, BatchNoise(1), (400, *shape)).samples

    def step_gain(shrink, t, s):
        return shrink + (s / t) ** (2 if form == "ancestral" else 1) * (1 - shrink), 0.0

    def noise_level(t, s):
        return s * math.sqrt(t**2 - s**2) / t if form == "ancestral" else 0.0

    _, variance = moments_of_linear_chain(grid, steps, spectrum, step_gain, noise_level)
    power = (torch.fft.fft2(x.double() - 0.2, norm="ortho").abs() ** 2).mean(0)
    # what a finite number of steps gives, and how far that is from the prior
    assert abs(float((power / variance).mean()) - 1) < 0.03
    assert float((power.log() - variance.log()).abs().max()) < 0.5
    assert float((variance / spectrum - 1).abs().max()) < bias
    assert abs(float(x.mean()) - 0.2) < 4 * (float(spectrum[0, 0, 0]) / x.numel()) ** 0.5


def test_squared_norm_follows_the_linear_recursion_and_comes_near_the_posterior_mean():
    shape, steps, zeta, sigma = (1, 8, 8), 250, 0.03, 0.2
    spectrum = power_law_spectrum(shape, 2.0, 0.5)
    prior = GaussianPrior(spectrum)
    y = prior.sample(1, generator(4)) + sigma * torch.randn(1, *shape, generator=generator(5))
    method = DPS(steps=steps, zeta=zeta, norm="squared", clip=False)
    x = method.sample(prior, identity_problem(y, sigma), None, BatchNoise(2), (800, *shape)).samples.double()

    def step_gain(shrink, t, s):
        pull = 2 * zeta * math.sqrt((1 + s**2) * (1 + t**2)) * shrink
        return shrink + (s / t) ** 2 * (1 - shrink) - pull * shrink, pull

    def noise_level(t, s):
        return s * math.sqrt(t**2 - s**2) / t

    mean, variance = moments_of_linear_chain("vp", steps, spectrum, step_gain, noise_level)
    expected = torch.fft.ifft2(mean * torch.fft.fft2(y[0].double())).real
    assert relative(x.mean(0), expected) < 0.03
    power = (torch.fft.fft2(x - x.mean(0), norm="ortho").abs() ** 2).mean(0) / variance
    assert abs(float(power.mean()) - 1) < 0.03
    exact = prior.posterior(y[0], sigma)
    assert relative(x.mean(0), exact.mean) < 0.05 < 0.2 < relative(y[0].double(), exact.mean)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_sample_does_not_depend_on_its_batch(dtype):
    shape = (1, 6, 5)
    problem = fourier_problem(shape, dtype)
    prior = GaussianPrior(power_law_spectrum(shape, 2.0, 0.5))
    method = DPS(steps=60, zeta=0.5)
    alone = method.sample(prior, problem, None, SeededNoise(11, [7]), (1, *shape)).samples
    batch = method.sample(prior, problem, None, SeededNoise(11, [5, 6, 7]), (3, *shape)).samples
    assert alone.dtype == dtype
    assert relative(batch[2:], alone) < 1e-4
    assert relative(batch[:1], alone) > 1e-2


def fourier_problem(shape, dtype):
    mask = (torch.rand(shape[1:], generator=generator(0)) < 0.6).float()
    operator = MaskedFourier(mask, dtype)
    truth = torch.randn(1, *shape, generator=generator(1), dtype=dtype)
    return Problem(operator, operator.forward(truth), Gaussian(0.05))


def test_complex_image_is_sampled_like_its_two_parts():
    shape = (1, 4, 4)
    spectrum = power_law_spectrum(shape, 1.0, 0.5).clone()
    complex_problem = fourier_problem(shape, torch.complex128)
    operator = complex_problem.operator

    class Parts(Denoiser):
        info = PriorInfo(name="parts", channels=2, value_range=(-9.0, 9.0))

        def _denoise(self, x, sigma, cond):
            x0 = GaussianPrior(spectrum)(torch.complex(x[:, :1], x[:, 1:]), sigma).x0
            return Prediction(torch.cat([x0.real, x0.imag], 1))

    columns = torch.eye(32, dtype=torch.float64).reshape(32, 2, 4, 4)
    image = operator.forward(torch.complex(columns[:, :1], columns[:, 1:]))
    stacked = Dense(torch.view_as_real(image).flatten(1).T.contiguous(), (2, 4, 4))
    real_problem = Problem(stacked, torch.view_as_real(complex_problem.y).flatten(1), Gaussian(0.05))

    class PartNoise:
        def __init__(self):
            self.source = SeededNoise(1, [0])

        def normal(self, shape, dtype):
            z = self.source.normal((1, 1, 4, 4), torch.complex128)
            return torch.cat([z.real, z.imag], 1)

    method = DPS(steps=80, zeta=0.3, clip=False)
    ours = method.sample(GaussianPrior(spectrum), complex_problem, None, SeededNoise(1, [0]), (1, *shape))
    pair = method.sample(Parts(), real_problem, None, PartNoise(), (1, 2, 4, 4))
    assert relative(torch.cat([ours.samples.real, ours.samples.imag], 1), pair.samples) < 1e-9
    assert relative(torch.stack(ours.stats.residuals), torch.stack(pair.stats.residuals)) > 0
    ratio = torch.stack(ours.stats.residuals) / torch.stack(pair.stats.residuals)
    assert float(ratio.std()) < 1e-9


def test_nonlinear_operator_is_fitted():
    shape = (1, 8, 8)
    problem = dense_problem(40, shape, torch.float64, linear=False)
    prior = GaussianPrior(power_law_spectrum(shape, 1.0, 1.0))
    truth = prior.sample(1, generator(8), torch.float64)
    problem = Problem(problem.operator, problem.operator.forward(truth), Gaussian(0.05))
    method = DPS(steps=200, zeta=1.0, clip=False)
    result = method.sample(prior, problem, None, SeededNoise(0, [0]), (1, *shape))
    guess = prior.sample(1, generator(9), torch.float64)

    def misfit(x):
        return relative(problem.operator.forward(x), problem.y)

    assert misfit(result.samples) < 0.2 < 0.5 < misfit(guess)


def test_start_from_an_estimate_is_noised_to_the_first_level():
    shape = (1, 4, 4)
    states = []

    class Spy(Denoiser):
        info = PriorInfo(name="spy", channels=1)

        def _denoise(self, x, sigma, cond):
            states.append((x.detach().clone(), float(sigma[0])))
            return Prediction(x * 0)

    problem = fourier_problem(shape, torch.float32)
    init = torch.full((1, *shape), 0.5)
    DPS(steps=3).sample(Spy(), problem, init, SeededNoise(2, [4]), (1, *shape))
    x, sigma = states[0]
    z = SeededNoise(2, [4]).normal((1, *shape), torch.float32)
    assert torch.allclose(x, init + sigma * z)


def test_divergence_stops_early_and_returns_finite_values():
    shape, seen = (1, 4, 4), []

    class Explodes(Denoiser):
        info = PriorInfo(name="explodes", channels=1)

        def _denoise(self, x, sigma, cond):
            bad = float("nan") if len(seen) >= 40 else 1.0
            return Prediction(0.1 * x * bad + len(seen))

    result = DPS(steps=200, zeta=0.1, clip=False).sample(
        Explodes(), fourier_problem(shape, torch.float32), None, SeededNoise(0, [0]), (1, *shape), seen.append
    )
    assert result.status is Status.DIVERGED
    assert result.stats.nfe == 50
    assert torch.equal(result.samples, seen[39].x0)
    assert bool(torch.isfinite(result.samples).all())


def test_loop_waits_for_the_device_at_most_every_25_steps(monkeypatch):
    shape = (1, 6, 6)
    problem, prior = fourier_problem(shape, torch.float32), GaussianPrior(power_law_spectrum(shape, 2.0, 0.5))
    looks = count_looks(monkeypatch)
    DPS(steps=100).sample(prior, problem, None, SeededNoise(0, [0]), (1, *shape))
    assert 1 <= len(looks) <= 100 // 25 + 2


def count_looks(monkeypatch):
    """Record every way in which Python reads a value off a tensor."""
    looks = []
    for name in ("item", "__bool__", "__float__", "__int__", "__index__", "tolist", "numpy", "cpu"):
        original = getattr(torch.Tensor, name)

        def spied(self, *args, _original=original, _name=name, **kwargs):
            looks.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, spied)
    return looks


def test_poisson_norm_counts_measured_values_alone():
    shape = (1, 4, 4)
    problem = fourier_problem(shape, torch.complex64)
    weight = DPS(norm="poisson")._weight(problem)
    held = problem.y[:, :, problem.operator.mask > 0].abs()
    assert torch.allclose(weight, (1 / held.clamp_min(1e-3)).mean().reshape(1))


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"zeta": -1.0}, {"zeta": float("nan")}, {"grid": "cosine"}, {"steps": 1001}]
)
def test_settings_are_checked(bad):
    with pytest.raises(ConfigError):
        DPS(**bad)


def test_network_calls_is_the_number_of_levels():
    assert DPS().network_calls == 1000
    assert DPS(steps=30, grid="edm").network_calls == 30
    quadratic = DPS(steps=900, grid="vp-quadratic")
    assert quadratic.network_calls == len(schedules.grid("vp-quadratic", 900)) - 1 < 900


class Tiled:
    """The same noise in each of n x n tiles."""

    def __init__(self, source, n):
        self.source, self.n = source, n

    def normal(self, shape, dtype):
        return self.source.normal((*shape[:-2], *(side // self.n for side in shape[-2:])), dtype).tile(self.n, self.n)


RMS = {"zeta": 0.02, "norm": "rms"}


def test_the_step_of_the_rms_does_not_depend_on_the_size_of_the_image():
    y = torch.randn(1, 1, 5, 6, dtype=torch.float64, generator=generator(4))

    def sampled(n, settings):
        data, noise = y.tile(n, n), Tiled(SeededNoise(5, [0]), n)
        shape = tuple(data.shape[1:])
        problem, prior = Problem(Identity(shape), data, Gaussian(0.1)), GaussianPrior(torch.full(shape, 0.3), 0.2)
        return DPS(steps=20, clip=False, **settings).sample(prior, problem, None, noise, (1, *shape)).samples

    small = sampled(1, RMS)
    assert float((small - y).std()) < float(y.std())  # the data count
    torch.testing.assert_close(sampled(3, RMS), small.tile(3, 3))
    torch.testing.assert_close(sampled(1, {"zeta": 0.02 * 30**0.5}), small)
