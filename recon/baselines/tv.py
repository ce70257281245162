"""Total variation by a primal-dual method.

    min_x 1/2 ||A x - y||^2 + w sum_i |(D x)[i]|,   |.|: Euclidean over the axes (isotropic), channel by channel

    x' = x - t (D^H q + A^H p)             with a prox of A:  argmin 1/2 ||A x' - y||^2 + ||x' - x + t D^H q||^2/(2 t)
    q' = P_w(q + s D z),   z = 2 x' - x    P_w: project onto |q[i]| <= w
    p' = (p + r (A z - y))/(1 + r)         second dual, kept as A^H p; none with a prox
    (x, q, p) += 1.9 (x' - x, q' - q, p' - p),     t (s ||D||^2 + r ||A||^2) = 1, shared equally by the duals

The step t = RATIO rms(x0)/w moves image and duals at one pace whatever the units. Chambolle and Pock 2011, algorithm 1,
with the over-relaxation of Condat 2013, algorithm 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from recon.baselines.common import (
    backprojected_gain,
    finish,
    image_norm,
    l1_weight,
    linear_operator,
    require_positive,
    rms,
    scaled_adjoint,
    start_from,
)
from recon.baselines.differences import gradient, gradient_adjoint, lengths, norm_bound
from recon.data import Problem
from recon.priors.base import Denoiser, per_item
from recon.samplers.base import Method, NoiseSource, OnStep, Result, Step, ignore_step
from recon.solvers.prox import closed_prox

FACTOR = 0.6  # of the default weight, to the backprojected noise
FLOOR = 2e-4  # of the default weight, to the largest value of A^H y
RATIO = 0.04
RELAXATION = 1.9
MIN_STEP = 0.1  # of t trace(A^H A)/pixels: below it the image would hardly follow the data
MAX_STEP = 30.0  # of t ||A||^2: above it the second dual would hardly follow


@final
@dataclass(frozen=True)
class TotalVariation(Method):
    """Least squares with isotropic total variation.

    weight: w, in units of the image times those of A^H A; None: 0.6 times the backprojected noise, at least 2e-4 times
        the largest value of A^H y.
    iterations: of the primal-dual method; 300 reach the minimum to about 1e-4.
    dimensions: 2, each slice by itself; 3, the slices of a volume together, differences along z counting as the others.
    """

    weight: float | None = None
    iterations: int = 300
    dimensions: Literal[2, 3] = 2
    needs: ClassVar[frozenset[str]] = frozenset({"linear", "adjoint"})
    uses_prior: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False
    citation: ClassVar[str] = (
        "Rudin, Osher and Fatemi 1992, Physica D 60; Chambolle and Pock 2011, J. Math. Imaging Vis. 40"
    )

    def __post_init__(self) -> None:
        require_positive("tv", weight=self.weight, iterations=self.iterations)

    @property
    def joint(self) -> bool:
        return self.dimensions == 3

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
        """Return the last iterate from x_init, or from the scaled adjoint. Raises ConfigError if A is not linear."""
        operator, y = linear_operator(problem, "tv"), problem.y
        x = scaled_adjoint(operator, y)
        weight = per_item(l1_weight(self.weight, problem, operator, FACTOR, FLOOR), x)
        step = RATIO * per_item(rms(x).clamp_min(1e-30), x) / weight
        step = step.clamp_min(MIN_STEP / max(backprojected_gain(y, operator) ** 2, 1e-30))
        x = start_from(x_init, x)
        prox = closed_prox(operator)
        exact = prox(x, 1 / step, y) is not None
        if not exact:
            square = image_norm(operator, y.device) ** 2
            step = step.clamp_max(MAX_STEP / max(square, 1e-30))
            data_step = 1 / (2 * step * square)
        dual_step = 1 / ((1 if exact else 2) * norm_bound(x) * step)
        data = operator.adjoint(y)
        found, dual, pull = x, torch.zeros_like(gradient(x)), torch.zeros_like(x)
        for index in range(self.iterations):
            target = x - step * gradient_adjoint(dual)
            if exact:
                closed = prox(target, 1 / step, y)
                assert closed is not None
                found = closed
            else:
                found = target - step * pull
            ahead = 2 * found - x
            if not exact:
                moved = (pull + data_step * (operator.normal(ahead) - data)) / (1 + data_step)
                pull = pull + RELAXATION * (moved - pull)
            x = x + RELAXATION * (found - x)
            dual = dual + RELAXATION * (_project(dual + dual_step * gradient(ahead), weight) - dual)
            on_step(Step(index, self.iterations, 0.0, found))
        return finish(found, problem, shape, 2 * self.iterations)


def _project(dual: Tensor, radius: Tensor) -> Tensor:
    """Return dual (K, B, C, ...) with the vectors longer than `radius` (B, 1, ...) shrunk to it, in place."""
    return dual.div_(lengths(dual).div_(radius).clamp_min_(1))
