"""Every exact posterior against a computation of another kind: importance sampling, brute force, dense matrices."""

import math

import pytest
import torch

from recon.audit.bands import Bands, shells
from recon.audit.cases import IMAGE_OPERATORS, build_case, dense_covariance
from recon.audit.catalog import MIXTURES, SCALARS, all_cases, case_info
from recon.audit.exact import GaussianExact
from recon.audit.gaussian import dense_posterior
from recon.audit.noise import generator
from recon.audit.stationary import StationaryExact
from recon.errors import ConfigError
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.solvers.dense import dense_matrix, real_rows

IMAGES = [f"{kind}-8" for kind in IMAGE_OPERATORS]


def _prior_matrix(case):
    """Return the prior's covariance by sending unit vectors through F^H S F; interleaved parts for complex images."""
    spectrum, is_complex = case.prior.spectrum, case.problem.operator.in_dtype.is_complex
    single = dense_covariance(spectrum)
    if not is_complex:
        return single
    size = len(single)
    whole = torch.zeros(2 * size, 2 * size, dtype=torch.float64)
    whole[0::2, 0::2], whole[1::2, 1::2] = single, single
    return whole


@pytest.mark.parametrize("name", IMAGES)
def test_gaussian_posteriors_satisfy_the_normal_equations(name):
    """(C0^-1 + A^T A/sigma^2) m = A^T y/sigma^2, and its inverse is C: nothing of the code under test but the prior."""
    case = build_case(name)
    operator, sigma = case.problem.operator, case.problem.likelihood.sigma
    matrix, y = dense_matrix(operator), real_rows(case.problem.y)[0]
    prior = _prior_matrix(case)
    precision = torch.linalg.inv(prior) + matrix.T @ matrix / sigma**2
    mean = torch.linalg.solve(precision, matrix.T @ y / sigma**2)
    covariance = torch.linalg.inv(precision)
    size = len(mean)
    assert torch.allclose(case.exact.mean, mean, atol=1e-5)
    assert torch.allclose(case.exact.std, covariance.diagonal().sqrt(), atol=1e-5)
    assert torch.allclose(case.exact.covariance(torch.eye(size, dtype=torch.float64)), covariance, atol=1e-6)
    assert case.linear_gaussian


def test_both_ways_to_a_gaussian_posterior_are_used_and_agree():
    kinds = {name: type(build_case(name).exact) for name in IMAGES}
    assert kinds["gaussian-denoise-8"] is kinds["gaussian-deblur-8"] is StationaryExact
    assert kinds["gaussian-fourier-8"] is kinds["gaussian-fourier-complex-8"] is StationaryExact
    for kind in ("inpaint", "deblur-reflect", "sr4", "ct"):
        assert kinds[f"gaussian-{kind}-8"] is GaussianExact
    case = build_case("gaussian-fourier-16")
    sigma, prior = case.problem.likelihood.sigma, case.prior
    dense = dense_posterior(case.problem.operator, dense_covariance(prior.spectrum), prior.mean, case.problem.y, sigma)
    other = GaussianExact(dense.mean, dense.covariance)
    assert torch.allclose(case.exact.mean, other.mean, atol=1e-5)
    assert torch.allclose(case.exact.band_std(case.bands), other.band_std(case.bands), atol=1e-6)


def test_the_prior_matrix_is_the_covariance_of_the_priors_draws():
    spectrum = power_law_spectrum((1, 4, 4), 2.0, 0.5)
    draws = GaussianPrior(spectrum).sample(200_000, torch.Generator().manual_seed(0), torch.float64).flatten(1)
    assert torch.allclose(draws.T @ draws / len(draws), dense_covariance(spectrum), atol=0.004)


@pytest.mark.parametrize("name", ["gaussian-inpaint-8", "gaussian-fourier-complex-8"])
def test_band_spreads_are_those_of_filtered_draws(name):
    case = build_case(name)
    draws = case.exact.draw(20_000, generator(1))
    parts = case.bands.split(draws - case.exact.mean)
    expected = case.exact.band_std(case.bands)
    present = expected.mean(1) > 1e-6
    assert bool(present.all())
    ratio = parts.std(1)[present] / expected[present]
    assert float((ratio - 1).abs().max()) < 0.03


def test_images_have_as_many_bands_as_they_have_modes_for():
    assert shells((32, 32)).names == ("0-1/8", "1/8-1/4", "1/4-1/2", "1/2-1") == shells((64, 64)).names
    assert shells((16, 16)).names == ("0-1/4", "1/4-1/2", "1/2-1")
    for size in (8, 16, 32, 64):
        counts = shells((size, size)).masks.sum((1, 2))
        assert counts.sum() == size**2 and counts.min() >= 9


def test_bands_sum_to_the_image_and_do_not_overlap():
    for is_complex in (False, True):
        bands = shells((16, 12), is_complex)
        rows = torch.randn(3, 16 * 12 * (2 if is_complex else 1), dtype=torch.float64, generator=generator(0))
        parts = bands.split(rows)
        assert torch.allclose(parts.sum(0), rows)
        products = torch.einsum("abd,cbd->ac", parts, parts)
        assert torch.allclose(products, torch.diag(products.diagonal()), atol=1e-9)
    assert torch.equal(Bands().split(rows), rows[None])


