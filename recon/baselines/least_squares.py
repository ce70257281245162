"""Quadratic reconstructions by conjugate gradients.

ConjugateGradient   min ||A x - y||^2 from x = 0, stopped early: the number of iterations regularises
Tikhonov            min ||A x - y||^2 + weight ||D x||^2,   D: finite differences with Neumann boundary
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from recon.baselines.common import (
    backprojected_gain,
    finish,
    linear_operator,
    require_positive,
    rms,
    scaled_adjoint,
    start_from,
)
from recon.baselines.differences import gradient, gradient_adjoint
from recon.data import Problem
from recon.likelihoods import per_item_norm
from recon.operators.base import LinearOperator
from recon.priors.base import Denoiser, per_item
from recon.samplers.base import Method, NoiseSource, OnStep, Result, Step, ignore_step
from recon.solvers.cg import conjugate_gradients

BLOCK = 25  # iterations between two looks at the residual
CONTRAST = 0.25  # of the default weight: rms of differences over rms of the image
FLOOR = 1e-6  # of the default weight, for exact data


@final
@dataclass(frozen=True)
class ConjugateGradient(Method):
    """Least squares on A^H A x = A^H y. iterations: of conjugate gradients; fewer give smoother images."""

    iterations: int = 10
    needs: ClassVar[frozenset[str]] = frozenset({"linear", "adjoint"})
    uses_prior: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    citation: ClassVar[str] = "Hestenes and Stiefel 1952, J. Res. Natl. Bur. Stand. 49(6)"

    def __post_init__(self) -> None:
        require_positive("cg", iterations=self.iterations)

    @torch.no_grad()
    def sample(
        self,
        prior: Denoiser | None,
        problem: Problem,
        x_init: Tensor | None,
        noise: NoiseSource,
        shape: tuple[int, ...],
        on_step: OnStep = ignore_step,
    ) -> Result:
        """Return the last iterate from x_init, or from 0. Raises ConfigError for a non-linear operator."""
        operator = linear_operator(problem, "cg")
        data = operator.adjoint(problem.y)
        start = None if x_init is None else start_from(x_init, data)
        x = conjugate_gradients(operator.normal, data, start, self.iterations).x
        return finish(x, problem, shape, 2 * self.iterations + 1)


@final
@dataclass(frozen=True)
class Tikhonov(Method):
    """Least squares with a quadratic penalty on differences.

    weight: of the penalty; None: (sigma/(0.25 rms))^2, the variance of the noise over that of the differences, as a
        Gaussian model has it, with rms of the scaled adjoint; at least 1e-6 times the mean of A^H A's diagonal.
    tolerance: relative residual of the normal equations at which the solver stops.  max_iterations: at most.
    """

    weight: float | None = None
    tolerance: float = 1e-5
    max_iterations: int = 500
    needs: ClassVar[frozenset[str]] = frozenset({"linear", "adjoint"})
    uses_prior: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    citation: ClassVar[str] = "Tikhonov 1963, Soviet Math. Dokl. 4"

    def __post_init__(self) -> None:
        require_positive("tikhonov", weight=self.weight, tolerance=self.tolerance, max_iterations=self.max_iterations)

    @torch.no_grad()
    def sample(
        self,
        prior: Denoiser | None,
        problem: Problem,
        x_init: Tensor | None,
        noise: NoiseSource,
        shape: tuple[int, ...],
        on_step: OnStep = ignore_step,
    ) -> Result:
        """Return the minimiser to `tolerance`, from x_init or 0. Raises ConfigError for a non-linear operator."""
        operator = linear_operator(problem, "tikhonov")
        data = operator.adjoint(problem.y)
        weight = per_item(self._weight(problem, operator), data)

        def matrix(x: Tensor) -> Tensor:
            return operator.normal(x) + weight * gradient_adjoint(gradient(x))

        x, done = start_from(x_init, torch.zeros_like(data)), 0
        while done < self.max_iterations:
            count = min(BLOCK, self.max_iterations - done)
            found = conjugate_gradients(matrix, data, x, count, self.tolerance)
            x, done = found.x, done + count
            on_step(Step(done - 1, self.max_iterations, 0.0, x))
            if bool((found.residual <= self.tolerance * per_item_norm(data)).all()):
                break
        return finish(x, problem, shape, 2 * done + 1)

    def _weight(self, problem: Problem, operator: LinearOperator) -> Tensor:
        """Return the weight of each item, shape (B,)."""
        first = rms(scaled_adjoint(operator, problem.y)).clamp_min(1e-30)
        if self.weight is not None:
            return torch.full_like(first, self.weight)
        level = problem.likelihood.noise_level(problem.y, operator.measured())
        gain = backprojected_gain(problem.y, operator)
        return ((level / (CONTRAST * first)) ** 2).clamp_min(FLOOR * gain**2)
