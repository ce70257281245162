"""Tweedie's second moment by probes and by Lanczos, against closed forms."""

import pytest
import torch
from sampler_doubles import BatchNoise

from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.priors.mixture import MixturePrior
from recon.samplers.gradient import trace
from recon.samplers.tweedie import covariance_times, diagonal_std, draw, scalar_std

SHAPE, SIGMA = (1, 4, 6), 0.4


def field(dtype, count):
    prior = GaussianPrior(power_law_spectrum(SHAPE, 1.5, 0.5), 0.2)
    x = torch.zeros(count, *SHAPE, dtype=dtype)
    posterior = prior.posterior(torch.zeros(SHAPE, dtype=dtype), SIGMA)
    return trace(prior, x, torch.tensor(SIGMA, dtype=torch.float64)), posterior


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("estimate", [scalar_std, diagonal_std])
def test_probes_estimate_the_posterior_variance_without_bias(estimate, dtype):
    seen, posterior = field(dtype, 400)
    std = estimate(seen, SIGMA, 3, BatchNoise(0).normal)
    assert std.shape == ((400, 1, 1, 1) if estimate is scalar_std else (400, *SHAPE))
    assert std.dtype == torch.float64
    expected = float(posterior.spectrum.mean())  # the same at every pixel of a stationary field
    share = std.flatten(1) ** 2
    error = float(share.mean(1).std()) / 20
    assert abs(float(share.mean()) - expected) < 5 * error < 0.05 * expected


def test_one_probe_is_exact_where_the_jacobian_is_diagonal_and_each_item_has_its_own():
    variances = torch.tensor([[[[0.01, 0.04], [0.09, 0.25]]]]).double()
    prior = MixturePrior(torch.ones(1), torch.zeros(1, 1, 2, 2), variances)
    sigma = torch.tensor(SIGMA, dtype=torch.float64)
    found = diagonal_std(trace(prior, torch.zeros(2, 1, 2, 2).double(), sigma), SIGMA, 1, BatchNoise(0).normal)
    exact = variances * SIGMA**2 / (variances + SIGMA**2)
    assert torch.allclose(found**2, exact.expand(2, 1, 2, 2))
    scalar = scalar_std(trace(prior, torch.zeros(2, 1, 2, 2).double(), sigma), SIGMA, 1, BatchNoise(0).normal)
    assert torch.allclose(scalar[:, 0, 0, 0] ** 2, exact.mean().expand(2))


def test_two_far_modes_have_more_spread_than_the_noise():
    """Between two modes the image's variance exceeds sigma^2: J is above 1, and no estimate caps it."""
    modes = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1)
    prior = MixturePrior(torch.ones(2), modes, torch.full((2, 1, 1, 1), 0.01))
    sigma = torch.tensor(0.5, dtype=torch.float64)
    found = scalar_std(trace(prior, torch.zeros(1, 1, 1, 1).double(), sigma), 0.5, 1, BatchNoise(0).normal)
    inside = 0.01 * 0.25 / 0.26
    assert float(found) == pytest.approx(((0.25 / 0.26) ** 2 + inside) ** 0.5)
    assert float(found) > 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_draws_have_tweedies_moments(dtype):
    seen, posterior = field(dtype, 4000)
    x = draw(seen, SIGMA, 16, BatchNoise(1).normal)
    modes = torch.fft.fft2(x - seen.x0, norm="ortho").abs() ** 2
    power = modes.mean(0) / (2 if dtype.is_complex else 1) / posterior.spectrum
    assert float((power - 1).abs().max()) < 5 * (2 / 4000) ** 0.5
    assert float((x.mean(0) - seen.x0[0]).abs().max()) < 5 * (2 * float(posterior.spectrum.mean()) / 4000) ** 0.5


def test_product_is_the_posterior_covariance():
    seen, posterior = field(torch.float64, 2)
    u = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.fft.ifft2(posterior.spectrum * torch.fft.fft2(u)).real
    for _ in range(2):  # the graph stays
        assert torch.allclose(covariance_times(seen, SIGMA, u), expected)