@pytest.mark.parametrize("size", [d for d in MIXTURES if d <= 8])
def test_mixture_posteriors_by_importance_sampling(size):
    """Draws of the prior, weighted by the likelihood: mean, spread, distribution function."""
    case = build_case(f"mixture-{size}")
    operator, sigma = case.problem.operator, case.problem.likelihood.sigma
    draws = case.prior.sample(400_000, generator(3), torch.float64)
    z = operator.to(dtype=torch.float64).forward(draws)
    weights = (-((z - case.problem.y) ** 2).sum(1) / (2 * sigma**2)).softmax(0)
    effective = 1 / float((weights**2).sum())
    rows = draws.flatten(1)
    mean = weights @ rows
    variance = weights @ (rows - mean) ** 2
    assert effective > 2000
    reach = 4 * case.exact.std / effective**0.5
    assert bool(((case.exact.mean - mean).abs() < reach).all())
    assert torch.allclose(case.exact.std, variance.sqrt(), rtol=0.08)
    at = case.exact.mean + 0.3 * case.exact.std
    below = weights @ (rows <= at).double()
    assert torch.allclose(case.exact.cdf(at), below, atol=4 / effective**0.5)


@pytest.mark.parametrize("size", MIXTURES)
def test_mixture_posteriors_have_several_modes_and_exact_draws(size):
    exact = build_case(f"mixture-{size}").exact
    heavy = exact.weights > 0.1
    assert int(heavy.sum()) >= 2
    centres = exact.means[heavy]
    assert float((centres[0] - centres[1]).norm()) > 0.5
    draws = exact.draw(40_000, generator(2))
    assert torch.allclose(draws.mean(0), exact.mean, atol=0.015)
    basis = torch.eye(size, dtype=torch.float64)
    assert torch.allclose(torch.cov(draws.T).reshape(size, size), exact.covariance(basis), atol=0.01)
    assert torch.allclose(exact.cdf(draws).mean(0), torch.full((size,), 0.5, dtype=torch.float64), atol=0.01)


@pytest.mark.parametrize("kind", sorted(SCALARS))
def test_scalar_posteriors_by_weighted_draws_of_the_prior(kind):
    case = build_case(f"scalar-{kind}")
    problem, exact = case.problem, case.exact
    draws = case.prior.sample(1_000_000, generator(4), torch.float64)
    losses = problem.likelihood.loss(problem.operator.forward(draws), problem.y.double())
    weights = (-losses).softmax(0)
    x = draws.flatten()
    mean = float(weights @ x)
    std = float((weights @ (x - mean) ** 2).sqrt())
    error = float(exact.std) / math.sqrt(1 / float((weights**2).sum()))
    assert float(exact.mean) == pytest.approx(mean, abs=5 * error)
    assert float(exact.std) == pytest.approx(std, rel=0.02)
    for level in (0.025, 0.05, 0.5, 0.95, 0.975):
        point = exact.quantile(torch.tensor([level], dtype=torch.float64))
        assert float(exact.cdf(point)) == pytest.approx(level, abs=1e-9)
        assert float(weights @ (x <= point).double()) == pytest.approx(level, abs=0.01)


def test_the_linear_scalar_is_the_closed_form():
    exact = build_case("scalar-linear").exact
    gain = 0.15**2 / (0.15**2 + 0.1**2)
    assert float(exact.mean) == pytest.approx(0.5 + gain * 0.2, abs=1e-6)
    assert float(exact.std) == pytest.approx(0.15 * math.sqrt(1 - gain), rel=1e-6)
    at = torch.tensor([float(exact.mean) + 1.645 * float(exact.std)], dtype=torch.float64)
    assert float(exact.cdf(at)) == pytest.approx(0.95, abs=1e-4)


def test_the_amplitude_has_two_modes_and_clipping_a_tail():
    amplitude = build_case("scalar-amplitude").exact
    left = float(amplitude.cdf(torch.zeros(1, dtype=torch.float64)))
    assert 0.2 < left < 0.8 and float(amplitude.std) > 0.4
    clip = build_case("scalar-clip").exact
    assert float(clip.cdf(torch.tensor([0.5], dtype=torch.float64))) < 0.4


def test_a_case_is_always_the_same_and_names_are_checked():
    first = build_case("gaussian-sr4-8")
    build_case.cache_clear()
    again = build_case("gaussian-sr4-8")
    assert first is not again and torch.equal(first.problem.y, again.problem.y)
    assert torch.equal(first.exact.mean, again.exact.mean)
    for name in all_cases():
        assert case_info(name).name == name
    for wrong in ("gaussian-inpaint", "gaussian-inpaint-33", "gaussian-inpaint-256", "mixture-3", "scalar-x", "x"):
        with pytest.raises(ConfigError, match="unknown audit case"):
            case_info(wrong)
    with pytest.raises(ConfigError, match="unknown") as caught:
        case_info("gaussian-inpant-32")
    assert "gaussian-inpaint-32" in str(caught.value.hint)


def test_residuals_of_the_truth_are_those_of_noise():
    """Measurements are made with the noise that the likelihood states, on measured entries alone."""
    case = build_case("gaussian-fourier-complex-16")
    operator, problem = case.problem.operator, case.problem
    assert bool((problem.y[0] * (1 - operator.support)).abs().max() == 0)
    truth = case.prior.sample(1, generator(0, case.info.name, "truth"), operator.in_dtype)
    residual = problem.likelihood.residual(operator.forward(truth), problem.y, operator.measured())
    assert 0.8 < float(residual) < 1.2
