"""DDIP is D3IP of one slice: the same sample, evaluations, resumption, and colour images."""

import pytest
import torch
from sampler_doubles import ConvNet, Convolutional, Dense, VPDenoiser, generator, relative
from volume_doubles import fourier_volume, slice_noise

from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian, Poisson
from recon.operators.inpaint import Inpaint
from recon.priors.slices import Slices
from recon.samplers.base import SeededNoise
from recon.samplers.d3ip import D3IP
from recon.samplers.ddip import DDIP
from recon.samplers.dds import DDS

IMAGE = (1, 1, 6, 6)


def image_problem(dtype=torch.float64):
    volume, _ = fourier_volume((1, 1, 5, 6, 6), dtype)
    return Problem(volume.operator.parts[2], volume.y[:, 2], Gaussian(0.05)), volume


def test_an_image_is_a_volume_of_one_slice():
    prior, (image, volume) = VPDenoiser(ConvNet(1)), image_problem()
    found = DDIP(steps=6, adapt_steps=3).sample(prior, image, None, SeededNoise(3, [0]), IMAGE).samples
    one = Problem(volume.operator.part(2, 1), volume.y[:, 2:3], Gaussian(0.05))
    method = D3IP(steps=6, adapt_steps=3, weighting="constant", start="noise")
    deep = method.sample(Slices(prior), one, None, slice_noise(1), (1, 1, 1, 6, 6)).samples
    assert relative(deep[:, :, 0], found) < 1e-10
    plain = DDS(steps=6, gamma=5.0).sample(prior, image, None, SeededNoise(3, [0]), IMAGE).samples
    assert relative(plain, found) > 1e-4


def test_without_a_fit_it_is_dds():
    prior, (image, _) = VPDenoiser(ConvNet(1)), image_problem()

    class After:
        """Noise of DDS after the draw that DDIP takes its seed from."""

        def __init__(self):
            self.source, self.first = SeededNoise(3, [0]), True

        def normal(self, shape, dtype):
            drawn = self.source.normal(shape, dtype)
            if self.first:
                self.first = False
                self.source.normal(shape, torch.float32)
            return drawn

    found = DDIP(steps=6, adapt_steps=0, dropout=0.0).sample(prior, image, None, SeededNoise(3, [0]), IMAGE).samples
    assert relative(DDS(steps=6, gamma=5.0).sample(prior, image, None, After(), IMAGE).samples, found) < 1e-10


def test_defaults_and_evaluations():
    method = DDIP()
    assert (method.weighting, method.gamma, method.adapt_steps, method.cg_iterations) == ("constant", 5.0, 10, 5)
    assert not method.joint and method.differentiates_prior
    assert method.network_calls == 50 + 490 and method.evaluations(3) == 3 * method.network_calls


def test_goes_on_from_every_step_with_the_same_bits():
    prior, (image, _) = VPDenoiser(ConvNet(1, torch.float32)), image_problem(torch.float32)
    method, kept, noise = DDIP(steps=4, adapt_steps=2), [], SeededNoise(3, [0, 1])
    shape = (2, *IMAGE[1:])
    whole = method.sample(prior, image, None, noise, shape, lambda s: kept.append((s.state, noise.state())))
    for state, drawn in kept:
        again = SeededNoise(9, [0, 1])
        again.restore(drawn)
        resumed = method.sample(prior, image, None, again, shape, state=state)
        assert torch.equal(resumed.samples, whole.samples) and resumed.stats.shared == whole.stats.shared


def test_colours_and_counts():
    mask = (torch.rand(8, 8, generator=generator(0)) < 0.5).float()
    operator = Inpaint((3, 8, 8), mask)
    y = operator.forward(torch.rand(1, 3, 8, 8, generator=generator(1)))
    problem = Problem(operator, y, Poisson(100.0, 1.0, torch.full((1, 3, 8, 8), 0.2)))
    method = DDIP(steps=4, adapt_steps=2, weighting="matched", grid="edm", lowest=0.0)
    found = method.sample(Convolutional(3), problem, None, SeededNoise(0, [0, 1]), (2, 3, 8, 8))
    assert bool(found.samples.isfinite().all()) and found.stats.shared == 8


def test_refusals():
    image, _ = image_problem()
    with pytest.raises(ConfigError, match="'ddip' needs a prior"):
        DDIP().sample(None, image, None, SeededNoise(0, [0]), IMAGE)
    with pytest.raises(ConfigError, match="ddip and d3ip need"):
        DDIP(steps=0)


def test_starts_from_noise_where_there_is_no_pseudo_inverse():
    matrix = torch.randn(20, 36, generator=generator(0), dtype=torch.float64) / 6
    problem = Problem(Dense(matrix, (1, 6, 6)), torch.ones(1, 20, dtype=torch.float64), Gaussian(0.1))
    prior, few = VPDenoiser(ConvNet(1)), {"steps": 3, "adapt_steps": 1}
    found = [
        DDIP(start=start, **few).sample(prior, problem, None, SeededNoise(0, [0]), IMAGE).samples
        for start in ("pinv", "noise")
    ]
    assert torch.equal(*found)
