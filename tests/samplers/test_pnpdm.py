"""PnP-DM against the published loops, the closed-form limit at fixed coupling, and the exact posterior."""

import math
from itertools import pairwise

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

from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian
from recon.priors.base import Denoiser, Prediction, PriorInfo
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.runs.methods import make_method
from recon.samplers.base import SeededNoise, Status
from recon.samplers.pnpdm import PnPDM
from recon.solvers.dense import dense_matrix, real_rows

SHAPE = (1, 2, 4, 4)


def poly(count, high, low):
    return [(high ** (1 / 7) + i / (count - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for i in range(count)]


def authors_form(prior, problem, noise, iterations, prior_grid, solver, inner_steps, gamma):
    """The published loop with Langevin likelihood steps; yields x of each iteration.

    Its prior step runs from rho itself, and ends at D: the departures that the module names.
    """
    sigma_y, y = problem.likelihood.sigma, problem.y
    x = noise.normal(SHAPE, y.dtype)
    whole = poly(30, 80.0, 0.002)
    for i in range(iterations):
        rho = max(10.0 * 0.7**i, 0.1)
        z = x
        for _ in range(inner_steps):
            leaf = z.detach().requires_grad_()
            fit = torch.linalg.norm(problem.operator.forward(leaf) - y) ** 2 / (2 * sigma_y**2)
            (grad,) = torch.autograd.grad(fit, leaf)
            z = z - gamma * grad - (gamma / rho**2) * (z - x) + math.sqrt(2 * gamma) * noise.normal(SHAPE, y.dtype)
        steps = [rho, *(t for t in whole if t < rho)] if prior_grid == "tail" else poly(30, rho, 0.002)
        x = z
        for t, s in pairwise([*steps, 0.0]):
            lam = 2 if solver == "sde" else 1
            denoised = prior(x, t).x0
            if s == 0:
                x = denoised
                break
            x = x + (s - t) * (lam / t * x - lam / t * denoised)
            if solver == "sde":
                x = x + math.sqrt(t - s) * math.sqrt(2 * t) * noise.normal(SHAPE, y.dtype)
        yield x


def run_recording(method, prior, problem, noise, shape=SHAPE):
    seen = []
    result = method.sample(prior, problem, None, noise, shape, lambda step: seen.append(step.x0.clone()))
    return seen, result


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("prior_grid", ["tail", "own"])
@pytest.mark.parametrize("solver", ["sde", "euler"])
def test_matches_the_authors_code_iteration_by_iteration(solver, prior_grid, linear):
    prior = GaussianPrior(power_law_spectrum(SHAPE[1:], 2.0, 0.5))
    problem = dense_problem(24, SHAPE[1:], torch.float64, linear=linear)
    method = PnPDM(
        iterations=16, rho_min=0.1, decay=0.7, integrator=solver, prior_grid=prior_grid, prior_steps=30,
        inner="langevin", inner_steps=8, lr=1e-4,
    )  # fmt: skip
    ours, result = run_recording(method, prior, problem, SeededNoise(3, [0]))
    theirs = list(authors_form(prior, problem, SeededNoise(3, [0]), 16, prior_grid, solver, 8, 1e-4))
    assert len(ours) == len(theirs) == 16
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) < 1e-8
    assert torch.equal(result.samples, ours[-1])
    assert result.stats.nfe == method.network_calls and result.stats.operator_calls == 16 * (2 * 8 + 1)
    assert result.stats.backprops == 0 and len(result.stats.residuals) == 16


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
def test_a_network_matches_in_single_and_double_precision(dtype, limit):
    net, problem = VPDenoiser(EpsNet(2, False)), dense_problem(24, SHAPE[1:], dtype)
    method = PnPDM(
        iterations=8, rho_min=0.1, decay=0.7, integrator="sde", prior_steps=30, inner="langevin", inner_steps=4, lr=1e-4
    )
    ours, _ = run_recording(method, net, problem, SeededNoise(3, [0]))
    theirs = list(authors_form(net, problem, SeededNoise(3, [0]), 8, "tail", "sde", 4, 1e-4))
    assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) < limit


