"""A prior of images on the slices of a volume."""

from __future__ import annotations

import pytest
import torch

from recon.errors import ConfigError
from recon.priors.base import Denoiser, Prediction, PriorInfo, per_item
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.priors.slices import Slices


class Uneven(Denoiser):
    """Values that tell axes, levels and classes apart; remembers how many slices came together."""

    info = PriorInfo(name="uneven", channels=1, sizes=(4, 5))

    def __init__(self):
        self.batches = []

    def _denoise(self, x, sigma, cond):
        self.batches.append(len(x))
        shade = torch.arange(20.0).reshape(4, 5)
        x0 = x * shade / (1 + per_item(sigma, x)) + (0 if cond is None else per_item(cond, x))
        return Prediction(x0, x0 + 1, x0 + 2)


@pytest.mark.parametrize("chunk", [1, 2, 3, 8])
@pytest.mark.parametrize("axis", [2, 3, 4])
def test_each_slice_is_seen_as_an_image_whatever_the_chunk(chunk, axis):
    shape = [2, 1, 4, 5]
    shape.insert(axis, 3)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    inner, sigma, cond = Uneven(), torch.tensor([0.5, 2.0]), torch.tensor([1, 7])
    seen = Slices(inner, chunk, axis)(x, sigma, cond)
    assert max(inner.batches) == min(chunk, 3) and sum(inner.batches) == 6
    for k in range(3):
        image = Uneven()(x.select(axis, k), sigma, cond)
        for found, expected in zip(
            (seen.x0, seen.variance_mix, seen.x0_uncond), (image.x0, image.variance_mix, image.x0_uncond), strict=True
        ):
            assert torch.equal(found.select(axis, k), expected)


def test_images_pass_and_wrong_sizes_are_refused():
    prior = Slices(Uneven(), 2)
    x = torch.randn(2, 1, 4, 5)
    assert torch.equal(prior(x, 1.0).x0, Uneven()(x, 1.0).x0)
    with pytest.raises(ConfigError, match=r"sizes \(4, 5\), got \(5, 4\)"):
        prior(torch.zeros(1, 1, 9, 5, 4), 1.0)
    with pytest.raises(ConfigError, match="channel"):
        prior(torch.zeros(1, 2, 9, 4, 5), 1.0)


def test_another_axis_takes_the_auxiliary_prior():
    spectra = [power_law_spectrum((1, *size), 2.0, 0.5) for size in ((4, 5), (3, 5))]
    across_z, across_y = (GaussianPrior(s) for s in spectra)
    prior = Slices(across_z, 2, auxiliary=across_y)
    x = torch.randn(1, 1, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(prior.to("cpu").along(3)(x, 0.5).x0[:, :, :, 1], across_y(x[:, :, :, 1], 0.5).x0)
    assert torch.equal(prior.with_chunk(3)(x, 0.5).x0[:, :, 1], across_z(x[:, :, 1], 0.5).x0)
    plain = Slices(Uneven(), 2)
    assert plain.along(3).inner is plain.inner
