"""The transmission likelihood: against the counts' log-density, its derivative, and simulated measurements."""

import numpy as np
import pytest
import torch
from torch.distributions import Poisson

from recon.config.schema import NoiseSection
from recon.data import NoiseSpec
from recon.errors import InputError
from recon.likelihoods import Transmission
from recon.operators.registry import build, draw
from recon.runs.problem import scale_problem
from recon.runs.simulate import absolute_noise, add_noise

OFFSET = torch.full((1, 2, 3), 0.4, dtype=torch.float64)
LIKELIHOOD = Transmission(gain=200.0, scale=0.7, offset=OFFSET)


def depths(batch, seed=0):
    return torch.rand(batch, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_loss_is_the_negative_log_density_of_the_counts():
    counts = Poisson(LIKELIHOOD.rate(depths(1))).sample()
    y = (-(counts / 200).log() - OFFSET) / 0.7
    z, other = depths(3, 1), depths(3, 2)
    exact = [-Poisson(LIKELIHOOD.rate(v)).log_prob(counts).flatten(1).sum(1) for v in (z, other)]
    found = [LIKELIHOOD.loss(v, y) for v in (z, other)]
    torch.testing.assert_close(found[0] - found[1], exact[0] - exact[1])


def test_the_loss_is_least_where_the_data_are_met():
    y = depths(1)
    z = y.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(LIKELIHOOD.loss(z, y).sum(), z)
    torch.testing.assert_close(gradient, torch.zeros_like(z))
    assert bool((LIKELIHOOD.loss(y + 0.1 * depths(4, 3), y) > LIKELIHOOD.loss(y, y)).all())


def test_the_residual_is_one_at_the_truth_of_simulated_data():
    operator = build(draw("ct", {"angles": 40}, (1, 32, 32), 0))
    image = torch.zeros(1, 1, 32, 32)
    image[..., 8:20, 10:25] = 50.0
    noise = absolute_noise(NoiseSection(kind="transmission", photons=5000, attenuation=0.1), 50.0)
    assert noise == NoiseSpec("transmission", gain=5000.0, attenuation=0.1 / 50)
    z = operator.forward(image)
    y = add_noise(z[0].numpy(), operator, noise, np.random.default_rng(0))
    assert y.dtype == np.float32
    scaled = scale_problem(operator, torch.from_numpy(y)[None], noise, 20.0, 5.0, norm=3.0)
    likelihood, truth = scaled.problem.likelihood, scaled.problem.operator.forward((image - 5) / 20)
    assert isinstance(likelihood, Transmission)
    torch.testing.assert_close(likelihood.rate(truth), 5000 * (-0.1 / 50 * z).exp(), rtol=1e-3, atol=1e-2)
    residual = likelihood.residual(truth, scaled.problem.y, operator.measured())
    assert float(residual) == pytest.approx(1, abs=0.05)


def test_rays_that_let_nothing_through_are_finite_and_complex_data_are_refused():
    operator = build(draw("ct", {"angles": 4}, (1, 8, 8), 0))
    noise = NoiseSpec("transmission", gain=10.0, attenuation=1.0)
    y = add_noise(np.full((1, 4, 12), 99.0, np.float32), operator, noise, np.random.default_rng(0))
    assert np.allclose(y, np.log(20))
    with pytest.raises(InputError, match="real line integrals"):
        add_noise(np.ones((1, 4, 12), np.complex64), operator, noise, np.random.default_rng(0))