def scalar_case(shape=(1, 4, 4)):
    """Prior N(.5, .15^2), y = .7, noise .1: posterior N(.6385, .0832^2)."""
    size = math.prod(shape)
    operator = Dense(torch.eye(size, dtype=torch.float64), shape)
    problem = Problem(operator, torch.full((1, size), 0.7, dtype=torch.float64), Gaussian(0.1))
    return GaussianPrior(torch.full(shape, 0.15**2), 0.5), problem


def limit(rho):
    """Mean and standard deviation of the posterior with noise variance s^2 + rho^2."""
    v, s2 = 0.15**2, 0.1**2 + rho**2
    return (0.5 * s2 + 0.7 * v) / (s2 + v), (v * s2 / (s2 + v)) ** 0.5


def test_chain_tends_to_its_limit_at_each_coupling_and_the_limit_to_the_posterior():
    prior, problem = scalar_case()
    biases = []
    for rho, iterations in ((0.3, 20), (0.1, 35), (0.05, 60)):
        method = PnPDM(
            iterations=iterations, rho_min=rho, rho_max=1.0, decay=0.8, prior_grid="own", prior_steps=15, prior_min=0.01
        )
        x = method.sample(prior, problem, None, BatchNoise(0), (600, 1, 4, 4)).samples
        mean, std = limit(rho)
        assert abs(float(x.mean()) - mean) < 5 * std / x.numel() ** 0.5
        # the second-order prior step leaves about 1 % of the spread
        assert abs(float(x.std()) / std - 1) < 5 / (2 * x.numel()) ** 0.5 + 0.02
        biases.append(abs(float(x.mean()) - 0.63846) / 0.08321)
    assert biases[0] > 2 * biases[1] > 4 * biases[2] and biases[2] < 0.2
    assert limit(0.0) == (pytest.approx(0.63846, abs=1e-5), pytest.approx(0.08321, abs=1e-5))


@pytest.mark.slow
def test_more_iterations_at_a_small_coupling_come_closer():
    """Without annealing the chain needs var/rho^2 iterations to forget where it started."""
    prior, problem = scalar_case()
    biases = []
    for iterations in (3, 10, 30, 100):
        method = PnPDM(
            iterations=iterations, rho_max=0.03, rho_min=0.03, decay=1.0, prior_grid="own", prior_steps=15,
            prior_min=0.002,
        )  # fmt: skip
        start = torch.full((1, 1, 4, 4), -0.5, dtype=torch.float64)
        x = method.sample(prior, problem, start, BatchNoise(0), (600, 1, 4, 4)).samples
        biases.append((abs(float(x.mean()) - 0.63846) / 0.08321, abs(float(x.std()) / 0.08321 - 1)))
    assert biases[0][0] > biases[1][0] > 2 * biases[2][0] > 10 * biases[3][0]
    assert biases[3][0] < 0.08 and biases[3][1] < 0.06


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("kind", ["pixels", "fourier"])
def test_field_tends_to_the_posterior_with_the_couplings_noise(kind, dtype):
    shape, rho, sigma = (1, 3, 4), 0.15, 0.15
    spectrum = power_law_spectrum(shape, 1.0, 0.4)
    prior = GaussianPrior(spectrum, 0.3)
    mask = (torch.rand(3, 4, generator=generator(0)) < 0.7).double()
    operator = MaskedFourier(mask, dtype) if kind == "fourier" else Dense(torch.eye(12).to(dtype)[::2], shape)
    truth = prior.sample(1, generator(1), dtype)
    problem = Problem(operator, operator.forward(truth), Gaussian(sigma))
    method = PnPDM(iterations=25, rho_max=1.0, rho_min=rho, decay=0.8, prior_grid="own", prior_steps=30, prior_min=0.01)
    x = method.sample(prior, problem, None, BatchNoise(0), (1000, *shape)).samples
    size = 12 * (2 if dtype.is_complex else 1)
    basis = torch.eye(size, dtype=torch.float64)
    columns = torch.view_as_complex(basis.reshape(size, 12, 2)) if dtype.is_complex else basis
    blurred = torch.fft.ifft2(spectrum * torch.fft.fft2(columns.reshape(size, *shape), norm="ortho"), norm="ortho")
    covariance = real_rows(blurred if dtype.is_complex else blurred.real)
    matrix, mean = dense_matrix(operator), real_rows(truth * 0 + 0.3)[0]
    noise = sigma**2 * torch.eye(len(matrix), dtype=torch.float64) + rho**2 * matrix @ matrix.T
    gain = covariance @ matrix.T @ torch.linalg.inv(matrix @ covariance @ matrix.T + noise)
    mean, cov = mean + gain @ (real_rows(problem.y)[0] - matrix @ mean), covariance - gain @ matrix @ covariance
    rows, std = real_rows(x), cov.diagonal().sqrt()
    assert float(((rows.mean(0) - mean) / std).abs().max()) < 5 / len(rows) ** 0.5 + 0.02
    found = torch.cov(rows.T) / (std[:, None] * std)
    assert float((found - cov / (std[:, None] * std)).abs().max()) < 5 * (2 / len(rows)) ** 0.5 + 0.03


