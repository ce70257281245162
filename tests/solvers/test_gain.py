"""The Kalman gain by conjugate gradients against direct solutions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.solvers.cg import conjugate_gradients
from recon.solvers.gain import kalman_gain


def system(batch, rows, size, dtype, seed=0):
    """A (m, n), covariances V (B, n, n), noise S (m,), misfits r (B, m)."""
    g = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, size, generator=g, dtype=dtype)
    root = torch.randn(batch, size, size, generator=g, dtype=dtype)
    noise = torch.rand(rows, generator=g, dtype=torch.float64) + 0.1
    return matrix, root @ root.mH / size, noise, torch.randn(batch, rows, generator=g, dtype=dtype)


def maps(matrix, covariance):
    def forward(x):
        return x @ matrix.T

    def spread(u):
        return (covariance @ (u @ matrix.conj())[..., None])[..., 0]

    return forward, spread


@given(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8), st.booleans(), st.booleans(), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_matches_a_direct_solution(batch, rows, size, is_complex, warm, seed):
    dtype = torch.complex128 if is_complex else torch.float64
    matrix, covariance, noise, misfit = system(batch, rows, size, dtype, seed)
    start = torch.randn(misfit.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=dtype) if warm else None
    found = kalman_gain(*maps(matrix, covariance), noise, misfit, 3 * rows + 2, start, tolerance=1e-13)
    total = torch.diag(noise).to(dtype) + matrix @ covariance @ matrix.mH
    weights = torch.linalg.solve(total, misfit)
    change = (covariance @ (weights @ matrix.conj())[..., None])[..., 0]
    assert float((found.weights - weights).norm() / weights.norm()) < 1e-7
    assert float((found.change - change).norm() / change.norm()) < 1e-7


def test_iterates_are_those_of_conjugate_gradients_and_cost_one_product_each():
    matrix, covariance, noise, misfit = system(2, 9, 12, torch.complex128)
    forward, spread = maps(matrix, covariance)
    for iterations in (1, 2, 5):
        products = []

        def counted(u, products=products):
            products.append(1)
            return spread(u)

        found = kalman_gain(forward, counted, noise, misfit, iterations)
        plain = conjugate_gradients(lambda u: forward(spread(u)) + noise * u, misfit, iterations=iterations).x
        assert torch.allclose(found.weights, plain, rtol=1e-10)
        assert torch.allclose(found.change, spread(plain), rtol=1e-10)
        assert len(products) == iterations


def test_a_warm_start_at_the_answer_needs_one_product():
    matrix, covariance, noise, misfit = system(3, 6, 6, torch.float64)
    forward, spread = maps(matrix, covariance)
    exact = kalman_gain(forward, spread, noise, misfit, 30, tolerance=1e-14)
    again = kalman_gain(forward, spread, noise, misfit, 1, start=-2.5 * exact.weights)
    assert torch.allclose(again.change, exact.change, rtol=1e-8)
    cold = kalman_gain(forward, spread, noise, misfit, 1)
    assert not torch.allclose(cold.change, exact.change, rtol=1e-2)


def test_exact_data_of_a_wide_operator_need_no_noise():
    matrix, covariance, _, _ = system(1, 5, 9, torch.float64)
    forward, spread = maps(matrix, covariance)
    misfit = forward(torch.randn(1, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    found = kalman_gain(forward, spread, 0.0, misfit, 20)
    assert torch.allclose(forward(found.change), misfit, rtol=1e-6)


def test_a_direction_of_negative_variance_ends_the_iterations_of_its_item():
    matrix, covariance, noise, misfit = system(2, 6, 6, torch.float64)
    covariance[1] *= -1
    found = kalman_gain(*maps(matrix, covariance), noise, misfit, 5)
    assert bool(found.change[0].any()) and not bool(found.change[1].any())
    covariance[1] = torch.diag(torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, -1.0], dtype=torch.float64))
    eye, ones = torch.eye(6, dtype=torch.float64), torch.ones(2, 6, dtype=torch.float64)
    first, early, late = (kalman_gain(*maps(eye, covariance), 0.1, ones, n, tolerance=1e-12).change for n in (3, 6, 60))
    assert bool(early[1].any()) and torch.equal(early[1], late[1]) and not torch.equal(first, early)
    assert torch.allclose(eye @ late[0] + 0.1 * torch.linalg.solve(covariance[0], late[0]), ones[0], rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_items_do_not_see_each_other_and_zero_stays_zero(dtype):
    matrix, covariance, noise, misfit = system(3, 6, 8, torch.complex128 if dtype.is_complex else torch.float64)
    matrix, covariance, misfit, noise = matrix.to(dtype), covariance.to(dtype), misfit.to(dtype), noise.float()
    misfit[1] = 0
    together = kalman_gain(*maps(matrix, covariance), noise, misfit, 4).change
    assert together.dtype == dtype and not bool(together[1].any())
    for k in (0, 2):
        alone = kalman_gain(*maps(matrix, covariance[k : k + 1]), noise, misfit[k : k + 1], 4).change
        assert torch.allclose(alone[0], together[k], rtol=1e-4, atol=1e-6)
