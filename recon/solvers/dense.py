"""Small linear-Gaussian problems with explicit matrices, in float64: the reference that fast code is held against.

    x ~ N(m, C),  y = A x + sigma n:   S = A C A^T + sigma^2 I,   K = C A^T S^-1
    x | y ~ N(m + K (y - A m),  C - K A C),    ln p(y) = ln N(y; A m, S)

Complex vectors are stacked as real ones, (real, imaginary) interleaved as `torch.view_as_real` stores them, so sigma is
the standard deviation of each part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.operators.base import LinearOperator

MAX_ENTRIES = 1 << 26


@dataclass(frozen=True)
class LinearGaussian:
    """A Gaussian posterior: mean (D,), covariance (D, D), and the log evidence ln p(y)."""

    mean: Tensor
    covariance: Tensor
    log_evidence: float


def real_rows(v: Tensor) -> Tensor:
    """Return v (B, ...) as real float64 rows (B, D); a complex entry becomes two."""
    if v.is_complex():
        v = torch.view_as_real(v.resolve_conj())
    return v.flatten(1).double()


def dense_matrix(operator: LinearOperator) -> Tensor:
    """Return the real matrix (M, D) of an operator, float64 on the CPU. Raises ConfigError if it would be too large."""
    columns = math.prod(operator.in_shape) * (2 if operator.in_dtype.is_complex else 1)
    rows = math.prod(operator.out_shape) * (2 if operator.out_dtype.is_complex else 1)
    if rows * columns > MAX_ENTRIES:
        raise ConfigError(f"{operator!r} is too large for a dense matrix of {rows} x {columns}", "use smaller images")
    exact = operator.to("cpu", torch.float64)
    basis = torch.eye(columns, dtype=torch.float64)
    if operator.in_dtype.is_complex:
        basis = torch.view_as_complex(basis.reshape(columns, -1, 2))
    return real_rows(exact.forward(basis.reshape(columns, *operator.in_shape))).T.contiguous()


def linear_gaussian_posterior(
    matrix: Tensor, covariance: Tensor, mean: Tensor, y: Tensor, sigma: float
) -> LinearGaussian:
    """Return the posterior of x ~ N(mean, covariance) given y = matrix x + sigma n.

    matrix: (M, D).  covariance: (D, D).  mean: (D,).  y: (M,).  All float64 and real.
    Raises ConfigError if A C A^T + sigma^2 I is singular.
    """
    cross = covariance @ matrix.T
    spread = matrix @ cross + sigma**2 * torch.eye(len(y), dtype=matrix.dtype)
    factor, failed = torch.linalg.cholesky_ex(spread)
    if int(failed):
        raise ConfigError(f"the measurement's covariance is singular at sigma {sigma}", "use sigma > 0")
    misfit = y - matrix @ mean
    gain = torch.cholesky_solve(cross.T, factor).T
    white = torch.linalg.solve_triangular(factor, misfit[:, None], upper=False)
    log_evidence = -0.5 * float((white**2).sum()) - float(factor.diagonal().log().sum())
    log_evidence -= 0.5 * len(y) * math.log(2 * math.pi)
    narrowed = covariance - gain @ cross.T
    return LinearGaussian(mean + gain @ misfit, (narrowed + narrowed.T) / 2, log_evidence)