def test_nonlinear_operator_by_exact_chains():
    """y = tanh(2 x) + n under a Gaussian prior: the limit at rho by quadrature over z and x."""
    shape, rho = (1, 2, 2), 0.1
    prior = GaussianPrior(torch.full(shape, 0.4**2), 0.1)
    operator = Saturating(2 * torch.eye(4, dtype=torch.float64), shape)
    problem = Problem(operator, torch.full((1, 4), 0.9, dtype=torch.float64), Gaussian(0.3))
    method = PnPDM(
        iterations=45, rho_max=1.0, rho_min=rho, decay=0.8, prior_grid="own", prior_steps=20, prior_min=0.005,
        inner="mala", inner_steps=12, lr=0.004,
    )  # fmt: skip
    x = method.sample(prior, problem, None, BatchNoise(0), (1000, *shape)).samples
    u = torch.linspace(-2.5, 2.5, 2001, dtype=torch.float64)
    data = (-((torch.tanh(2 * u) - 0.9) ** 2) / (2 * 0.3**2)).exp()
    kernel = (-((u[:, None] - u) ** 2) / (2 * rho**2)).exp()
    p = (kernel @ data) * (-((u - 0.1) ** 2) / (2 * 0.4**2)).exp()
    mean = float((p * u).sum() / p.sum())
    std = float((p * (u - mean) ** 2).sum() / p.sum()) ** 0.5
    assert abs(float(x.mean()) - mean) < 5 * std / x.numel() ** 0.5 + 0.01 * std
    assert abs(float(x.std()) / std - 1) < 5 / (2 * x.numel()) ** 0.5 + 0.02


def fourier_problem(shape, dtype, sigma=0.05):
    mask = (torch.rand(shape[1:], generator=generator(0)) < 0.6).float()
    operator = MaskedFourier(mask, dtype)
    truth = torch.randn(1, *shape, generator=generator(1), dtype=dtype)
    return Problem(operator, operator.forward(truth), Gaussian(sigma))


SHORT = {"iterations": 12, "decay": 0.6, "prior_steps": 12, "inner_steps": 3, "cg_iterations": 4}


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("inner", ["exact", "langevin"])
def test_sample_does_not_depend_on_its_batch_and_repeats(inner, dtype):
    shape = (1, 6, 5)
    problem, prior = fourier_problem(shape, dtype), GaussianPrior(power_law_spectrum(shape, 2.0, 0.5))
    method = PnPDM(**SHORT, inner=inner)
    alone = method.sample(prior, problem, None, SeededNoise(11, [7]), (1, *shape)).samples
    batch = method.sample(prior, problem, None, SeededNoise(11, [5, 6, 7]), (3, *shape)).samples
    again = method.sample(prior, problem, None, SeededNoise(11, [5, 6, 7]), (3, *shape)).samples
    assert alone.dtype == dtype
    assert relative(batch[2:], alone) < 2e-4
    assert relative(batch[:1], alone) > 1e-2
    assert torch.equal(batch, again)


