"""DAPS against the authors' loops and closed forms under Gaussian priors."""

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
    Saturating,
    VPDenoiser,
    dense_problem,
    generator,
    relative,
)

from recon.audit.gaussian import dense_posterior
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian
from recon.priors.base import Denoiser, Prediction, PriorInfo
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.priors.mixture import MixturePrior
from recon.runs.methods import make_method
from recon.samplers.anneal import annealing
from recon.samplers.base import SeededNoise, Status
from recon.samplers.daps import DAPS
from recon.samplers.daps_published import HMC, LANGEVIN, published
from recon.solvers.dense import real_rows

SHAPE = (1, 2, 4, 4)


def poly(count, high, low):
    return [(high ** (1 / 7) + i / (count - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for i in range(count)]


def authors_form(prior, problem, noise, anneal, steps, inner, count, lr, momentum, sigma_max=100.0):
    """The published loop; yields x0 of each level. main: data gradient/tau^2; legacy and MH: halves."""
    tau, y = 0.01, problem.y
    if anneal == "main":
        levels, total = [*poly(steps + 1, sigma_max, 0.1)[:steps], 0.0], steps + 1
    else:
        levels, total = [*poly(steps, sigma_max, 0.1), 0.0], steps
    weight = 1 / tau**2 if anneal == "main" else 1 / (2 * tau**2)
    x = sigma_max * noise.normal(SHAPE, y.dtype)

    def loss(u):
        return ((problem.operator.forward(u) - y) ** 2).flatten(1).sum(-1)

    for k in range(steps):
        sigma = levels[k]
        inside = poly(6, sigma, 0.01) if anneal == "main" else [*poly(5, sigma, 0.01), 0.0]
        for t, s in pairwise(inside):
            x = x + (s - t) * (x - prior(x, t).x0) / t
        end = x
        step = lr * (1 + k / total * (0.01 - 1))
        x0 = end
        v = noise.normal(SHAPE, y.dtype) if inner == "hmc" else None
        for _ in range(count):
            z = noise.normal(SHAPE, y.dtype)
            if inner == "metropolis":
                new = x0 + z * math.sqrt(step)
                log_a = (loss(x0) - loss(new)) / (2 * tau**2)
                far = [((u - end) ** 2).flatten(1).sum(-1) for u in (x0, new)]
                log_a = log_a + (far[0] - far[1]) / (2 * sigma**2)
                uniform = torch.special.ndtr(noise.normal((1,), y.dtype))
                x0 = torch.where((uniform.log() < log_a).reshape(-1, 1, 1, 1), new, x0)
                continue
            leaf = x0.detach().requires_grad_()
            (grad,) = torch.autograd.grad(loss(leaf).sum(), leaf)
            score = -weight * grad + (end - x0) / sigma**2
            if inner == "langevin":
                x0 = x0 + step * score + math.sqrt(2 * step) * z
            else:
                v = momentum * v + math.sqrt(step) * score + math.sqrt(2 * (1 - momentum)) * z
                x0 = x0 + math.sqrt(step) * v
        yield x0
        x = x0 + levels[k + 1] * noise.normal(SHAPE, y.dtype) if levels[k + 1] else x0


def run_recording(method, prior, problem, noise, shape=SHAPE):
    seen = []
    result = method.sample(prior, problem, None, noise, shape, lambda step: seen.append(step.x0.clone()))
    return seen, result


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("anneal", ["main", "legacy"])
@pytest.mark.parametrize(("inner", "momentum"), [("langevin", 0.0), ("hmc", 0.4), ("metropolis", 0.0)])
def test_matches_the_authors_code_level_by_level(inner, momentum, anneal, linear):
    steps, count, lr = 20, 15, 3e-6 if inner == "metropolis" else 2e-5
    prior = GaussianPrior(power_law_spectrum(SHAPE[1:], 2.0, 0.5))
    problem = dense_problem(24, SHAPE[1:], torch.float64, linear=linear)
    convention = "legacy" if inner == "metropolis" else anneal  # the code's Metropolis halves the weight in both
    method = DAPS(
        steps=steps, anneal=anneal, inner=inner, inner_steps=count, lr=lr, momentum=momentum, tau=0.01,
        convention=convention,
    )  # fmt: skip
    ours, result = run_recording(method, prior, problem, SeededNoise(3, [0]))
    theirs = list(authors_form(prior, problem, SeededNoise(3, [0]), anneal, steps, inner, count, lr, momentum))
    assert len(ours) == len(theirs) == steps
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) < 1e-8
    assert torch.equal(result.samples, ours[-1])
    assert result.status is Status.OK and result.stats.nfe == 5 * steps == method.network_calls
    assert result.stats.backprops == 0 and len(result.stats.residuals) == steps


@pytest.mark.slow
def test_published_grid_and_a_network_match_in_single_and_double_precision():
    net = VPDenoiser(EpsNet(2, False))
    for dtype, limit in ((torch.float64, 1e-8), (torch.float32, 1e-4)):
        problem = dense_problem(24, SHAPE[1:], dtype)
        method = DAPS(inner="langevin", inner_steps=5, lr=1e-5, tau=0.01, convention="main")
        ours, result = run_recording(method, net, problem, SeededNoise(3, [0]))
        theirs = list(authors_form(net, problem, SeededNoise(3, [0]), "main", 200, "langevin", 5, 1e-5, 0.0))
        assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) < limit
        assert result.stats.nfe == 1000 and result.samples.dtype == dtype


