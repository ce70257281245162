"""The proximal map of the data term, for every linear operator.

    prox(z, rho, y) = argmin_x ||A x - y||^2 + rho ||x - z||^2 = z + (A^H A + rho)^-1 A^H (y - A z)

Closed forms where the operator has them, else conjugate gradients on the change x - z, per sample, real or complex.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recon.operators.base import LinearOperator, Scaled
from recon.operators.slices import TOGETHER, parts_of
from recon.priors.base import per_item
from recon.solvers.cg import conjugate_gradients

Prox = Callable[[Tensor, float | Tensor, Tensor], Tensor]
MaybeProx = Callable[[Tensor, float | Tensor, Tensor], Tensor | None]


def data_prox(
    operator: LinearOperator,
    z: Tensor,
    rho: float | Tensor,
    y: Tensor,
    iterations: int = 50,
    tolerance: float = 1e-6,
) -> Tensor:
    """Return prox(z, rho, y), (B, *in_shape): the operator's closed form, or conjugate gradients.

    z: (B, *in_shape).  rho: > 0, a number or one value per item, (B,) or (B, 1, ...).  y: (1 or B, *out_shape).
    iterations, tolerance: of conjugate gradients, see `recon.solvers.cg`; an exact answer takes no notice of them.
    An operator whose SVD is a factorisation repeats it at every call: loops use `proximal_map`.
    """
    return proximal_map(operator, iterations, tolerance)(z, rho, y)


def proximal_map(operator: LinearOperator, iterations: int = 50, tolerance: float = 1e-6) -> Prox:
    """Return (z, rho, y) -> prox(z, rho, y) as `data_prox` gives it, with a matrix factorised at most once."""
    closed = closed_prox(operator)

    def solve(z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor:
        rho = _per_item(rho, z)
        found = closed(z, rho, y)
        return found if found is not None else prox_by_cg(operator, z, rho, y, iterations, tolerance)

    return solve


def closed_prox(operator: LinearOperator) -> MaybeProx:
    """Return the operator's closed form (z, rho, y) -> prox or None, with a matrix factorised at most once."""
    slices = parts_of(operator)
    if slices is not None:
        return _prox_of_slices([closed_prox(part) for part in slices])
    plain = operator
    while isinstance(plain, Scaled):
        plain = plain.base
    if type(plain).prox is not LinearOperator.prox:
        return operator.prox
    spectrum = operator.svd()
    return (lambda z, rho, y: None) if spectrum is None else spectrum.prox


def _prox_of_slices(forms: list[MaybeProx]) -> MaybeProx:
    """Return the closed form of a volume's slices (B, C, Z, Y, X) from those of each, or from the one of all."""

    def solve(z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor | None:
        found = torch.empty_like(z)
        step = max(1, TOGETHER // z[0, :, 0].numel()) if len(forms) == 1 else 1
        for item in range(len(z)):
            weight = rho.reshape(-1)[item if rho.numel() > 1 else 0] if isinstance(rho, Tensor) else rho
            data = y[item if len(y) > 1 else 0]
            for first in range(0, z.shape[2], step):
                images = z[item, :, first : first + step].transpose(0, 1)
                own = weight.expand(len(images)) if isinstance(weight, Tensor) else weight
                own = _per_item(own, images)
                solved = forms[first if len(forms) > 1 else 0](images, own, data[first : first + step])
                if solved is None:
                    return None
                found[item, :, first : first + step] = solved.transpose(0, 1)
        return found

    return solve


def bounded_rho(rho: float | Tensor, x: Tensor) -> float | Tensor:
    """Return rho, or the least that a closed form bears in x's precision, eps^0.6, where that is more.

    What A^H y has of rounding where nothing is measured comes out eps/rho times as large.
    """
    least = float(torch.finfo(x.dtype).eps ** 0.6)
    return rho.clamp_min(least) if isinstance(rho, Tensor) else max(rho, least)


def prox_by_cg(
    operator: LinearOperator, z: Tensor, rho: float | Tensor, y: Tensor, iterations: int, tolerance: float = 1e-6
) -> Tensor:
    """Return prox(z, rho, y) by conjugate gradients from z: iterations + 1 of A and of A^H."""
    rho = _per_item(rho, z)
    misfit = operator.adjoint(y - operator.forward(z))
    change = conjugate_gradients(
        lambda v: operator.normal(v) + rho * v, misfit, iterations=iterations, tolerance=tolerance
    )
    return z + change.x


def _per_item(rho: float | Tensor, z: Tensor) -> float | Tensor:
    return per_item(rho, z) if isinstance(rho, Tensor) and rho.ndim > 0 else rho
