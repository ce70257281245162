"""The product of a sparse matrix with a batch of vectors, whose gradient is the stored transpose's product."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from scipy.sparse import csr_matrix
from torch import Tensor


def to_csr(matrix: csr_matrix) -> Tensor:
    """Return a SciPy CSR matrix as a torch CSR tensor of the same type; the memory is shared."""
    pointer, columns, values = (torch.from_numpy(part) for part in (matrix.indptr, matrix.indices, matrix.data))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(pointer, columns, values, matrix.shape, check_invariants=True)


def sparse_product(matrix: Tensor, transposed: Tensor, x: Tensor) -> Tensor:
    """Return y_b = A x_b for each item b of a batch.

    matrix: A, CSR (m, n), real.  transposed: A^T, CSR (n, m), with the same entries.  x: (B, n), of A's type.
    Returns (B, m). Differentiable in x, any number of times: the gradient is the product with `transposed`.
    """
    y: Tensor = _Product.apply(x, matrix, transposed)
    return y


def multiply(matrix: Tensor, x: Tensor) -> Tensor:
    """Return A x_b for each item of a batch, without gradient: A (m, n) in CSR, (B, n) -> (B, m)."""
    if x.shape[0] == 1:  # the matrix-vector product is the faster one
        return (matrix @ x[0])[None]
    return (matrix @ x.t().contiguous()).t().contiguous()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        return multiply(matrix, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.matrix, ctx.transposed = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return sparse_product(ctx.transposed, ctx.matrix, grads[0]), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return sparse_product(ctx.matrix, ctx.transposed, tangents[0])
