"""Small operators and problems for the tests of the classical reconstructions."""

from __future__ import annotations

import torch
from torch import Tensor

from recon.data import Problem
from recon.likelihoods import Gaussian
from recon.operators.base import LinearOperator, Operator
from recon.operators.denoise import Identity
from recon.samplers.base import Method, Result, SeededNoise


class Dense(LinearOperator):
    """A matrix on flattened images, without prox or pseudo-inverse."""

    def __init__(self, in_shape: tuple[int, ...], matrix: Tensor) -> None:
        self.in_shape, self.out_shape, self.matrix = in_shape, (matrix.shape[0],), matrix
        self.in_dtype = self.out_dtype = matrix.dtype

    def _forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.T

    def _adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.conj()).reshape(-1, *self.in_shape)


class WithoutProx(LinearOperator):
    """Another operator, its closed forms hidden."""

    def __init__(self, base: LinearOperator) -> None:
        self.base = base
        self.in_shape, self.out_shape = base.in_shape, base.out_shape
        self.in_dtype, self.out_dtype, self.support = base.in_dtype, base.out_dtype, base.support

    def _forward(self, x: Tensor) -> Tensor:
        return self.base.forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.base.adjoint(y)


class Squared(Operator):
    """A non-linear operator."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.in_shape = self.out_shape = shape

    def _forward(self, x: Tensor) -> Tensor:
        return x**2


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return standard normal values from a generator of their own."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def denoising(y: Tensor, sigma: float = 0.1) -> Problem:
    """Return the problem of denoising y (B, C, ...)."""
    return Problem(Identity(tuple(y.shape[1:])), y, Gaussian(sigma))


def blocks(rows: int = 24, columns: int = 20, noise: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return a piecewise constant image (1, 1, rows, columns) and the same with noise."""
    x = torch.zeros(1, 1, rows, columns)
    x[..., 5:15, 4:12] = 1.0
    x[..., 10:20, 8:16] += 0.5
    return x, x + noise * normal(*x.shape, seed=seed)


def solve(method: Method, problem: Problem, x_init: Tensor | None = None, batch: int = 1) -> Result:
    """Run a baseline."""
    return method.sample(None, problem, x_init, SeededNoise(0, range(batch)), (batch, *problem.operator.in_shape))
