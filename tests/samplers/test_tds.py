"""TDS against its VP form, exactness on Gaussian priors as particles grow, and an evidence without bias."""

from __future__ import annotations

import math
from dataclasses import replace

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
from torch import Tensor

from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian, Poisson
from recon.operators.inpaint import Inpaint
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.samplers.base import SeededNoise, Status
from recon.samplers.particles import Particles
from recon.samplers.tds import TDS
from recon.schedules import vp_alpha_bars

SHAPE = (1, 2, 2)
TAU = 0.5
WHITE = GaussianPrior(torch.full(SHAPE, TAU**2))


def log_density(x: Tensor, mean: Tensor, variance: float) -> Tensor:
    return -(x - mean).flatten(1).square().sum(1).double() / (2 * variance)


def published(network, problem, noise, shape, steps, threshold, widen, seen):
    """Algorithm 1 in VP coordinates, with respaced betas and the densities written out; yields the particles.

    The twist's gradient changes x0hat by (1-ab)/sqrt(ab) grad, as a change of eps by -sqrt(1-ab) grad does.
    """
    count, ab_all = shape[0], vp_alpha_bars()
    times = [i * (1000 // steps) for i in range(steps)][::-1]
    sigma_y, dtype = problem.likelihood.sigma, problem.y.dtype
    x = noise.normal(shape, dtype)
    log_w, old = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    evidence = 0.0

    def uniform() -> float:
        return float(0.5 * (1 + torch.erf(noise.normal((count,), torch.float64)[0] / 2**0.5)))

    def resampled(log_w: Tensor, u: float) -> list[int]:
        w, out, k, upto = log_w.softmax(0), [], 0, float(log_w.softmax(0)[0])
        for m in range(count):
            while upto <= (m + u) / count:
                k += 1
                upto += float(w[k])
            out.append(k)
        return out

    def loss(z: Tensor) -> Tensor:
        return (z.double() - problem.y.double()).square().flatten(1).sum(1) / (2 * sigma_y**2)

    for i, t in enumerate(times):
        ab = float(ab_all[t])
        ab_prev = float(ab_all[times[i + 1]]) if i + 1 < steps else 1.0
        beta = 1 - ab / ab_prev
        x = x.detach().requires_grad_()
        x0 = (x - (1 - ab) ** 0.5 * network(x, t)) / ab**0.5
        spread = 1 - ab  # of x0 given x_t, for a prior of unit variance: sigma^2/(1 + sigma^2)
        value = -loss(problem.operator.forward(x0)) / (1 + (spread / sigma_y**2 if widen else 0))
        (grad,) = torch.autograd.grad(value.sum(), x)
        log_w, old, x, x0 = log_w + value.detach() - old, value.detach(), x.detach(), x0.detach()
        u = uniform()
        number = 1 / float(log_w.softmax(0).square().sum())
        if number < threshold * count:
            chosen = resampled(log_w, u)
            evidence += float(log_w.logsumexp(0)) - math.log(count)
            log_w, x, x0, grad, old = torch.zeros_like(log_w), x[chosen], x0[chosen], grad[chosen], old[chosen]
        z = noise.normal(shape, dtype)

        def posterior_mean(of: Tensor, x=x, beta=beta, ab=ab, ab_prev=ab_prev) -> Tensor:
            return beta * ab_prev**0.5 / (1 - ab) * of + (1 - ab_prev) * (1 - beta) ** 0.5 / (1 - ab) * x

        variance = beta * (1 - ab_prev) / (1 - ab)
        seen.append((x0, number))
        if variance == 0:
            x = posterior_mean(x0)
            break
        model, twisted = posterior_mean(x0), posterior_mean(x0 + (1 - ab) / ab**0.5 * grad)
        x = twisted + variance**0.5 * z
        log_w = log_w + log_density(x, model, variance) - log_density(x, twisted, variance)
    log_w = log_w - loss(problem.operator.forward(x)) - old
    evidence += float(log_w.logsumexp(0)) - math.log(count)
    chosen = resampled(log_w, uniform())
    return x[chosen][noise.normal((count,), torch.float64).argsort()], evidence


@pytest.mark.parametrize("widen", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("linear", [True, False])
def test_matches_the_vp_form_step_by_step(widen, threshold, linear):
    shape, steps = (6, 2, 4, 4), 40
    network = EpsNet(2, False)
    problem = dense_problem(12, shape[1:], torch.float64, sigma=1.0, linear=linear)
    method, ours, theirs = TDS(steps=steps, batch=4, threshold=threshold, widen=widen), [], []
    result = method.sample(
        VPDenoiser(network), problem, None, SeededNoise(2, range(6)), shape, lambda step: ours.append(step.x0.clone())
    )
    noise = SeededNoise(2, range(6))
    last, evidence = published(network, problem, noise, shape, steps, threshold, widen, theirs)
    assert len(ours) == len(theirs) == steps
    assert max(relative(a, b) for a, (b, _) in zip(ours, theirs, strict=True)) < 1e-8
    assert relative(result.samples, last) < 1e-8
    ensemble = result.stats.ensemble
    assert ensemble is not None and float(ensemble.log_evidence) == pytest.approx(evidence, abs=1e-7)
    numbers = [float(e) for e in ensemble.effective]
    assert numbers == pytest.approx([number for _, number in theirs], rel=1e-6)
    resampled = sum(number < threshold * 6 for number in numbers)
    assert {0.0: resampled == 0, 0.5: 0 < resampled < steps, 1.0: resampled == steps}[threshold]
    assert (result.stats.nfe, result.stats.backprops) == (steps, steps) == (method.network_calls, method.network_calls)


# exactness on a Gaussian prior


def gaussian_problem(rows: int = 3, sigma: float = 0.3) -> tuple[Problem, Tensor, Tensor, float]:
    """Return a problem of white images, the exact posterior's mean and covariance, and ln E[exp(-loss)]."""
    matrix = torch.randn(rows, 4, generator=generator(4), dtype=torch.float64)
    matrix = matrix / torch.linalg.matrix_norm(matrix, 2)  # as `widen` takes it to be
    operator = Dense(matrix, SHAPE)
    y = operator.forward(WHITE.sample(1, generator(5), torch.float64))
    y = y + sigma * torch.randn(y.shape, generator=generator(6), dtype=torch.float64)
    covariance = torch.linalg.inv(torch.eye(4, dtype=torch.float64) / TAU**2 + matrix.T @ matrix / sigma**2)
    mean = covariance @ matrix.T @ y[0] / sigma**2
    marginal = sigma**2 * torch.eye(rows, dtype=torch.float64) + TAU**2 * matrix @ matrix.T
    exponent = -0.5 * float(y[0] @ torch.linalg.solve(marginal, y[0]))
    evidence = exponent - 0.5 * float(torch.logdet(marginal)) + rows * math.log(sigma)
    return Problem(operator, y, Gaussian(sigma)), mean, covariance, evidence


EXACT = {"steps": 8, "grid": "edm", "kernel": "matched", "prior_std": TAU}


def moments(samples: Tensor) -> tuple[Tensor, Tensor]:
    rows = samples.flatten(1)
    return rows.mean(0), torch.cov(rows.T)


@pytest.mark.parametrize("widen", [True, False])
def test_the_exact_posterior_as_particles_grow(widen):
    """Eight steps of the chain that is exact for white images: what is left is the particles' own error, ~K^-1/2."""
    problem, mean, covariance, _ = gaussian_problem()
    errors = {}
    for count, runs in ((20, 20), (20000, 1)):
        found = []
        for seed in range(runs):
            method = TDS(**EXACT, particles=count, batch=count, widen=widen)
            samples = method.sample(WHITE, problem, None, BatchNoise(seed), (count, *SHAPE)).samples
            m, c = moments(samples)
            found.append((float((m - mean).square().mean().sqrt()), relative(c, covariance)))
        errors[count] = [sum(column) / runs for column in zip(*found, strict=True)]
    std = float(covariance.trace() / 4) ** 0.5
    assert errors[20000][0] < 0.03 * std and errors[20000][1] < 0.05
    assert errors[20][0] > 5 * errors[20000][0] and errors[20][1] > 5 * errors[20000][1]


@pytest.mark.parametrize(("kernel", "steps"), [("small", 4), ("small", 100), ("matched", 4)])
def test_the_limit_of_particles_is_the_chains_posterior(kernel, steps):
    """Few steps of "small" narrow the chain's images; "matched" keeps the prior at any number of steps."""
    problem, mean, covariance, _ = gaussian_problem()
    method = TDS(**(EXACT | {"kernel": kernel, "steps": steps}), particles=8000, batch=8000)
    m, c = moments(method.sample(WHITE, problem, None, BatchNoise(1), (8000, *SHAPE)).samples)
    far = relative(c, covariance)
    assert far > 0.3 if (kernel, steps) == ("small", 4) else far < (0.2 if kernel == "small" else 0.05)
    if (kernel, steps) != ("small", 4):
        assert float((m - mean).abs().max()) < 0.1 * float(covariance.diagonal().min().sqrt())


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_the_evidence_has_no_bias(threshold):
    """The mean of exp(log evidence) over small ensembles is E[exp(-loss)], however often they resample."""
    problem, _, _, exact = gaussian_problem(sigma=0.4)
    method = TDS(**(EXACT | {"steps": 5}), particles=6, threshold=threshold, widen=False)
    ratios, resampled = [], 0
    for seed in range(250):
        ensemble = method.sample(WHITE, problem, None, BatchNoise(seed), (6, *SHAPE)).stats.ensemble
        ratios.append(math.exp(float(ensemble.log_evidence) - exact))
        resampled += sum(float(number) < threshold * 6 for number in ensemble.effective)
    ratio = torch.tensor(ratios, dtype=torch.float64)
    error = float(ratio.std() / len(ratios) ** 0.5)
    assert error < 0.1 and abs(float(ratio.mean()) - 1) < 3.5 * error
    assert (resampled > 0) == (threshold > 0)


def test_the_evidence_of_many_particles_is_the_closed_form():
    problem, _, _, exact = gaussian_problem()
    ensemble = TDS(**EXACT).sample(WHITE, problem, None, BatchNoise(3), (4000, *SHAPE)).stats.ensemble
    assert float(ensemble.log_evidence) == pytest.approx(exact, abs=0.05)


def test_resampling_keeps_weighted_means_on_average():
    weights = torch.randn(12, generator=generator(1), dtype=torch.float64)
    values = torch.randn(12, generator=generator(2), dtype=torch.float64)
    expected = float((weights.softmax(0) * values).sum())
    means = []
    for seed in range(1500):
        cloud = Particles(12, torch.device("cpu"), 1.0, BatchNoise(seed))
        cloud.reweigh(weights)
        drawn = values[cloud.drawn()] if seed % 2 else values[cloud.ancestors()]
        means.append(float(drawn.mean()))
    mean = torch.tensor(means)
    assert abs(float(mean.mean()) - expected) < 4 * float(mean.std()) / len(means) ** 0.5
    # in random order, so that the first of them stand for all
    firsts = [float(values[_cloud(weights, seed).drawn()][0]) for seed in range(1500)]
    first = torch.tensor(firsts)
    assert abs(float(first.mean()) - expected) < 4 * float(first.std()) / len(firsts) ** 0.5


def _cloud(weights: Tensor, seed: int) -> Particles:
    cloud = Particles(12, torch.device("cpu"), 1.0, BatchNoise(seed))
    cloud.reweigh(weights)
    return cloud


# complex data, exact data, counts


def test_complex_images_have_the_exact_posterior():
    shape = (1, 2, 3)
    prior = GaussianPrior(torch.full(shape, TAU**2))
    operator = MaskedFourier(torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]), torch.complex128)
    y = operator.forward(prior.sample(1, generator(1), torch.complex128))
    noise = torch.view_as_complex(torch.randn(*y.shape, 2, generator=generator(2), dtype=torch.float64))
    problem = Problem(operator, operator.mask * (y + 0.3 * noise), Gaussian(0.3))
    exact = prior.posterior(operator.adjoint(problem.y)[0], 0.3, operator.mask)
    result = TDS(**EXACT).sample(prior, problem, None, BatchNoise(0), (8000, *shape))
    assert result.samples.dtype == torch.complex128
    spread = float(exact.spectrum.mean().sqrt())
    assert float((result.samples.mean(0) - exact.mean).abs().max()) < 0.1 * spread
    spectrum = torch.fft.fftn(result.samples - result.samples.mean(0), dim=(-2, -1), norm="ortho")
    parts = torch.view_as_real(spectrum).square().mean((0, -1))
    assert relative(parts, exact.spectrum) < 0.1


def test_exact_data_are_met_closely():
    """No particle meets exact data: a little noise stands in for none, a thousandth of the data."""
    mask = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    operator = Inpaint(SHAPE, mask).to(dtype=torch.float64)
    y = operator.forward(WHITE.sample(1, generator(3), torch.float64))
    result = TDS(**(EXACT | {"steps": 60})).sample(
        WHITE, Problem(operator, y, Gaussian(0.0)), None, BatchNoise(0), (2000, *SHAPE)
    )
    assert result.status is Status.OK
    seen = mask.bool().expand(SHAPE)
    assert relative(result.samples.mean(0)[seen], y[0][seen]) < 0.01
    assert float(result.samples.std(0)[~seen]) == pytest.approx(TAU, rel=0.2)
    assert float(result.stats.residuals[-1].median()) < 0.01  # of exact data, relative to y
    nothing = Problem(operator, torch.zeros_like(y), Gaussian(0.0))
    blank = TDS(**EXACT).sample(WHITE, nothing, None, BatchNoise(0), (50, *SHAPE))
    assert bool(blank.samples.isfinite().all())


def test_counts_move_the_particles_as_their_likelihood_does():
    """A pixel counted once: the posterior by quadrature."""
    shape, prior = (1, 1, 1), GaussianPrior(torch.full((1, 1, 1), TAU**2))
    operator = Inpaint(shape, torch.ones(1, 1)).to(dtype=torch.float64)
    likelihood = Poisson(10.0, 1.0, torch.full((1, *shape), 1.5, dtype=torch.float64))
    problem = Problem(operator, torch.full((1, *shape), 0.6, dtype=torch.float64), likelihood)
    grid = torch.linspace(-1.4, 3, 20001, dtype=torch.float64).reshape(-1, *shape)
    log = -likelihood.loss(grid, problem.y) - grid.flatten() ** 2 / (2 * TAU**2)
    weight = log.softmax(0)
    mean = float((weight * grid.flatten()).sum())
    std = float((weight * (grid.flatten() - mean) ** 2).sum()) ** 0.5
    samples = TDS(**EXACT).sample(prior, problem, None, BatchNoise(0), (8000, *shape)).samples
    assert float(samples.mean()) == pytest.approx(mean, abs=0.06 * std)
    assert float(samples.std()) == pytest.approx(std, rel=0.06)


# batches, refusals


def test_batches_change_nothing():
    problem, *_ = gaussian_problem()
    found = [
        TDS(**EXACT, batch=batch).sample(WHITE, problem, None, SeededNoise(0, range(11)), (11, *SHAPE)).samples
        for batch in (64, 4, 1)
    ]
    assert relative(found[1], found[0]) < 1e-9 and relative(found[2], found[0]) < 1e-9


def test_float32_is_near_float64():
    """Weights stay float64; a run without resampling shows the state's own rounding."""
    prior = GaussianPrior(power_law_spectrum(SHAPE, 2.0, TAU))
    noise = torch.randn(400, 8, *SHAPE, generator=generator(0), dtype=torch.float64)

    class Told:
        """The same noise in both precisions."""

        def __init__(self) -> None:
            self.calls = 0

        def normal(self, shape, dtype):
            self.calls += 1
            drawn = noise[self.calls]
            return drawn.to(dtype) if len(shape) > 1 else drawn.flatten(1)[:, 0]

    problem, *_ = gaussian_problem()
    single = Problem(problem.operator.to(dtype=torch.float32), problem.y.float(), problem.likelihood)
    method = TDS(steps=30, threshold=0.0)
    exact, rounded = (method.sample(prior, p, None, Told(), (8, *SHAPE)) for p in (problem, single))
    assert rounded.samples.dtype == torch.float32
    assert relative(rounded.samples.double(), exact.samples) < 1e-4
    assert float(rounded.stats.ensemble.log_evidence) == pytest.approx(float(exact.stats.ensemble.log_evidence), 1e-4)


def test_what_cannot_work_is_refused():
    problem, *_ = gaussian_problem()
    with pytest.raises(ConfigError, match="needs a prior"):
        TDS().sample(None, problem, None, BatchNoise(0), (4, *SHAPE))
    with pytest.raises(ConfigError, match="ensemble of 2 or more"):
        TDS().sample(WHITE, problem, None, BatchNoise(0), (1, *SHAPE))
    several = replace(problem, y=problem.y.expand(4, -1))
    with pytest.raises(ConfigError, match="one measurement"):
        TDS().sample(WHITE, several, None, BatchNoise(0), (4, *SHAPE))
    for settings in ({"particles": 1}, {"batch": 0}, {"steps": 0}):
        with pytest.raises(ConfigError, match="tds needs particles"):
            TDS(**settings)
    for settings in ({"threshold": -0.1}, {"threshold": 1.1}, {"prior_std": 0.0}):
        with pytest.raises(ConfigError, match=r"threshold in 0\.\.1"):
            TDS(**settings)
    with pytest.raises(ConfigError, match="unknown grid"):
        TDS(grid="no")


def test_divergence_is_noticed():
    problem, *_ = gaussian_problem()
    broken = replace(problem, y=torch.full_like(problem.y, float("nan")))
    result = TDS(steps=30).sample(WHITE, broken, None, BatchNoise(0), (4, *SHAPE))
    assert result.status is Status.DIVERGED and bool(torch.isfinite(result.samples).all())