def test_last_levels_of_both_grids():
    assert annealing("main", 200, 0.1, 100.0)[-2:] == [pytest.approx(0.10604, abs=1e-5), 0.0]
    assert annealing("legacy", 200, 0.1, 100.0)[-2:] == [pytest.approx(0.1), 0.0]
    assert len(annealing("main", 200, 0.1, 100.0)) == len(annealing("legacy", 200, 0.1, 100.0)) == 201


def scalar_case(shape=(1, 8, 8)):
    """Prior N(.5, .15^2), y = .7, noise .1: posterior N(.6385, .0832^2)."""
    size = math.prod(shape)
    operator = Dense(torch.eye(size, dtype=torch.float64), shape)
    problem = Problem(operator, torch.full((1, size), 0.7, dtype=torch.float64), Gaussian(0.1))
    return GaussianPrior(torch.full(shape, 0.15**2), 0.5), problem


@pytest.mark.parametrize("covariance", ["scalar", "diagonal", "full"])
def test_tweedies_moments_give_the_exact_scalar_posterior(covariance):
    prior, problem = scalar_case()
    method = DAPS(steps=20, conditional="tweedie", covariance=covariance, products=2)
    x = method.sample(prior, problem, None, BatchNoise(0), (500, 1, 8, 8)).samples
    assert abs(float(x.mean()) - 0.63846) < 4 * 0.0832 / x.numel() ** 0.5
    assert abs(float(x.std()) - 0.08321) < 4 * 0.0832 / (2 * x.numel()) ** 0.5


def published_limit(levels, ode_gain, std, noise):
    """Follow mean and variance of the published chain for N(m, v) and y = x + noise n, from x ~ N(0, levels[0]^2)."""
    mean, variance = 0.0, levels[0] ** 2
    for t, s in pairwise(levels):
        gain = ode_gain(t)  # centre - m = gain (x - m)
        centre_mean, centre_variance = 0.5 + gain * (mean - 0.5), gain**2 * variance
        keep = noise**2 / (noise**2 + t**2)
        mean = keep * centre_mean + (1 - keep) * 0.7
        variance = keep**2 * centre_variance + keep * t**2 + s**2
    return mean, variance**0.5


