"""The data step of a volume from its denoised slices: conjugate gradients with total variation along z, by ADMM.

    x0'   sweeps of ADMM from x0hat, conjugate gradients over the whole volume as one system, d and u kept:
          "none"      min 1/2 ||A x - y||^2 + lambda ||Dz x||_1                          (x0hat is the start alone)
          "constant"  min 1/2 ||x - x0hat||^2 + gamma (1/2 ||A x - y||^2 + lambda ||Dz x||_1)
          "matched"   min 1/2 ||x - x0hat||^2/r_t^2 + gamma/2 ||A x - y||^2/sigma_y^2 + lambda ||Dz x||_1

"matched" is ours, as in `dds`: r_t^2 = sigma_t^2/(1 + 4 sigma_t^2), the variance given x_t of white images of std 1/2.
The data then count by their noise at each level, and lambda is that of a prior exp(-lambda ||Dz x||_1) between the
slices, in units of the range 2; rho, of ADMM, is in 1/units^2. At rho = 0 nothing couples the slices but the system.

With the correction "exact" the closed form of the slices takes the place of conjugate gradients, where they have one;
there is none with rho > 0. (As a preconditioner then, it is worse than none for the few iterations of a step.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, final

from torch import Tensor

from recon.data import Problem
from recon.errors import ConfigError
from recon.operators.base import LinearOperator
from recon.samplers.matched import matched_gamma, spread_given
from recon.samplers.misfit import misfit_of
from recon.solvers.admm_tv import Boundary, Duals, SliceDifference, admm_sweep
from recon.solvers.prox import MaybeProx, bounded_rho, closed_prox

Weighting = Literal["none", "constant", "matched"]
Correction = Literal["cg", "exact"]


@final
@dataclass(frozen=True)
class JointStep:
    """The settings of the step.

    rho, weight: of ADMM, and lambda.  sweeps: of ADMM, of which each has so many iterations of conjugate gradients.
    closed: prox of the data alone, for "exact".
    """

    weighting: Weighting
    gamma: float
    rho: float
    weight: float
    iterations: int
    boundary: Boundary
    sweeps: int = 1
    closed: MaybeProx | None = None

    @property
    def calls(self) -> int:
        """Calls of A and of A^H in all."""
        return 2 * self.sweeps * (1 + self.iterations)

    @property
    def keep(self) -> float:
        """Weight of the denoised volume."""
        return 0.0 if self.weighting == "none" else 1.0

    def corrected_by(self, correction: Correction, operator: LinearOperator) -> JointStep:
        """Return the step with an operator's closed form, where it is asked for.

        Raises ConfigError for "exact" with nothing to weigh against each other, or with slices that are coupled.
        """
        if correction == "cg":
            return self
        if self.weighting == "none" or self.gamma == 0 or self.rho > 0:
            raise ConfigError("correction 'exact' needs weighting constant or matched, gamma > 0 and rho = 0")
        return replace(self, closed=closed_prox(operator))

    def corrected(
        self, operator: LinearOperator, problem: Problem, x0: Tensor, duals: Duals, sigma: float, count: int
    ) -> tuple[Tensor, Duals, Tensor]:
        """Return x0', the new duals, and the data residual of x0 (B,); call it without gradients.

        x0: (B, C, [Z,] Y, X), the denoised volume at noise level sigma.  count: of measured numbers.
        """
        seen = misfit_of(operator, problem, x0, count, back=True)
        gamma, scale = self.weights(problem, seen.some, count, sigma)
        keep, residual = self.keep, seen.residual
        assert seen.back is not None

        def data(v: Tensor) -> Tensor:
            return (operator.normal(v) * gamma).add_(v, alpha=keep)

        if self.closed is not None:
            solved = self.closed(x0, bounded_rho(1 / gamma, x0), problem.y)
            if solved is not None:
                return solved, duals, residual
        difference, threshold = SliceDifference(self.boundary), self.weight / max(self.rho, 1e-30)
        misfit = [seen.back * gamma]  # handed over, so that the sweep can let go of it
        del seen
        found = x0
        for sweep in range(self.sweeps):
            if sweep:
                again = misfit_of(operator, problem, found, count, back=True).back
                assert again is not None
                misfit = [(again * gamma).add_(x0 - found, alpha=keep)]
                del again
            found, duals = admm_sweep(
                found, duals, data, misfit.pop(), difference, self.rho, threshold, self.iterations, scale
            )
        return found, duals, residual

    def weights(self, problem: Problem, z: Tensor, count: int, sigma: float) -> tuple[Tensor | float, float]:
        """Return the weight of the data A x = z, a number or (B, 1, ...), and that of total variation along z."""
        if self.weighting == "none":
            return 1.0, 1.0
        if self.weighting == "constant":
            return self.gamma, self.gamma
        return self.gamma * matched_gamma(problem, z, count, sigma), spread_given(sigma)
