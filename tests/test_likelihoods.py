"""Likelihoods against torch.distributions, per sample, and residuals that are 1 at the truth."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal
from torch.distributions import Poisson as PoissonCounts

from recon.likelihoods import Gaussian, Likelihood, Poisson, per_item_dot, per_item_norm

FEW = settings(max_examples=25, deadline=None)
SHAPE = (2, 3, 4)
POISSON = Poisson(gain=5.0, scale=2.0, offset=torch.full((1, *SHAPE), 7.0, dtype=torch.float64))


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rates(seed: int, batch: int) -> Tensor:
    """Return z with positive Poisson rates."""
    return normal(seed, batch, *SHAPE).clamp(-3, 3)


def cases() -> list[tuple[Likelihood, Tensor, Tensor]]:
    """A likelihood, four z, and one y."""
    counts = torch.poisson(POISSON.rate(rates(1, 1)), generator=torch.Generator().manual_seed(2))
    return [
        (Gaussian(0.3), normal(3, 4, *SHAPE), normal(4, 1, *SHAPE)),
        (Gaussian(0.3), normal(3, 4, *SHAPE, dtype=torch.complex128), normal(4, 1, *SHAPE, dtype=torch.complex128)),
        (POISSON, rates(5, 4), (counts / 5 - 7) / 2),
    ]


@FEW
@given(st.floats(0.01, 10), st.integers(0, 99))
def test_gaussian_loss_is_the_negative_log_density_up_to_a_constant(sigma, seed):
    z, other, y = normal(seed, 3, *SHAPE), normal(seed + 100, 3, *SHAPE), normal(seed + 200, 1, *SHAPE)
    exact = [-Normal(v, sigma).log_prob(y).flatten(1).sum(1) for v in (z, other)]
    ours = [Gaussian(sigma).loss(v, y) for v in (z, other)]
    assert ours[0].shape == (3,)
    torch.testing.assert_close(ours[0] - ours[1], exact[0] - exact[1], rtol=1e-9, atol=1e-9)


def test_gaussian_loss_of_complex_data_has_sigma_in_each_part():
    z = normal(0, 3, *SHAPE, dtype=torch.complex128)
    y = normal(1, 1, *SHAPE, dtype=torch.complex128)
    parts = [-Normal(a, 0.3).log_prob(b) for a, b in ((z.real, y.real), (z.imag, y.imag))]
    exact = (parts[0] + parts[1]).flatten(1).sum(1)
    found = Gaussian(0.3).loss(z, y)
    torch.testing.assert_close(found - found[0], exact - exact[0])


@FEW
@given(st.floats(0.5, 50), st.floats(0.2, 5), st.floats(4, 20), st.integers(0, 99))
def test_poisson_loss_is_the_negative_log_probability_of_the_raw_counts(gain, scale, shift, seed):
    """In the prior's units, v = scale u + b: the rate is gain (scale A u + offset), whatever scale and offset."""
    offset = torch.full((1, *SHAPE), scale * shift, dtype=torch.float64)
    likelihood = Poisson(gain, scale, offset)
    z, other = rates(seed, 3), rates(seed + 100, 3)
    counts = torch.poisson(gain * (scale * rates(seed + 200, 1) + offset), torch.Generator().manual_seed(seed))
    y = (counts / gain - offset) / scale
    exact = [-PoissonCounts(gain * (scale * v + offset)).log_prob(counts).flatten(1).sum(1) for v in (z, other)]
    ours = [likelihood.loss(v, y) for v in (z, other)]
    torch.testing.assert_close(ours[0] - ours[1], exact[0] - exact[1], rtol=1e-7, atol=1e-6)


def test_poisson_gradient_is_zero_where_the_rate_is_the_count():
    z = rates(0, 1).requires_grad_()
    y = z.detach().clone()
    (gradient,) = torch.autograd.grad(POISSON.loss(z, y).sum(), z)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-10, rtol=0)


def test_poisson_stays_finite_where_the_model_predicts_nothing():
    z = torch.full((1, *SHAPE), -100.0, dtype=torch.float64)
    y = rates(0, 1)
    assert bool(torch.isfinite(POISSON.loss(z, y)).all()) and bool(torch.isfinite(POISSON.residual(z, y, 24)).all())
    torch.testing.assert_close(POISSON.rate(z), torch.full_like(z, POISSON.floor))


@pytest.mark.parametrize(("likelihood", "z", "y"), cases(), ids=["real", "complex", "poisson"])
def test_each_sample_stands_alone(likelihood, z, y):
    """Values of a batch are those of its items, and one y serves all of them."""
    for function in (likelihood.loss, lambda z, y: likelihood.residual(z, y, 24)):
        together = function(z, y)
        assert together.shape == (4,) and not together.is_complex()
        for i in range(4):
            torch.testing.assert_close(together[i : i + 1], function(z[i : i + 1], y))
        torch.testing.assert_close(together, function(z, y.expand(4, *SHAPE)))
        assert len(set(together.tolist())) == 4


