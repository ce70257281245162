"""The norm of a linear operator, ||A||^2 = the largest eigenvalue of A^H A.

Lanczos's form of power iteration: each step applies A^H A once, and the estimate is the best over all of
span{v, A^H A v, ..., (A^H A)^k v} instead of its last vector alone. It needs tens of steps where plain power iteration
needs thousands, because the singular values of projectors and blurs crowd at the top.
Source: Golub and Van Loan, Matrix Computations, section 10.1; Kuczynski and Wozniakowski 1992.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recon.operators.base import LinearOperator

MIN_STEPS = 10


@torch.no_grad()
def operator_norm(
    operator: LinearOperator, start: Tensor | None = None, tolerance: float = 1e-3, max_steps: int = 300
) -> float:
    """Return ||A||, the largest singular value, to a relative `tolerance`, from below.

    start: first vector (1, *in_shape) on the operator's device; None draws one on the CPU from a fixed seed, so that
    the answer is always the same.  Stops when the residual of the leading eigenvector of A^H A is below tolerance times
    its eigenvalue (whose error is smaller still), after at least 10 steps, or when the space is exhausted.
    """
    if start is None:
        start = torch.randn(1, *operator.in_shape, dtype=operator.in_dtype, generator=torch.Generator().manual_seed(0))
    v = start / torch.linalg.vector_norm(start)
    before = torch.zeros_like(v)
    diagonal: list[float] = []
    beside: list[float] = []
    value = 0.0
    for step in range(max_steps):
        w = operator.normal(v)
        diagonal.append(float(torch.linalg.vecdot(v.flatten(), w.flatten()).real))
        w = w - diagonal[-1] * v - (beside[-1] if beside else 0.0) * before
        left = float(torch.linalg.vector_norm(w))
        # each step widens the space, so rounding alone can lower the value
        top, share = _leading(diagonal, beside)
        value = max(value, top)
        if left <= 1e-6 * value or (step + 1 >= MIN_STEPS and left * share <= tolerance * value):
            break
        before, v = v, w / left
        beside.append(left)
    return value**0.5


def _leading(diagonal: list[float], beside: list[float]) -> tuple[float, float]:
    """Return the largest eigenvalue of the tridiagonal matrix and the last entry of its eigenvector, in magnitude."""
    values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    return float(values[-1]), float(abs(vectors[-1, -1]))
