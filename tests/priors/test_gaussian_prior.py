"""The stationary Gaussian prior against dense linear algebra."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.errors import ConfigError
from recon.priors.gaussian import GaussianPrior, power_law_spectrum


def _generator(seed):
    return torch.Generator().manual_seed(seed)


def _dense_covariance(spectrum):
    """(D, D) covariance of a real image from its spectrum, by the circulant definition."""
    kernel = torch.fft.ifftn(spectrum, dim=tuple(range(1, spectrum.ndim))).real
    axes = tuple(range(1, spectrum.ndim))
    columns = []
    for channel in range(spectrum.shape[0]):
        for index in range(spectrum[0].numel()):
            place = torch.unravel_index(torch.tensor(index), spectrum.shape[1:])
            column = torch.zeros_like(kernel)
            column[channel] = kernel[channel]
            columns.append(torch.roll(column, [int(p) for p in place], axes).flatten())
    return torch.stack(columns, 1)


@given(st.integers(1, 2), st.integers(2, 6), st.integers(2, 6), st.floats(0, 3), st.floats(0.01, 50), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_denoiser_is_the_wiener_filter(channels, rows, columns, exponent, sigma, seed):
    shape = (channels, rows, columns)
    spectrum = power_law_spectrum(shape, exponent, 0.6)
    mean = torch.randn(shape, generator=_generator(seed), dtype=torch.float64)
    x = 3 * torch.randn(2, *shape, generator=_generator(seed + 1), dtype=torch.float64)
    levels = torch.tensor([sigma, 2 * sigma], dtype=torch.float64)
    found = GaussianPrior(spectrum, mean)(x, levels).x0
    covariance = _dense_covariance(spectrum)
    for item in range(2):
        noisy = covariance + levels[item] ** 2 * torch.eye(len(covariance), dtype=torch.float64)
        exact = mean.flatten() + covariance @ torch.linalg.solve(noisy, (x[item] - mean).flatten())
        assert torch.allclose(found[item].flatten(), exact, rtol=1e-8, atol=1e-9)


def test_three_axes_and_single_precision():
    spectrum = power_law_spectrum((1, 3, 4, 5), 2.0, 0.6)
    x = torch.randn(2, 1, 3, 4, 5, generator=_generator(0))
    found = GaussianPrior(spectrum)(x, 0.5).x0
    covariance = _dense_covariance(spectrum)
    gain = covariance @ torch.linalg.inv(covariance + 0.25 * torch.eye(60, dtype=torch.float64))
    assert found.dtype == torch.float32
    assert torch.allclose(found.flatten(1).double(), x.flatten(1).double() @ gain.T, atol=1e-5)


def test_complex_image_is_denoised_like_its_two_parts():
    prior = GaussianPrior(power_law_spectrum((1, 5, 6), 2.0, 0.6), 0.3)
    z = torch.randn(2, 1, 5, 6, generator=_generator(0), dtype=torch.complex128)
    centred = GaussianPrior(prior.spectrum)
    found = prior(z, 0.7).x0
    assert torch.allclose(found.real, prior(z.real, 0.7).x0, atol=1e-12)
    assert torch.allclose(found.imag, centred(z.imag.contiguous(), 0.7).x0, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 3, 5)])
def test_jacobian_is_symmetric_with_eigenvalues_between_0_and_1(shape):
    prior = GaussianPrior(power_law_spectrum(shape, 2.0, 0.6))
    size = torch.Size(shape).numel()
    jacobian = torch.autograd.functional.jacobian(
        lambda v: prior(v.reshape(1, *shape), 0.4).x0.flatten(), torch.zeros(size, dtype=torch.float64)
    )
    assert torch.allclose(jacobian, jacobian.T, atol=1e-12)
    eigenvalues = torch.linalg.eigvalsh(jacobian)
    assert 0 < float(eigenvalues.min()) and float(eigenvalues.max()) < 1


def test_spectrum_has_the_power_and_slope_asked_for():
    spectrum = power_law_spectrum((1, 32, 32), 3.0, 0.4)
    assert float(spectrum.mean()) == pytest.approx(0.16)
    assert float(spectrum[0, 0, 8] / spectrum[0, 0, 4]) == pytest.approx(2**-3.0)
    assert float(spectrum[0, 0, 0]) == pytest.approx(float(spectrum[0, 0, 1]))
    assert torch.equal(spectrum[0, 3], spectrum[0, -3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_samples_have_the_mean_and_spectrum(dtype):
    spectrum = power_law_spectrum((1, 6, 7), 2.0, 0.5)
    prior = GaussianPrior(spectrum, 0.25)
    x = prior.sample(4000, _generator(3), dtype)
    assert x.shape == (4000, 1, 6, 7) and x.dtype == dtype
    power = (torch.fft.fft2(x - 0.25, norm="ortho").abs() ** 2).double().mean(0)
    expected = spectrum * (2 if dtype.is_complex else 1)
    assert float((power / expected - 1).abs().max()) < 0.15
    assert abs(float((power / expected).mean()) - 1) < 0.02
    assert torch.equal(x, prior.sample(4000, _generator(3), dtype))


def test_posterior_of_noisier_data_is_nearer_to_the_prior():
    prior = GaussianPrior(power_law_spectrum((1, 6, 6), 2.0, 0.5), 0.1)
    y = torch.randn(1, 6, 6, generator=_generator(0), dtype=torch.float64)
    near, far = prior.posterior(y, 1e-4), prior.posterior(y, 1e4)
    assert torch.allclose(near.mean, y, atol=1e-3) and float(near.spectrum.max()) < 1e-7
    assert torch.allclose(far.mean, prior.mean, atol=1e-3) and torch.allclose(far.spectrum, prior.spectrum, rtol=1e-3)
    # the denoiser is the posterior mean of denoising
    assert torch.allclose(prior.posterior(y, 0.3).mean, prior(y[None], 0.3).x0[0], atol=1e-12)


def test_zero_power_stays_at_the_mean_even_without_noise():
    spectrum = torch.zeros(1, 4, 4)
    spectrum[0, 0, 0] = 1.0
    x = torch.randn(1, 1, 4, 4, generator=_generator(0))
    x0 = GaussianPrior(spectrum, 0.5)(x, 0.0).x0
    assert torch.allclose(x0, x.mean().expand_as(x), atol=1e-6)


def test_wrong_arguments_are_refused():
    with pytest.raises(ConfigError, match="negative"):
        GaussianPrior(-torch.ones(1, 4, 4))
    with pytest.raises(ConfigError, match="does not fit"):
        GaussianPrior(torch.ones(1, 4, 4), torch.zeros(1, 4, 5))
    lopsided = torch.ones(1, 4, 4)
    lopsided[0, 0, 1] = 2.0
    prior = GaussianPrior(lopsided)
    with pytest.raises(ConfigError, match="even"):
        prior(torch.zeros(1, 1, 4, 4), 0.1)
    assert prior(torch.zeros(1, 1, 4, 4, dtype=torch.complex64), 0.1).x0.is_complex()
    with pytest.raises(ConfigError, match="expects"):
        prior(torch.zeros(1, 2, 4, 4), 0.1)