def test_published_conditional_tends_to_its_biased_limit():
    prior, problem = scalar_case()

    def euler(t):
        gain = 1.0
        grid = poly(6, t, 0.01)
        for a, b in pairwise(grid):
            gain *= 1 + (b - a) * a / (a**2 + 0.15**2)
        return gain

    levels = [*poly(201, 100.0, 0.1)[:200], 0.0]
    mean, std = published_limit(levels, euler, 0.15, 0.1)
    x = DAPS().sample(prior, problem, None, BatchNoise(0), (100, 1, 8, 8)).samples
    assert abs(float(x.mean()) - mean) < 4 * std / x.numel() ** 0.5
    assert abs(float(x.std()) - std) < 4 * std / (2 * x.numel()) ** 0.5
    # with the exact flow and 1000 levels down to 0: .664/.0906, where the posterior is .6385/.0832
    fine = published_limit([*poly(1000, 100.0, 0.01), 0.0], lambda t: 0.15 / math.hypot(0.15, t), 0.15, 0.1)
    assert fine == (pytest.approx(0.664, abs=1.5e-3), pytest.approx(0.0906, abs=3e-4))
    assert abs(mean - 0.6385) > 0.02


def compare(samples, exact):
    rows, count = real_rows(samples), len(samples)
    std = exact.covariance.diagonal().sqrt()
    assert float(((rows.mean(0) - exact.mean) / std).abs().max()) < 5 / count**0.5
    found = torch.cov(rows.T) / (std[:, None] * std)
    assert float((found - exact.covariance / (std[:, None] * std)).abs().max()) < 5 * (2 / count) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("kind", ["pixels", "fourier"])
def test_full_covariance_gives_the_exact_posterior_of_a_field(kind, dtype):
    shape = (1, 4, 4)
    spectrum = power_law_spectrum(shape, 2.0, 0.5)
    prior = GaussianPrior(spectrum, 0.3)
    mask = (torch.rand(4, 4, generator=generator(0)) < 0.6).double()
    operator = MaskedFourier(mask, dtype) if kind == "fourier" else Dense(torch.eye(16).to(dtype)[::2], shape)
    truth = prior.sample(1, generator(1), dtype)
    problem = Problem(operator, operator.forward(truth), Gaussian(0.1))
    method = DAPS(steps=5, sigma_max=30.0, conditional="tweedie", covariance="full", products=10)
    result = method.sample(prior, problem, None, BatchNoise(0), (3000, *shape))
    size = 16 * (2 if dtype.is_complex else 1)
    basis = torch.eye(size, dtype=torch.float64)
    columns = torch.view_as_complex(basis.reshape(size, 16, 2)) if dtype.is_complex else basis
    blurred = torch.fft.ifft2(spectrum * torch.fft.fft2(columns.reshape(size, *shape), norm="ortho"), norm="ortho")
    covariance = real_rows(blurred if dtype.is_complex else blurred.real)
    compare(result.samples, dense_posterior(operator, covariance, truth[0] * 0 + 0.3, problem.y, 0.1))
    assert (result.stats.nfe, result.stats.backprops, result.stats.operator_calls) == (5, 5 * 20, 5 * 22)


def test_diagonal_covariance_is_exact_where_pixels_are_independent():
    shape = (1, 2, 3)
    variances = torch.tensor([[[[0.01, 0.04, 0.09], [0.16, 0.25, 0.36]]]]).double()
    prior = MixturePrior(torch.ones(1), torch.full((1, *shape), 0.2), variances)
    problem = dense_problem(4, shape, torch.float64, sigma=0.2)
    method = DAPS(steps=10, sigma_max=30.0, conditional="tweedie", covariance="diagonal", products=1)
    x = method.sample(prior, problem, None, BatchNoise(0), (4000, *shape)).samples
    mean = torch.full(shape, 0.2, dtype=torch.float64)
    compare(x, dense_posterior(problem.operator, torch.diag(variances.flatten()), mean, problem.y, 0.2))
    # one number for all pixels is not
    wrong = DAPS(steps=10, sigma_max=30.0, conditional="tweedie", products=4)
    x = wrong.sample(prior, problem, None, BatchNoise(0), (4000, *shape)).samples
    with pytest.raises(AssertionError):
        compare(x, dense_posterior(problem.operator, torch.diag(variances.flatten()), mean, problem.y, 0.2))


