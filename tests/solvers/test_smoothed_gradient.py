"""Gradients from random directions: their expectation, their error, and how they are counted."""

import pytest
import torch

from recon.solvers.smoothed_gradient import smoothed_gradient


def normal(seed):
    g = torch.Generator().manual_seed(seed)

    def draw(shape, dtype):
        if dtype.is_complex:
            return torch.view_as_complex(torch.randn(*shape, 2, generator=g, dtype=dtype.to_real()))
        return torch.randn(tuple(shape), generator=g, dtype=dtype)

    return draw


def square(matrix, y):
    """f(x) = ||M x - y||^2 of points (B, n, D) or (B, D)."""
    return lambda x: (x.to(matrix.dtype) @ matrix.mT - y).abs().square().sum(-1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("difference", ["central", "forward"])
def test_the_expectation_is_the_gradient(difference, dtype):
    g = torch.Generator().manual_seed(0)
    matrix, y = torch.randn(3, 5, generator=g, dtype=dtype), torch.randn(3, generator=g, dtype=dtype)
    x = torch.randn(2, 5, generator=g, dtype=dtype)
    f = square(matrix, y)
    exact = 2 * (x @ matrix.mT - y) @ matrix.conj()
    count = 40_000
    found = smoothed_gradient(f, x, f(x) if difference == "forward" else None, 1e-3, count, 5000, normal(1))
    parts = 10 if dtype.is_complex else 5
    error = (found - exact).abs().square().sum(1) / exact.abs().square().sum(1)
    # the mean square error is (D + 1)/Q, three times of which is seldom passed
    assert float(error.max()) < 3 * (parts + 1) / count
    few = smoothed_gradient(f, x, f(x) if difference == "forward" else None, 1e-3, 4, 5000, normal(1))
    assert float(((few - exact).abs().square().sum(1) / exact.abs().square().sum(1)).min()) > 0.05


def test_the_smoothed_function_is_what_is_differentiated():
    """f = x^4 smoothed by N(0, mu^2) is x^4 + 6 mu^2 x^2 + 3 mu^4."""
    x, mu = torch.full((1, 1), 0.7, dtype=torch.float64), 0.5
    found = smoothed_gradient(lambda p: p[..., 0] ** 4, x, None, mu, 400_000, 100_000, normal(0))
    assert float(found) == pytest.approx(4 * 0.7**3 + 12 * mu**2 * 0.7, rel=0.02)


@pytest.mark.parametrize(("difference", "calls"), [("central", 2), ("forward", 1)])
def test_directions_are_made_in_batches_with_their_remainder(difference, calls):
    asked = []

    def f(points):
        asked.append(points.shape[1])
        return points.sum(-1)

    x = torch.zeros(3, 4)
    smoothed_gradient(f, x, torch.zeros(3) if difference == "forward" else None, 0.1, 7, 3, normal(0))
    assert sum(asked) == 7 * calls and max(asked) == 3
