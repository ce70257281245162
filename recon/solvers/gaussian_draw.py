"""Exact draws from the posterior of a Gaussian prior under a linear operator, without factorising its covariance.

    x ~ N(c, V),  y = A x + s n:    p(x | y) = N(M^-1 b, M^-1),   M = A^H A/s^2 + V^-1,   b = A^H y/s^2 + V^-1 c

Perturb and optimise: x' = c + V^1/2 n1 is drawn from the prior and pulled to perturbed data,

    x = argmin ||A x - (y + s n2)||^2/s^2 + ||x - x'||^2_{V^-1} = x' + d

Its mean is that of the posterior and its covariance M^-1 (V^-1 + A^H A/s^2) M^-1 = M^-1. The change d is

    V = r^2 I per item:  the proximal map of the data at x' with rho = s^2/r^2, closed where the operator has an SVD
    V = R^2 diagonal:    d = R u,        (I + R A^H A R/s^2) u = R A^H (y + s n2 - A x')/s^2
    any V = V^H >= 0:    d = V A^H w,    (A V A^H + s^2 I) w = y + s n2 - A x'

by conjugate gradients. In all forms d stays in the range of V A^H, so that what the data do not see keeps its draw from
the prior to the last digit. Complex data count as pairs of real numbers, s and V^1/2 as the spread of each part.
Sources: Papandreou and Yuille 2010; Hoffman and Ribak 1991.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recon.operators.base import LinearOperator
from recon.solvers.cg import conjugate_gradients
from recon.solvers.gain import kalman_gain
from recon.solvers.metropolis import Normal
from recon.solvers.prox import Prox


@torch.no_grad()
def draw_isotropic(
    operator: LinearOperator, prox: Prox, y: Tensor, sigma: float, centre: Tensor, std: float | Tensor, normal: Normal
) -> Tensor:
    """Return a draw (B, *in_shape) of x | y for the prior N(centre, std^2 I) on each item.

    prox: of the operator's data term, see `recon.solvers.prox.proximal_map`.  y: (1 or B, *out_shape).
    sigma: > 0, of each real number of y.  centre: (B, *in_shape).  std: > 0, a number or (B, 1, ...), real.
    """
    return prox(
        centre + std * normal(centre.shape, centre.dtype),
        (sigma / std) ** 2,
        _noisy(operator, y, sigma, centre, normal),
    )


@torch.no_grad()
def draw_diagonal(
    operator: LinearOperator,
    y: Tensor,
    sigma: float,
    centre: Tensor,
    std: Tensor,
    normal: Normal,
    iterations: int = 30,
    tolerance: float = 1e-6,
) -> Tensor:
    """Return a draw (B, *in_shape) of x | y for the prior N(centre, diag(std^2)) on each item.

    std: >= 0, real, broadcastable to centre.  iterations, tolerance: of conjugate gradients; iterations + 1 of A and of
    A^H.  The others as for `draw_isotropic`.
    """
    drawn = centre + std * normal(centre.shape, centre.dtype)
    misfit = _noisy(operator, y, sigma, centre, normal) - operator.forward(drawn)

    def matrix(u: Tensor) -> Tensor:
        return u + std * operator.normal(std * u) / sigma**2

    pull = std * operator.adjoint(misfit) / sigma**2
    return drawn + std * conjugate_gradients(matrix, pull, iterations=iterations, tolerance=tolerance).x


@torch.no_grad()
def draw_correlated(
    operator: LinearOperator,
    y: Tensor,
    sigma: float,
    drawn: Tensor,
    covariance: Callable[[Tensor], Tensor],
    normal: Normal,
    iterations: int = 30,
    tolerance: float = 1e-6,
) -> Tensor:
    """Return a draw (B, *in_shape) of x | y from a draw of the prior N(c, V) on each item.

    drawn: c + V^1/2 n (see `recon.solvers.lanczos`).  covariance: the map u -> V u, batched; `iterations` products.
    The others as for `draw_isotropic`.
    """
    misfit = _noisy(operator, y, sigma, drawn, normal) - operator.forward(drawn)
    if operator.support is not None:
        misfit = misfit * (operator.support != 0)

    def spread(v: Tensor) -> Tensor:
        return covariance(operator.adjoint(v))

    return drawn + kalman_gain(operator.forward, spread, sigma**2, misfit, iterations, tolerance=tolerance).change


def _noisy(operator: LinearOperator, y: Tensor, sigma: float, like: Tensor, normal: Normal) -> Tensor:
    """Return y + sigma n for each item of `like`."""
    return y + sigma * normal((len(like), *operator.out_shape), operator.out_dtype)