@pytest.mark.parametrize(("inner", "lr"), [("mala", 0.005), ("hmc-exact", 0.003), ("metropolis", 0.01)])
def test_exact_chains_give_the_posterior_of_a_nonlinear_operator(inner, lr):
    """Tweedie's moments are exact for a Gaussian prior, whatever the operator: y = tanh(2 x) + n, by quadrature."""
    shape = (1, 2, 2)
    prior = GaussianPrior(torch.full(shape, 0.4**2), 0.1)
    operator = Saturating(2 * torch.eye(4, dtype=torch.float64), shape)
    problem = Problem(operator, torch.full((1, 4), 0.9, dtype=torch.float64), Gaussian(0.3))
    method = DAPS(
        steps=6, sigma_max=10.0, conditional="tweedie", products=1, inner=inner, inner_steps=60, leapfrog=5, lr=lr,
        lr_ratio=1.0,
    )  # fmt: skip
    x = method.sample(prior, problem, None, BatchNoise(0), (2500, *shape)).samples
    u = torch.linspace(-3, 3, 20001, dtype=torch.float64)
    p = (-((torch.tanh(2 * u) - 0.9) ** 2) / (2 * 0.3**2) - (u - 0.1) ** 2 / (2 * 0.4**2)).exp()
    mean = float((p * u).sum() / p.sum())
    std = float((p * (u - mean) ** 2).sum() / p.sum()) ** 0.5
    assert abs(float(x.mean()) - mean) < 5 * std / x.numel() ** 0.5
    assert abs(float(x.std()) / std - 1) < 5 / (2 * x.numel()) ** 0.5


def fourier_problem(shape, dtype, sigma=0.05):
    mask = (torch.rand(shape[1:], generator=generator(0)) < 0.6).float()
    operator = MaskedFourier(mask, dtype)
    truth = torch.randn(1, *shape, generator=generator(1), dtype=dtype)
    return Problem(operator, operator.forward(truth), Gaussian(sigma))


SHORT = {"steps": 6, "inner_steps": 3, "products": 2, "cg_iterations": 4, "leapfrog": 2}
VARIANTS = [
    {"inner": kind, "conditional": conditional}
    for kind in ("exact", "langevin", "hmc", "metropolis", "mala", "hmc-exact")
    for conditional in ("published", "tweedie")
] + [{"conditional": "tweedie", "covariance": c} for c in ("diagonal", "full")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v.values()))
def test_sample_does_not_depend_on_its_batch_and_repeats(variant, dtype):
    shape = (1, 6, 5)
    problem, prior = fourier_problem(shape, dtype), GaussianPrior(power_law_spectrum(shape, 2.0, 0.5))
    method = DAPS(**SHORT, **variant)
    alone = method.sample(prior, problem, None, SeededNoise(11, [7]), (1, *shape)).samples
    batch = method.sample(prior, problem, None, SeededNoise(11, [5, 6, 7]), (3, *shape)).samples
    again = method.sample(prior, problem, None, SeededNoise(11, [5, 6, 7]), (3, *shape)).samples
    assert alone.dtype == dtype
    assert relative(batch[2:], alone) < 2e-4
    assert relative(batch[:1], alone) > 1e-2
    assert torch.equal(batch, again)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(v.values()))
