"""Images of other channels than a prior's, against closed forms of Gaussian priors."""

from __future__ import annotations

import math

import pytest
import torch

from recon.errors import ConfigError
from recon.priors.base import Denoiser, Prediction, PriorInfo, per_item
from recon.priors.channels import ComplexPairs, GreyInColour, PerChannel, RealParts, fit_channels
from recon.priors.gaussian import GaussianPrior
from recon.priors.tiled import Tiled


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


class Correlated(Denoiser):
    """x0 ~ N(mean, K) with covariance K (C, C) of the channels at each pixel; some facts declared."""

    def __init__(self, covariance, mean=0.0, complex_channels=False, value_range=(-1.0, 1.0), extras=False):
        self.covariance, self.mean, self.extras = covariance, mean, extras
        self.info = PriorInfo(
            "pixels",
            len(covariance),
            sigma_min=0.1,
            sigma_max=60.0,
            complex_channels=complex_channels,
            value_range=value_range,
        )

    def _denoise(self, x, sigma, cond):
        if x.is_complex():
            raise AssertionError("a prior of real channels was given complex images")
        eye = torch.eye(len(self.covariance), dtype=x.dtype)
        gain = self.covariance @ torch.linalg.inv(self.covariance + sigma[:, None, None] ** 2 * eye)
        x0 = self.mean + torch.einsum("bij,bjyx->biyx", gain, x - self.mean)
        if cond is not None:
            x0 = x0 + per_item(cond, x0)
        return Prediction(x0, 0.3 * x0, 0.5 * x0) if self.extras else Prediction(x0)


SIGMAS = torch.tensor([0.2, 1.5], dtype=torch.float64)


def test_complex_pairs_are_native_complex_images():
    covariance = torch.tensor([[1.0, 0.4], [0.4, 0.5]], dtype=torch.float64)
    inner = Correlated(covariance, complex_channels=True, extras=True)
    prior = ComplexPairs(inner)
    parts = normal(2, 2, 4, 5)
    x = torch.complex(parts[:, :1], parts[:, 1:])
    expected = inner(parts, SIGMAS)
    seen = prior(x, SIGMAS)
    torch.testing.assert_close(seen.x0, torch.complex(expected.x0[:, :1], expected.x0[:, 1:]))
    torch.testing.assert_close(seen.x0_uncond, 0.5 * seen.x0)
    assert seen.variance_mix is None and prior.info.channels == 1 and prior.info.complex_channels
    with pytest.raises(ConfigError, match="is not for complex images"):
        ComplexPairs(Correlated(covariance))


def test_several_complex_channels_are_neighbouring_pairs():
    blocks = torch.block_diag(*[torch.tensor([[1.0, 0.3], [0.3, 1.0]]) * k for k in (1, 2)]).double()
    prior = ComplexPairs(Correlated(blocks, complex_channels=True))
    x = torch.complex(normal(1, 2, 3, 3), normal(1, 2, 3, 3, seed=1))
    for k in (1, 2):
        single = ComplexPairs(Correlated(blocks[:2, :2] * k, complex_channels=True))
        torch.testing.assert_close(prior(x, 0.7).x0[:, k - 1 : k], single(x[:, k - 1 : k], 0.7).x0)


def test_gradients_through_complex_pairs_are_those_of_pairs_of_reals():
    prior = ComplexPairs(Correlated(torch.tensor([[1.0, 0.4], [0.4, 0.5]], dtype=torch.float64), complex_channels=True))
    x = torch.complex(normal(1, 1, 3, 3), normal(1, 1, 3, 3, seed=1)).requires_grad_()
    v = torch.complex(normal(1, 1, 3, 3, seed=2), normal(1, 1, 3, 3, seed=3))
    (pulled,) = torch.autograd.grad(prior(x, 0.7).x0, x, v)
    # the Jacobian of a Gaussian denoiser is symmetric: J^T v = D(v) of a prior around 0
    torch.testing.assert_close(pulled, prior(v, 0.7).x0)


def test_real_parts_are_images_whose_black_is_zero():
    inner = Correlated(torch.tensor([[0.5]], dtype=torch.float64), mean=-0.6)
    prior = RealParts(inner)
    x = torch.complex(normal(2, 1, 4, 5), normal(2, 1, 4, 5, seed=1))
    gain = (0.5 / (0.5 + SIGMAS**2))[:, None, None, None]
    # both parts are drawn towards the same image value: the mean is 0.4 above black, which is -1 in the real part's
    # units and 0 in the imaginary part's
    expected = torch.complex(-0.6 + gain * (x.real + 0.6), 0.4 + gain * (x.imag - 0.4))
    torch.testing.assert_close(prior(x, SIGMAS).x0, expected)
    assert prior.info.complex_channels and prior.info.channels == 1


