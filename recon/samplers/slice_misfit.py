"""How far a few slices are off their data after a data step, with the graph of all of it.

x0'_k   one sweep of `joint_step` from x0_k and zero duals, a few iterations of conjugate gradients
loss    mean |A_k x0'_k - y_k|^2 over the real numbers of the data of the slices k
"""

from __future__ import annotations

import torch
from torch import Tensor

from recon.data import Problem
from recon.errors import ConfigError
from recon.operators.base import LinearOperator
from recon.operators.slices import chosen_of
from recon.samplers.adaptation import Loss
from recon.samplers.joint_step import JointStep
from recon.solvers.admm_tv import SliceDifference
from recon.solvers.cg import differentiable_cg


def misfit_of_slices(
    step: JointStep,
    problem: Problem,
    operator: LinearOperator,
    count: int,
    sigma: float,
    iterations: int,
    coupled: bool,
) -> Loss:
    """Return the loss at noise level sigma.

    count: of measured numbers.  iterations: of conjugate gradients.  coupled: whether the slices are neighbours, to
    which rho applies.
    """
    gamma, scale = step.weights(problem, problem.y, count, sigma)
    rho = scale * step.rho if coupled else 0.0

    def loss(x0: Tensor, item: int, places: list[int]) -> Tensor:
        own = gamma[item : item + 1] if isinstance(gamma, Tensor) and len(gamma) > 1 else gamma
        y = problem.y[item : item + 1] if len(problem.y) > 1 else problem.y
        part = chosen_of(operator, places) if x0.ndim == 5 else operator
        if part is None:
            raise ConfigError(f"a prior is fitted to slices that are measured one by one, not by {operator!r}")
        y = y[:, places] if x0.ndim == 5 else y
        misfit = part.forward(stepped(step, part, y, x0, own, rho, iterations)) - y
        return (torch.view_as_real(misfit) if misfit.is_complex() else misfit).square().mean()

    return loss


def stepped(
    step: JointStep, operator: LinearOperator, y: Tensor, x0: Tensor, gamma: Tensor | float, rho: float, iterations: int
) -> Tensor:
    """Return x0' of one sweep from zero duals, with its graph.

    operator, y: of the slices x0 (B, C, [Z,] Y, X).  gamma: weight of the data.  rho: of the differences along z.
    """
    keep, difference = step.keep, SliceDifference(step.boundary)
    rho = rho if x0.ndim == 5 else 0.0

    def coupling(v: Tensor) -> Tensor:
        return rho * difference.adjoint(difference.forward(v))

    def matrix(v: Tensor) -> Tensor:
        found = gamma * operator.normal(v) + keep * v
        return found + coupling(v) if rho else found

    pull = gamma * operator.adjoint(y - operator.forward(x0))
    return x0 + differentiable_cg(matrix, pull - coupling(x0) if rho else pull, iterations)