def test_loop_waits_for_the_device_at_most_every_25_steps(variant, monkeypatch):
    shape = (1, 6, 6)
    problem, prior = fourier_problem(shape, torch.float32), GaussianPrior(power_law_spectrum(shape, 2.0, 0.5))
    looks = []
    for name in ("item", "__bool__", "__float__", "__int__", "__index__", "tolist", "numpy", "cpu"):
        original = getattr(torch.Tensor, name)

        def spied(self, *args, _original=original, _name=name, **kwargs):
            looks.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, spied)
    DAPS(**SHORT | {"steps": 50}, **variant).sample(prior, problem, None, SeededNoise(0, [0]), (1, *shape))
    assert 1 <= len(looks) <= 4


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
            if len(shape) == 2:  # of the measurement
                return torch.view_as_real(self.source.normal((1, 1, 4, 4), torch.complex128)).flatten(1)
            z = self.source.normal((1, 1, 4, 4), torch.complex128)
            return torch.cat([z.real, z.imag], 1)

    full = {"conditional": "tweedie", "covariance": "full", "products": 15}
    for variant in ({}, {"inner": "langevin", "inner_steps": 5}, full):
        method = DAPS(**{"steps": 12, **variant})
        ours = method.sample(GaussianPrior(spectrum), complex_problem, None, SeededNoise(1, [0]), (1, *shape))
        pair = method.sample(Parts(), real_problem, None, PartNoise(), (1, 2, 4, 4))
        assert relative(torch.cat([ours.samples.real, ours.samples.imag], 1), pair.samples) < 1e-9


def test_latent_prior_is_sampled_in_its_latents_and_decoded():
    class Halved(Denoiser):
        """Images 2 x 2 whose left half is the latent and whose right half its tanh."""

        info = PriorInfo(name="latent", channels=1, value_range=(-9.0, 9.0))

        def _denoise(self, x, sigma, cond):
            shapes.append(tuple(x.shape))
            return Prediction(x * 0.25 / (0.25 + sigma.reshape(-1, 1, 1, 1) ** 2))

        def decode(self, z):
            return torch.cat([z, torch.tanh(z)], -1)

        def latent_shape(self, shape):
            return (shape[0], shape[1], shape[2] // 2)

    shapes, seen = [], []
    operator = Dense(torch.eye(4, dtype=torch.float64), (1, 2, 2))
    problem = Problem(operator, torch.full((1, 4), 0.3, dtype=torch.float64), Gaussian(0.05))
    method = DAPS(steps=20, inner_steps=30, lr=1e-3, lr_ratio=1.0)
    result = method.sample(Halved(), problem, None, BatchNoise(0), (200, 1, 2, 2), seen.append)
    x = result.samples
    assert x.shape == (200, 1, 2, 2) == seen[0].x0.shape and set(shapes) == {(200, 1, 2, 1)}
    assert torch.allclose(x[..., 1], torch.tanh(x[..., 0]))
    assert abs(float(x.mean()) - 0.3) < 0.02


def test_start_from_an_estimate_is_noised_to_the_first_level():
    states = []

    class Spy(Denoiser):
        info = PriorInfo(name="spy", channels=1)

        def _denoise(self, x, sigma, cond):
            states.append((x.clone(), float(sigma[0])))
            return Prediction(x * 0)

    shape = (1, 4, 4)
    DAPS(**SHORT).sample(
        Spy(), fourier_problem(shape, torch.float32), torch.full((1, *shape), 0.5), SeededNoise(2, [4]), (1, *shape)
    )
    z = SeededNoise(2, [4]).normal((1, *shape), torch.float32)
    assert states[0][1] == 100.0 and torch.allclose(states[0][0], 0.5 + 100 * z)


@pytest.mark.parametrize("conditional", ["published", "tweedie"])
@pytest.mark.parametrize("covariance", ["scalar", "full"])
def test_divergence_of_one_sample_keeps_the_others_and_stops_early(conditional, covariance):
    shape, seen = (1, 4, 4), []

    class Explodes(Denoiser):
        info = PriorInfo(name="explodes", channels=1)

        def _denoise(self, x, sigma, cond):
            bad = torch.ones(len(x))
            bad[1] = float("nan") if len(seen) >= 10 else 1.0
            return Prediction(0.1 * x * bad.reshape(-1, 1, 1, 1))

    problem = fourier_problem(shape, torch.float32)
    method = DAPS(steps=200, ode_steps=1, conditional=conditional, covariance=covariance, products=1)
    result = method.sample(Explodes(), problem, None, SeededNoise(0, [0, 1]), (2, *shape), seen.append)
    assert result.status is Status.DIVERGED and len(seen) == 25
    assert torch.equal(result.samples[1], seen[9].x0[1]) and torch.equal(result.samples[0], seen[24].x0[0])
    assert bool(torch.isfinite(result.samples).all())


@pytest.mark.parametrize("ode", ["euler", "heun", "dpm++2m"])
@pytest.mark.parametrize("anneal", ["main", "legacy"])
def test_network_calls_are_counted(ode, anneal):
    calls = []

    class Counting(Denoiser):
        info = PriorInfo(name="counting", channels=1)

        def _denoise(self, x, sigma, cond):
            calls.append(1)
            return Prediction(0.5 * x)

    shape = (1, 4, 4)
    method = DAPS(steps=30, sigma_min=0.001, anneal=anneal, ode=ode, ode_steps=4)
    result = method.sample(Counting(), fourier_problem(shape, torch.float32), None, BatchNoise(0), (2, *shape))
    assert result.stats.nfe == len(calls) == method.network_calls
    assert method.network_calls < 30 * 4 * (2 if ode == "heun" else 1)  # levels below ode_min take one


def test_wrong_combinations_are_refused():
    prior, shape = GaussianPrior(torch.ones(2, 4, 4)), (1, 2, 4, 4)
    nonlinear = dense_problem(4, (2, 4, 4), torch.float64, linear=False)
    with pytest.raises(ConfigError, match="linear"):
        DAPS(inner="exact").sample(prior, nonlinear, None, BatchNoise(0), shape)
    with pytest.raises(ConfigError, match="linear"):
        DAPS(conditional="tweedie", covariance="full").sample(prior, nonlinear, None, BatchNoise(0), shape)
    with pytest.raises(ConfigError, match="prior"):
        DAPS().sample(None, nonlinear, None, BatchNoise(0), shape)
    with pytest.raises(ConfigError, match="fit"):
        DAPS().sample(prior, nonlinear, None, BatchNoise(0), (1, 1, 4, 4))


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 1},
        {"ode_steps": 0},
        {"products": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"lr_ratio": 0.0},
        {"lr_ratio": 2.0},
        {"ode_min": 0.0},
        {"sigma_min": 0.0},
        {"sigma_max": 0.05},
        {"inner_steps": 0},
        {"momentum": -0.1},
        {"tau": -1.0},
        {"conditional": "tweedie", "covariance": "full", "inner": "langevin"},
    ],
)
def test_settings_are_checked(bad):
    with pytest.raises(ConfigError):
        DAPS(**bad)


