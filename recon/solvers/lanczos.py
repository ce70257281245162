"""The square root of a Hermitian positive semidefinite matrix applied to a vector, by Lanczos.

    M = M^H >= 0:   M^1/2 v ~ ||v|| Q T^1/2 e_1,    Q, T from k steps of Lanczos from v/||v||

so that v ~ N(0, I) gives a draw of N(0, M) from k products with M and no factorisation. Exact once k reaches the number
of distinct eigenvalues. The basis is orthogonalised in full; negative eigenvalues of T, which rounding or a matrix that
is not quite positive brings, count as 0. Inner products are Re<a, b>: a complex vector is a pair of real ones.
Source: Golub and Van Loan, Matrix Computations, sections 9.1 and 10.1; Chow and Saad 2014.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.no_grad()
def square_root_times(matrix: Callable[[Tensor], Tensor], v: Tensor, steps: int) -> Tensor:
    """Return M^1/2 v, one system per item of the batch.

    matrix: the map x -> M x, batched; it must neither change nor keep its argument.  v: (B, ...), real or complex.
    steps: products with M, >= 1.  Nothing waits for a device.
    """
    rows = _rows(v)
    tiny = torch.finfo(rows.dtype).tiny
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    basis = [rows / length.clamp_min(tiny)]
    diagonal, beside = [], []
    for step in range(steps):
        image = _rows(matrix(_unrows(basis[-1], v)))
        diagonal.append((basis[-1] * image).sum(1))
        if step == steps - 1:
            break
        known = torch.stack(basis, 1)
        rest = image
        for _ in range(2):  # once leaves the rounding of large eigenvalues behind
            rest = rest - torch.einsum("bkd,bk->bd", known, torch.einsum("bkd,bd->bk", known, rest))
        left = torch.linalg.vector_norm(rest, dim=1)
        # an exhausted space gives a zero row and column: nothing is added to the root
        found = left > 100 * torch.finfo(rows.dtype).eps * torch.linalg.vector_norm(image, dim=1)
        beside.append(torch.where(found, left, 0.0))
        basis.append(torch.where(found[:, None], rest / left.clamp_min(tiny)[:, None], 0.0))
    tridiagonal = torch.diag_embed(torch.stack(diagonal, 1))
    if beside:
        off = torch.diag_embed(torch.stack(beside, 1), offset=1)
        tridiagonal = tridiagonal + off + off.mT
    # an item that is not finite keeps its basis, and so stays so; the factorisation would refuse the whole batch
    values, vectors = torch.linalg.eigh(tridiagonal.nan_to_num(0.0, 0.0, 0.0))
    weights = torch.einsum("bij,bj->bi", vectors, values.clamp_min(0).sqrt() * vectors[:, 0])
    return _unrows(length * torch.einsum("bk,bkd->bd", weights, torch.stack(basis, 1)), v)


def _rows(v: Tensor) -> Tensor:
    """Return v (B, ...) as real rows (B, D)."""
    return (torch.view_as_real(v.resolve_conj()) if v.is_complex() else v).flatten(1)


def _unrows(rows: Tensor, like: Tensor) -> Tensor:
    """Return real rows (B, D) in the shape and type of `like`."""
    if like.is_complex():
        return torch.view_as_complex(rows.reshape(*like.shape, 2))
    return rows.reshape(like.shape)