def test_loop_waits_for_the_device_at_most_every_25_steps(monkeypatch):
    shape = (1, 6, 6)
    problem, prior = fourier_problem(shape, torch.float32), GaussianPrior(power_law_spectrum(shape, 2.0, 0.5))
    looks = []
    for name in ("item", "__bool__", "__float__", "__int__", "__index__", "tolist", "numpy", "cpu"):
        original = getattr(torch.Tensor, name)

        def spied(self, *args, _original=original, _name=name, **kwargs):
            looks.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, spied)
    PnPDM(**SHORT | {"iterations": 50}).sample(prior, problem, None, SeededNoise(0, [0]), (1, *shape))
    assert 1 <= len(looks) <= 4


def test_divergence_of_one_sample_keeps_the_others_and_stops_early():
    shape, seen = (1, 4, 4), []

    class Explodes(Denoiser):
        info = PriorInfo(name="explodes", channels=1)

        def _denoise(self, x, sigma, cond):
            bad = torch.ones(len(x))
            bad[1] = float("nan") if len(seen) >= 10 else 1.0
            return Prediction(0.1 * x * bad.reshape(-1, 1, 1, 1))

    method = PnPDM(**SHORT | {"iterations": 60})
    problem = fourier_problem(shape, torch.float32)
    result = method.sample(Explodes(), problem, None, SeededNoise(0, [0, 1]), (2, *shape), seen.append)
    assert result.status is Status.DIVERGED and len(seen) == 25
    assert torch.equal(result.samples[1], seen[9].x0[1]) and torch.equal(result.samples[0], seen[24].x0[0])
    assert bool(torch.isfinite(result.samples).all())


@pytest.mark.parametrize("integrator", ["sde", "dpm++2m-sde", "heun", "pc"])
@pytest.mark.parametrize("prior_grid", ["tail", "own"])
def test_network_calls_are_counted_and_the_coupling_is_annealed(integrator, prior_grid):
    levels, seen = [], []

    class Counting(Denoiser):
        info = PriorInfo(name="counting", channels=1)

        def _denoise(self, x, sigma, cond):
            levels.append(float(sigma[0]))
            return Prediction(0.5 * x)

    shape = (1, 4, 4)
    method = PnPDM(**SHORT, integrator=integrator, prior_grid=prior_grid)
    result = method.sample(
        Counting(), fourier_problem(shape, torch.float32), None, BatchNoise(0), (2, *shape), seen.append
    )
    assert result.stats.nfe == len(levels) == method.network_calls
    assert [s.sigma for s in seen] == [pytest.approx(max(10 * 0.6**k, 0.02)) for k in range(12)]
    assert levels[0] == pytest.approx(10.0)


def test_defaults_are_the_published_annealing():
    method = PnPDM()
    assert (method.iterations, method.rho_max, method.rho_min, method.decay) == (100, 10.0, 0.02, 0.93)
    assert method.network_calls == 3291
    made = make_method("pnpdm", {"rho_min": 0.3, "decay": 0.9, "integrator": "sde"})
    assert made == PnPDM(rho_min=0.3, decay=0.9, integrator="sde")


@pytest.mark.parametrize(
    "bad",
    [
        {"iterations": 0},
        {"rho_min": 0.0},
        {"rho_min": 20.0},
        {"decay": 0.0},
        {"decay": 1.1},
        {"integrator": "rk45"},
        {"prior_steps": 0},
        {"prior_min": 0.0},
        {"prior_max": 0.001},
        {"lr": 0.0},
        {"inner_steps": 0},
        {"tau": 0.0},
    ],
)
def test_settings_are_checked(bad):
    with pytest.raises(ConfigError):
        PnPDM(**bad)


def test_wrong_combinations_are_refused():
    prior, shape = GaussianPrior(torch.ones(2, 4, 4)), (1, 2, 4, 4)
    nonlinear = dense_problem(4, (2, 4, 4), torch.float64, linear=False)
    with pytest.raises(ConfigError, match="linear"):
        PnPDM(inner="exact").sample(prior, nonlinear, None, BatchNoise(0), shape)
    with pytest.raises(ConfigError, match="prior"):
        PnPDM().sample(None, nonlinear, None, BatchNoise(0), shape)