def test_published_settings_are_reachable_for_every_problem_and_by_name():
    assert set(LANGEVIN) == set(HMC)
    for problem in LANGEVIN:
        for form in ("main", "legacy", "hmc"):
            method = published(problem, form)
            assert method.tau == 0.01 and method.network_calls == 1000
            assert method.convention == ("legacy" if form == "legacy" else "main")
    box = published("inpaint-box", "hmc")
    assert (box.inner_steps, box.lr, box.momentum) == (84, 1.15e-5, 0.003)
    same = make_method(
        "daps", {"inner": "hmc", "inner_steps": 84, "lr": 1.15e-5, "momentum": 0.003, "tau": 0.01, "convention": "main"}
    )
    assert same == box
    assert published("deblur-nonlinear", "legacy").inner_steps == 100
    with pytest.raises(ConfigError, match="mri"):
        published("mri-x4")


def test_residual_is_one_where_the_data_are_fitted_to_the_noise():
    prior, problem = scalar_case((1, 16, 16))
    noisy = problem.y + 0.1 * torch.randn(1, 256, generator=generator(3), dtype=torch.float64)
    problem = Problem(problem.operator, noisy, Gaussian(0.1))
    result = DAPS(steps=20).sample(prior, problem, None, BatchNoise(0), (50, 1, 16, 16))
    last = torch.stack(result.stats.residuals)[-1]
    assert last.shape == (50,) and 0.7 < float(last.mean()) < 1.3
    assert np.all(np.isfinite(last.numpy()))
