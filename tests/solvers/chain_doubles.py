"""Densities and noise that the tests of Markov chains share."""

import torch


def normal(seed):
    """Return a source of noise for the whole batch."""
    g = torch.Generator().manual_seed(seed)

    def draw(shape, dtype):
        if dtype.is_complex:
            return torch.view_as_complex(torch.randn(*shape, 2, generator=g, dtype=dtype.to_real()))
        return torch.randn(tuple(shape), generator=g, dtype=dtype)

    return draw


def gaussian(variance):
    """Return the log density and gradient of N(0, variance) of each number."""

    def target(x):
        square = torch.view_as_real(x) ** 2 if x.is_complex() else x**2
        return -square.flatten(1).sum(1) / (2 * variance), -x / variance

    return target


def double_well(x):
    """ln p = -(x^2 - 1)^2/0.5 of each number, and its gradient."""
    return -((x**2 - 1) ** 2).flatten(1).sum(1) / 0.5, -8 * x * (x**2 - 1)


def well_moments():
    """E x^2 and E x^4 of the double well by quadrature."""
    x = torch.linspace(-4, 4, 20001, dtype=torch.float64)
    p = double_well(x[:, None])[0].exp()
    return [float((p * x**k).sum() / p.sum()) for k in (2, 4)]
