"""ADMM for total variation across the slices of a volume.

    min_x  1/2 <x, Q x> - <b, x> + scale lambda ||D x||_1,     (D x)_z = x_{z+1} - x_z

One sweep, with the split d ~ D x, the scaled dual u, and the threshold lambda/rho:
    x' = x + CG on (Q + scale rho D^T D) c = (b - Q x) + scale rho D^T (d - u - D x), a few iterations from c = 0
    d' = soft(D x' + u, lambda/rho)
    u' = u + D x' - d'
d and u persist between sweeps, also while Q, b and scale change: rho and lambda are relative to 1/scale.

Sources: Boyd et al. 2011, section 6.4.1; Chung et al. 2023 (DiffusionMBIR), eqs. 15 to 17, where one sweep a step is
enough since d and u are shared by all steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from recon.kernels import fused
from recon.solvers.cg import conjugate_gradients

Boundary = Literal["circular", "neumann"]
Z_AXIS = 2


@final
@dataclass(frozen=True)
class SliceDifference:
    """D x for volumes x (B, C, Z, Y, X); an image (B, C, Y, X) has no neighbours, and D x = 0.

    boundary: "circular", the last slice's neighbour is the first, as in the authors' code; or "neumann", it has none.
    """

    boundary: Boundary = "neumann"

    def forward(self, x: Tensor) -> Tensor:
        """Return D x, like x."""
        if x.ndim < 5:
            return torch.zeros_like(x)
        found = x.roll(-1, Z_AXIS).sub_(x)
        if self.boundary == "neumann":
            found.select(Z_AXIS, -1).zero_()
        return found

    def adjoint(self, q: Tensor) -> Tensor:
        """Return D^T q, like q."""
        if q.ndim < 5:
            return torch.zeros_like(q)
        found = q.roll(1, Z_AXIS).sub_(q)
        if self.boundary == "neumann":
            last = q.select(Z_AXIS, -1)
            found.select(Z_AXIS, 0).sub_(last)
            found.select(Z_AXIS, -1).add_(last)
        return found


@final
@dataclass(frozen=True)
class Duals:
    """The split d ~ D x and the scaled dual u, like x; zero at the start."""

    split: Tensor
    dual: Tensor

    @classmethod
    def zero(cls, x: Tensor) -> Duals:
        """Return those of the start."""
        return cls(torch.zeros_like(x), torch.zeros_like(x))


def admm_sweep(
    x: Tensor,
    duals: Duals,
    data: Callable[[Tensor], Tensor],
    misfit: Tensor,
    difference: SliceDifference,
    rho: float,
    threshold: float,
    iterations: int,
    scale: float = 1.0,
) -> tuple[Tensor, Duals]:
    """Return x' and the new duals after one sweep.

    x: (B, C, Z, Y, X).  data: v -> Q v.  misfit: b - Q x.  rho: > 0, or 0 for no coupling of the slices.
    threshold: lambda/rho.  iterations: of conjugate gradients.  No argument is changed.
    Call it without gradients (`torch.no_grad`, not here: a decorator would hold on to the arguments).
    """
    if rho == 0 or x.ndim < 5:
        return conjugate_gradients(data, misfit, iterations=iterations).x.add_(x), duals
    weight = scale * rho

    def matrix(v: Tensor) -> Tensor:
        return difference.adjoint(difference.forward(v)).mul_(weight).add_(data(v))

    pull = difference.adjoint((duals.split - duals.dual).sub_(difference.forward(x)))
    pull.mul_(weight).add_(misfit)
    del misfit
    found = conjugate_gradients(matrix, pull, iterations=iterations).x.add_(x)
    del pull
    return found, Duals(*fused.shrink(found, duals.dual, threshold, difference.boundary == "circular"))
