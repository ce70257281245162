"""The ensemble's covariances: against formed matrices, closed forms of localisation, and what inflation leaves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recon.solvers.ensemble_gain import applied, inflated, shrunk, weights


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(1, 6), st.integers(1, 9), st.integers(0, 1000))
def test_the_gain_does_not_depend_on_the_means(members, measured, pixels, seed):
    """Covariances ignore a shift of all members; errors count as they are."""
    e, y, x = (randn(members, n, seed=seed + i) for i, n in enumerate((measured, measured, pixels)))
    gain = weights(e, y)
    assert torch.allclose(weights(e, y + 3.0), gain, atol=1e-10)
    assert torch.allclose(gain.sum(1), torch.zeros(members, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(applied(gain, x - 5.0), applied(gain, x), atol=1e-10)
    assert torch.allclose(applied(gain, x), gain @ x, atol=1e-10)
    assert torch.allclose(weights(2 * e, y), 2 * gain)


def test_a_linear_model_gets_the_kalman_direction():
    """Y = A X: the change is Cov(X) A^T E, whatever the ensemble."""
    x, a, e = randn(30, 5), randn(3, 5, seed=1), randn(30, 3, seed=2)
    covariance = torch.cov(x.T, correction=0)
    assert torch.allclose(applied(weights(e, x @ a.T), x), e @ a @ covariance)


@pytest.mark.parametrize("count", [5, 50])
def test_shrinking_is_the_closed_form_of_one_correlation(count):
    """One measurement y, one pixel x: change times rho^2/(rho^2 + (1 - rho^2)^2/(J - 1))."""
    x, y = randn(count, 1), randn(count, 1, seed=3) + randn(count, 1)
    gain = weights(torch.ones(count, 1, dtype=torch.float64), y)
    r = float(torch.corrcoef(torch.cat([x, y], 1).T)[0, 1])
    square = max(0.0, 1 - (1 - r**2) * (count - 1) / (count - 2))
    share = square / (square + (1 - square) ** 2 / (count - 1))
    change = applied(gain, x)
    assert 0.1 < share < 0.999
    assert torch.allclose(shrunk(change, gain, x), share * change)


def test_a_pixel_without_spread_and_an_ensemble_without_answers_stay_finite():
    x = randn(6, 3)
    x[:, 1] = 2.0
    gain = weights(randn(6, 2, seed=1), randn(6, 2, seed=2))
    change = applied(gain, x)
    kept = shrunk(change, gain, x)
    assert bool(kept.isfinite().all()) and bool((kept[:, 1].abs() < 1e-12).all())
    blind = torch.zeros(6, 6, dtype=torch.float64)
    assert bool((shrunk(applied(blind, x), blind, x) == 0).all())


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_inflation_is_relaxation_to_the_spread_before(share):
    before, members = randn(40, 2, 3), 0.2 * randn(40, 2, 3, seed=1) + 1.0
    found = inflated(members, before, share)
    old, new = before.std(0, correction=0), members.std(0, correction=0)
    assert torch.allclose(found.mean(0), members.mean(0))
    assert torch.allclose(found.std(0, correction=0), (1 - share) * new + share * old)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_members_that_are_all_the_same_stay_where_they_are(dtype):
    """There is no direction to spread them in."""
    before = 80 * torch.randn(4, 2, generator=generator(0), dtype=dtype)
    same = torch.full((4, 2), 0.7, dtype=dtype)
    assert torch.allclose(inflated(same, before, 0.5), same)
    assert torch.allclose(inflated(same, same, 1.0), same)


def test_the_gain_is_the_sample_covariance_applied_to_the_errors():
    x = torch.randn(9, 2, 4, 4, generator=generator(0), dtype=torch.complex128)
    y = torch.randn(9, 5, generator=generator(1), dtype=torch.complex128)
    e = torch.randn(9, 5, generator=generator(2), dtype=torch.complex128)
    rows = [torch.view_as_real(v).flatten(1) for v in (x, y, e)]
    covariance = (rows[0] - rows[0].mean(0)).T @ (rows[1] - rows[1].mean(0)) / 9
    expected = rows[2] @ covariance.T
    gain = weights(e, y)
    assert gain.dtype == torch.float64 and gain.shape == (9, 9)
    assert torch.allclose(torch.view_as_real(applied(gain, x)).flatten(1), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_shrinking_brings_small_ensembles_nearer_to_the_covariance(dtype):
    """Measurements of 4 of 64 independent pixels: the true change is 0 at the other 60."""
    error, direct, local = torch.ones(1, 4, dtype=dtype), [], []
    truth = torch.zeros(64, dtype=dtype)
    truth[:4] = 1.0
    for seed in range(20):
        x = torch.randn(24, 64, generator=generator(seed), dtype=torch.complex128)
        x = x * 2**0.5 if dtype.is_complex else x.real * 2**0.5  # unit variance of each part
        gain = weights(error.expand(24, 4), x[:, :4])
        change = applied(gain, x)
        direct.append(float((change[0] - truth).abs().square().sum()))
        local.append(float((shrunk(change, gain, x)[0] - truth).abs().square().sum()))
    assert sum(local) < 0.55 * sum(direct)


def test_shrinking_vanishes_as_the_ensemble_grows():
    x = torch.randn(4000, 6, generator=generator(0), dtype=torch.float64)
    y = x[:, :2] + 0.3 * x[:, 3:5]
    gain = weights(torch.ones(4000, 2, dtype=torch.float64), y)
    change = applied(gain, x)
    kept = shrunk(change, gain, x)[0] / change[0]
    assert bool((kept[[0, 1, 3, 4]] > 0.98).all()) and bool((kept[[2, 5]] < 0.9).all())
