"""Simultaneous iterative reconstruction: least squares weighted by the lengths of the rays.

    x <- x + relaxation C A^T R (y - A x),    R = 1/(A 1),  C = 1/(A^T 1)

with 0 for rays and pixels that meet nothing. It converges for relaxations below 2 to the minimiser of
||R^(1/2) (y - A x)||; stopped early, the number of iterations regularises.
Source: J. Gregor, T. Benson, IEEE Trans. Med. Imaging 27(7), 2008, eq. 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from recon.baselines.common import finish, linear_operator, require_positive, start_from
from recon.data import Problem
from recon.errors import ConfigError
from recon.operators.base import LinearOperator
from recon.priors.base import Denoiser
from recon.samplers.base import Method, NoiseSource, OnStep, Result, Step, ignore_step

ROUNDING = 1e-5  # of the largest sum: what is below counts as negative, or as nothing met
MOST_RELAXED = 2.0


@final
@dataclass(frozen=True)
class SIRT(Method):
    """Weighted least squares by gradient steps.

    iterations: of the step above.  relaxation: length of a step, below 2.  positive: set negative values to 0, which
        is black, after each step.
    """

    iterations: int = 100
    relaxation: float = 1.0
    positive: bool = False
    needs: ClassVar[frozenset[str]] = frozenset({"linear", "adjoint"})
    uses_prior: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    citation: ClassVar[str] = "Gregor and Benson 2008, IEEE Trans. Med. Imaging 27(7)"

    def __post_init__(self) -> None:
        require_positive("sirt", iterations=self.iterations, relaxation=self.relaxation)
        if self.relaxation >= MOST_RELAXED:
            raise ConfigError(f"method 'sirt': relaxation must be below 2, got {self.relaxation:g}")

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
        """Return the last iterate from x_init or 0. Raises ConfigError for a non-linear operator or negative sums."""
        operator = linear_operator(problem, "sirt")
        rays, pixels = _inverse_sums(operator, problem.y)
        x = start_from(x_init, torch.zeros_like(operator.adjoint(problem.y)))
        for step in range(self.iterations):
            misfit = rays * (problem.y - operator.forward(x))
            x = x + self.relaxation * pixels * operator.adjoint(misfit)
            if self.positive:
                x = x.clamp_min(0)
            on_step(Step(step, self.iterations, 0.0, x))
        return finish(x, problem, shape, 2 * self.iterations + 3)


def _inverse_sums(operator: LinearOperator, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return 1/(A 1), (1, *out_shape), and 1/(A^T 1), (1, *in_shape). Raises ConfigError where they are negative."""
    if operator.in_dtype.is_complex or operator.out_dtype.is_complex:
        raise ConfigError(f"method 'sirt' needs real data, got {operator!r}", "use --method cg")
    ones = y.new_ones
    sums = operator.forward(ones(1, *operator.in_shape)), operator.adjoint(ones(1, *operator.out_shape))
    inverses = []
    for total in sums:
        rounding = ROUNDING * total.abs().max()
        if bool((total < -rounding).any()) or not bool((total > rounding).any()):
            raise ConfigError(
                f"method 'sirt' needs an operator with non-negative entries, such as tomography, got {operator!r}",
                "use --method cg",
            )
        inverses.append(torch.where(total > rounding, 1 / total.clamp_min(rounding), 0.0))
    return inverses[0], inverses[1]