@pytest.mark.parametrize("complex_data", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_gaussian_residual_is_1_at_the_truth(complex_data, masked):
    """Mean over 400 draws of about 1000 numbers each: standard error 1e-3; tolerance 5e-3."""
    dtype = torch.complex128 if complex_data else torch.float64
    support = (torch.rand(40, 40, generator=torch.Generator().manual_seed(0)) < 0.4).double() if masked else 1.0
    z = normal(1, 1, 40, 40, dtype=dtype) * support
    # torch draws complex numbers of total variance 1
    n = normal(2, 400, 40, 40, dtype=dtype) * (math.sqrt(2) if complex_data else 1)
    y = z + 0.3 * n * support
    count = int((support.sum() if masked else 1600) * (2 if complex_data else 1))
    found = torch.cat([Gaussian(0.3).residual(z, y[i : i + 1], count) for i in range(400)])
    assert abs(float(found.mean()) - 1) < 5e-3
    wrong = torch.cat([Gaussian(0.3).residual(z, y[i : i + 1], 2 * count) for i in range(10)])
    assert abs(float(wrong.mean()) - 1) > 0.2


def test_poisson_residual_is_1_at_the_truth():
    """Mean of squares over 2000 draws of 24 counts with rates 5 to 65: standard error 5e-3; tolerance 0.02."""
    z = rates(0, 1)
    counts = torch.poisson(POISSON.rate(z).expand(2000, *SHAPE), generator=torch.Generator().manual_seed(1))
    y = (counts / POISSON.gain - POISSON.offset) / POISSON.scale
    found = torch.cat([POISSON.residual(z, y[i : i + 1], 24) for i in range(2000)])
    assert abs(float((found**2).mean()) - 1) < 0.02


def test_poisson_residual_counts_what_was_measured_alone():
    """Where nothing is measured, offset and z are 0, and the floor of the rate is no noise to speak of."""
    support = (torch.arange(24).reshape(1, *SHAPE) % 3 == 0).double()
    likelihood = Poisson(50.0, 2.0, 7 * support)
    z = rates(0, 1) * support
    rate = 50 * (2 * z + 7 * support)
    counts = torch.poisson(rate.expand(2000, *SHAPE), generator=torch.Generator().manual_seed(1))
    y = (counts / 50 - 7 * support) / 2
    found = torch.cat([likelihood.residual(z, y[i : i + 1], int(support.sum())) for i in range(2000)])
    assert abs(float((found**2).mean()) - 1) < 0.04  # standard error 0.011


def test_noise_level():
    z = normal(0, 3, *SHAPE)
    torch.testing.assert_close(Gaussian(0.3).noise_level(z, 24), torch.full((3,), 0.3, dtype=torch.float64))
    level = Gaussian(0.3).noise_level(z.to(torch.complex64), 24)
    assert level.dtype == torch.float32
    z = rates(0, 3)
    # the variance of a count is its mean; y = (counts/gain - offset)/scale
    exact = ((5 * (2 * z + 7)) / (5 * 2) ** 2).flatten(1).mean(1).sqrt()
    torch.testing.assert_close(POISSON.noise_level(z, 24), exact)


def test_exact_data_are_measured_against_the_data():
    y = torch.full((1, *SHAPE), 2.0)
    z = torch.stack([torch.full(SHAPE, 2.0), torch.full(SHAPE, 1.0), torch.zeros(SHAPE)])
    torch.testing.assert_close(Gaussian(0.0).residual(z, y, 24), torch.tensor([0.0, 0.5, 1.0]))
    assert bool(torch.isfinite(Gaussian(0.0).loss(z, y)).all())
    nothing = torch.zeros(1, *SHAPE)
    assert float(Gaussian(0.0).residual(nothing, nothing, 24)) == 0


def test_moving_keeps_the_values():
    moved = POISSON.to("cpu")
    assert isinstance(moved, Poisson) and torch.equal(moved.offset, POISSON.offset) and moved.gain == POISSON.gain
    assert Gaussian(0.3).to("cpu") == Gaussian(0.3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_norms_and_inner_products_are_per_item(dtype):
    a, b = normal(0, 3, *SHAPE, dtype=dtype), normal(1, 3, *SHAPE, dtype=dtype)
    for i in range(3):
        assert float(per_item_norm(a)[i]) == pytest.approx(float(torch.linalg.norm(a[i].flatten())), rel=1e-12)
        exact = torch.vdot(a[i].flatten(), b[i].flatten()).real
        assert float(per_item_dot(a, b)[i]) == pytest.approx(float(exact), rel=1e-10)
    # conjugated views, which torch resolves late
    torch.testing.assert_close(per_item_dot(a.conj(), b.conj()), per_item_dot(a, b))
    torch.testing.assert_close(per_item_norm(a.conj()), per_item_norm(a))
