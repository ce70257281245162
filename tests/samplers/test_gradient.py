"""Derivatives through priors and operators against Jacobians written out."""

import pytest
import torch
from sampler_doubles import EpsNet, MaskedFourier, VPDenoiser, dense_problem, generator, relative

from recon.data import Problem
from recon.likelihoods import Gaussian, Poisson
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.samplers.gradient import (
    least_variance,
    linearise,
    measured_data,
    noise_variance,
    trace,
    within_range,
)

SHAPE = (1, 4, 4)


def test_pull_is_the_transposed_jacobian_and_shares_one_evaluation():
    calls, inner = [], VPDenoiser(EpsNet(1, True))

    class Counted(VPDenoiser):
        def _denoise(self, x, sigma, cond):
            calls.append(1)
            return inner._denoise(x, sigma, cond)

    prior = Counted(EpsNet(1, True))
    x = torch.randn(2, *SHAPE, generator=generator(0), dtype=torch.float64)
    v = torch.randn(2, *SHAPE, generator=generator(1), dtype=torch.float64)
    sigma = torch.tensor(0.7, dtype=torch.float64)
    with torch.no_grad():
        traced = trace(prior, x, sigma)
        first, second = traced.pull(v, keep=True), traced.pull(2 * v, keep=True)
        slope = traced.slope(_inner(traced, v))
    assert len(calls) == 1 and not traced.x0.requires_grad and not first.requires_grad
    assert not traced.variance_mix.requires_grad
    full = torch.autograd.functional.jacobian(lambda u: inner(u, sigma).x0, x).reshape(32, 32)
    assert relative(first.flatten(), full.T @ v.flatten()) < 1e-12
    assert relative(second, 2 * first) < 1e-12
    assert relative(slope, first) < 1e-12


def _inner(traced, v):
    with torch.enable_grad():
        return (traced.seen.x0 * v).flatten(1).sum(1)


def test_complex_tensors_count_as_pairs_of_real_numbers():
    prior = GaussianPrior(power_law_spectrum(SHAPE, 2.0, 1.0))
    x, v = (torch.randn(1, *SHAPE, generator=generator(k), dtype=torch.complex128) for k in (0, 1))
    sigma = torch.tensor(0.5, dtype=torch.float64)
    # the denoiser of a Gaussian is Hermitian: J v = J^H v = D(v) - D(0)
    assert relative(trace(prior, x, sigma).pull(v), prior(v, sigma).x0) < 1e-12


@pytest.mark.parametrize("linear", [True, False])
def test_linearised_operators(linear):
    operator = dense_problem(7, SHAPE, torch.float64, linear=linear).operator
    x0, u = (torch.randn(2, *SHAPE, generator=generator(k), dtype=torch.float64) for k in (0, 1))
    w = torch.randn(2, 7, generator=generator(2), dtype=torch.float64)
    with torch.no_grad():
        near = linearise(operator, x0)
        moved, pulled = near.forward(u), near.adjoint(w)
        again = near.adjoint(w)
    assert relative(near.z, operator.forward(x0)) < 1e-14 and torch.equal(pulled, again)
    full = torch.autograd.functional.jacobian(operator.forward, x0).reshape(14, 32)
    assert relative(moved.flatten(), full @ u.flatten()) < 1e-12
    assert relative(pulled.flatten(), full.T @ w.flatten()) < 1e-12


def test_noise_of_the_data():
    z = torch.rand(2, 3, generator=generator(0)) + 1
    assert torch.allclose(noise_variance(Gaussian(0.3), z, 3), torch.full((2, 1), 0.09))
    counts = Poisson(gain=50.0, scale=2.0, offset=torch.full((1, 3), 0.5))
    # k ~ Poisson(gain (scale z + offset)), y = (k/gain - offset)/scale
    assert torch.allclose(noise_variance(counts, z, 3), (2 * z + 0.5) / 50 / 4)
    y = torch.tensor([[3.0, 4.0, 0.0]])
    assert torch.allclose(least_variance(y, 2, 0.1), torch.tensor([[0.01 * 12.5]]))


def test_values_off_the_support_are_dropped():
    mask = torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    operator = MaskedFourier(mask, torch.complex64)
    y = torch.ones(1, 1, 2, 2, dtype=torch.complex64)
    found = measured_data(Problem(operator, y, Gaussian(0.1)))
    assert torch.equal(found.real[0, 0], torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    dense = dense_problem(3, SHAPE, torch.float32)
    assert measured_data(dense) is dense.y


def test_range_of_the_prior():
    prior = GaussianPrior(power_law_spectrum(SHAPE, 2.0, 1.0), value_range=(-0.5, 0.25))
    x0 = torch.tensor([-1.0, 0.0, 1.0])
    assert torch.equal(within_range(x0, prior), torch.tensor([-0.5, 0.0, 0.25]))
    assert torch.equal(within_range(x0 + 0j, prior), x0 + 0j)
