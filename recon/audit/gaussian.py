"""The exact posterior of a Gaussian prior under any linear operator, for small images."""

from __future__ import annotations

import torch
from torch import Tensor

from recon.operators.base import LinearOperator
from recon.solvers.dense import LinearGaussian, dense_matrix, linear_gaussian_posterior, real_rows


def dense_posterior(operator: LinearOperator, cov: Tensor, mean: Tensor, y: Tensor, sigma: float) -> LinearGaussian:
    """Return p(x | y) for x ~ N(mean, cov) and y = A x + sigma n, as flat float64 vectors and matrices.

    cov: (D, D) over the flattened image (complex images: real and imaginary parts interleaved).
    mean: (*in_shape).  y: (1, *out_shape).  sigma: of each real number of y.
    Raises ConfigError where the image is too large for dense matrices, or sigma = 0 makes the problem singular.
    """
    flat_mean = real_rows(mean[None])[0]
    return linear_gaussian_posterior(dense_matrix(operator), cov.to(torch.float64), flat_mean, real_rows(y)[0], sigma)