def test_channels_by_themselves():
    inner = Correlated(torch.tensor([[0.5]], dtype=torch.float64), mean=0.2, extras=True)
    prior, x, cond = PerChannel(inner, 3), normal(2, 3, 4, 5), torch.tensor([1.0, 2.0])
    seen = prior(x, SIGMAS, cond)
    for k in range(3):
        single = inner(x[:, k : k + 1], SIGMAS, cond)
        for part in ("x0", "variance_mix", "x0_uncond"):
            torch.testing.assert_close(getattr(seen, part)[:, k : k + 1], getattr(single, part))
    assert prior.info.channels == 3
    with pytest.raises(ConfigError, match="has 2 channels: they belong together"):
        PerChannel(Correlated(torch.eye(2)), 3)


@pytest.mark.parametrize("luminance", [0.02, 0.5, 4.0])
def test_grey_images_of_a_colour_prior_are_exact_where_luminance_and_colour_are_independent(luminance):
    # along (1, 1, 1)/sqrt(3) the variance is 3 luminance, so that the mean of the channels has `luminance`
    grey = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    prior = GreyInColour(Correlated(3 * luminance * grey + 0.1 * (torch.eye(3) - grey), mean=0.25))
    x = normal(2, 1, 4, 5)
    gain = (luminance / (luminance + SIGMAS**2))[:, None, None, None]
    torch.testing.assert_close(prior(x, SIGMAS).x0, 0.25 + gain * (x - 0.25))
    assert prior.info.channels == 1
    assert prior.info.sigma_max == pytest.approx(60 / math.sqrt(3))
    assert prior.info.sigma_min == pytest.approx(0.1 / math.sqrt(3))
    with pytest.raises(ConfigError, match="has 1 channels, not 3 colours"):
        GreyInColour(Correlated(torch.eye(1)))


def test_what_fits_is_left_as_it_is():
    for prior, channels in (
        (Correlated(torch.eye(1)), 1),
        (Correlated(torch.eye(3)), 3),
        (Correlated(torch.eye(2)), 4),
    ):
        assert fit_channels(prior, channels, False) == (prior, None)
    # what is an assumption is made only where it is asked for
    real, pairs = Correlated(torch.eye(1)), Correlated(torch.eye(2), complex_channels=True)
    assert fit_channels(real, 1, True) == (real, None)
    assert fit_channels(real, 3, False) == (real, None)
    assert fit_channels(pairs, 2, True, split=True) == (pairs, None)


def test_what_does_not_fit_gets_its_wrapper_and_a_word():
    cases = [
        (Correlated(torch.eye(2), complex_channels=True), 1, True, False, ComplexPairs, None),
        (Correlated(torch.eye(1)), 1, True, True, RealParts, "real and imaginary parts"),
        (Correlated(torch.eye(1)), 3, False, True, PerChannel, "the image's 3 one by one"),
        (Correlated(torch.eye(3)), 1, False, False, GreyInColour, "three equal ones"),
    ]
    for prior, channels, is_complex, split, wrapper, word in cases:
        found, notice = fit_channels(prior, channels, is_complex, split)
        assert type(found) is wrapper and (notice is None if word is None else word in notice)
        found.check_shape((channels, 4, 4))


def test_wrappers_move_and_are_put_around_others():
    inner = Correlated(torch.eye(1, dtype=torch.float64))
    x = normal(1, 3, 6, 6)
    for prior in (PerChannel(inner, 3), PerChannel(Tiled(inner, 4, 2), 3).to("cpu")):
        torch.testing.assert_close(prior(x, 0.5).x0, x / 1.25)
    for wrapper, own in ((ComplexPairs, 2), (RealParts, 1)):
        prior = wrapper(Correlated(torch.eye(own, dtype=torch.float64), complex_channels=own == 2))
        z = torch.complex(x[:, :1], x[:, 1:2])
        torch.testing.assert_close(prior.to("cpu")(z, 0.5).x0, prior(z, 0.5).x0)
    assert isinstance(GreyInColour(Correlated(torch.eye(3))).to("cpu"), GreyInColour)


def test_parts_of_a_stationary_gaussian_are_that_of_complex_images():
    # where black is 0, real and imaginary parts have the prior's spectrum each, as a GaussianPrior of complex images
    spectrum = 0.1 + torch.rand(1, 6, 6, generator=generator(), dtype=torch.float64)
    spectrum = spectrum + spectrum.flip((1, 2)).roll((1, 1), (1, 2))
    inner = GaussianPrior(spectrum, value_range=(0.0, 1.0))
    x = torch.complex(normal(1, 1, 6, 6), normal(1, 1, 6, 6, seed=1))
    torch.testing.assert_close(RealParts(inner)(x, 0.7).x0, inner(x, 0.7).x0)
