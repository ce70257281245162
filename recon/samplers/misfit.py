"""How far images are off their data, a few slices at a time where those are measured by themselves.

    r = ||y - A x||,    b = A^H (y - A x)

Of a volume measured slice by slice, A x and y - A x of a few slices are all that is held beside the data, which are
many times the volume where several coils see it. What is returned does not depend, bit for bit, on how many slices go
together: norms are of each slice, summed in double precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recon.data import Problem
from recon.likelihoods import Gaussian, per_item_norm
from recon.operators.base import LinearOperator, Operator
from recon.operators.slices import TOGETHER, part_of
from recon.solvers.admm_tv import Z_AXIS


@final
@dataclass(frozen=True)
class Misfit:
    """What images x (B, C, [Z,] Y, X) leave of their data.

    residual: r over its expected value, as `Likelihood.residual`, (B,).  back: b like x, where it was asked for.
    some: A x of all slices or the first ones, to know the noise level of the data.
    """

    residual: Tensor
    some: Tensor
    back: Tensor | None = None


def misfit_of(operator: Operator, problem: Problem, x: Tensor, count: int, back: bool = False) -> Misfit:
    """Return the misfit of x at `count` measured numbers; call it without gradients.

    operator: the problem's.  back: whether b is wanted; the operator is linear then.
    """
    if x.ndim == 5 and isinstance(problem.likelihood, Gaussian) and part_of(operator, 0, 1) is not None:
        return _of_slices(operator, problem, problem.likelihood, x, count, back)
    z = operator.forward(x)
    residual = problem.likelihood.residual(z, problem.y, count)
    if not back:
        return Misfit(residual, z)
    assert isinstance(operator, LinearOperator)
    return Misfit(residual, z, operator.adjoint(problem.y - z))


def _of_slices(operator: Operator, problem: Problem, likelihood: Gaussian, x: Tensor, count: int, back: bool) -> Misfit:
    slices = x.shape[Z_AXIS]
    step = max(1, TOGETHER // x[0, :, 0].numel())
    found = torch.empty_like(x, memory_format=torch.contiguous_format) if back else None
    squares = torch.zeros(len(x), slices, dtype=torch.float64, device=x.device)
    exact = torch.zeros(len(problem.y), slices, dtype=torch.float64, device=x.device)
    some = None
    for first in range(0, slices, step):
        size = min(step, slices - first)
        own = slice(first, first + size)
        part, y = part_of(operator, first, size), problem.y[:, own]
        assert isinstance(part, LinearOperator)
        z = part.forward(x.narrow(Z_AXIS, first, size))
        some = z if some is None else some
        r = y - z
        squares[:, own] = _squares(r)
        if likelihood.sigma == 0:  # relative to the data themselves
            exact[:, own] = _squares(y)
        if found is not None:
            found.narrow(Z_AXIS, first, size).copy_(part.adjoint(r))
        del z, r
    assert some is not None
    expected = likelihood.sigma * count**0.5 if likelihood.sigma > 0 else exact.sum(1).sqrt().clamp_min(1e-30)
    return Misfit((squares.sum(1).sqrt() / expected).to(some.real.dtype), some, found)


def _squares(r: Tensor) -> Tensor:
    """Return the squared norm of each slice of r (B, Z, ...), (B, Z)."""
    return per_item_norm(r.flatten(0, 1)).double().square().reshape(r.shape[:2])
