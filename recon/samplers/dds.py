"""DDS: decomposed diffusion sampling, conjugate gradients on the denoised image.

    x0' ~ argmin gamma ||A x - y||^2 + ||x - x0hat||^2   by a few CG iterations from x0hat:
          (I + gamma A^H A) x = x0hat + gamma A^H y
    x_s = x0' + sigma_s (sqrt(1 - eta^2) eps + eta z),     eps = (x - x0hat)/sigma_t, the network's own

With `weighting` "matched", gamma follows the noise of the data and the variance given x_t of white images of std 1/2,
          gamma_t = gamma r_t^2/sigma_y^2,     r_t^2 = sigma_t^2/(1 + 4 sigma_t^2)
so that x0' estimates E[x0 | x_t, y] and the data are fitted to their noise, not below it (best with eta = 1).

CG is solved for the change d = x0' - x0hat, whose right-hand side gamma A^H (y - A x0hat) is the first residual of the
warm start: the same iterates, and the data residual comes for free.

Source: Chung et al. 2024 (DDS), algorithm 1, the authors' code. Departures: inner products are conjugated, per sample;
complex images stay complex (the code adds complex data to a real pair); A^H is the exact adjoint; the step to time 0 is
renoised (the code hands x0' to the last network call); CG freezes at a relative residual; "matched", "exact" are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian
from recon.operators.base import LinearOperator
from recon.priors.base import Denoiser
from recon.samplers.base import Method, NoiseSource, OnStep, Result, Stats, Status, Step, ignore_step
from recon.samplers.guard import FiniteGuard
from recon.samplers.matched import matched_gamma
from recon.samplers.renoise import guided_ddim_b
from recon.samplers.start import first_state, levels_like
from recon.solvers.cg import conjugate_gradients
from recon.solvers.prox import bounded_rho, closed_prox


@final
@dataclass(frozen=True)
class DDS(Method):
    """Decomposed diffusion sampling.

    steps: noise levels.  grid: name in `recon.schedules.GRIDS`.  eta: share of fresh noise, 0 to 1.
    gamma: weight of the data against the denoised image.  cg_iterations: per step.
    weighting: "constant" gamma as published, or "matched" to the noise, times gamma (1: as derived above).
    correction: "cg" as above; "exact" its limit, by CG only where the operator has no closed form; "cg-noiseless"
        A^H A x = A^H y from x0hat; "projection" x0hat - A^+ (A x0hat - y), the authors' form for single-coil MRI;
        "auto" is "cg"; for exact data (sigma = 0) it and "exact" are "cg-noiseless".
    """

    cfg_plus_plus: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"linear", "adjoint"})
    citation: ClassVar[str] = (
        "@inproceedings{chung2024dds, title={Decomposed Diffusion Sampler for Accelerating Large-Scale Inverse "
        "Problems}, author={Chung, Hyungjin and Lee, Suhyeon and Ye, Jong Chul}, booktitle={ICLR}, year={2024}}"
    )

    steps: int = 50
    grid: str = "vp"
    eta: float = 0.85
    gamma: float = 1.0
    cg_iterations: int = 5
    correction: Literal["auto", "cg", "exact", "cg-noiseless", "projection"] = "auto"
    weighting: Literal["constant", "matched"] = "constant"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.cg_iterations < 0:
            raise ConfigError(f"dds needs steps >= 1 and cg_iterations >= 0, got {self.steps}, {self.cg_iterations}")
        if not 0 <= self.eta <= 1 or not self.gamma >= 0 or (self.correction == "exact" and self.gamma == 0):
            raise ConfigError(f"dds needs eta in [0, 1] and gamma >= 0 (exact: > 0), got {self.eta} and {self.gamma}")
        schedules.grid(self.grid, self.steps)

    @property
    def network_calls(self) -> int:
        return len(schedules.grid(self.grid, self.steps)) - 1

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
        """Return posterior samples; a network evaluation and 1 + cg_iterations (exact: 1) of A and A^H per step."""
        if prior is None:
            raise ConfigError("method 'dds' needs a prior", "name one with --prior")
        operator, y, correction = _linear(problem), problem.y, self._resolved(problem)
        sigmas = schedules.grid(self.grid, self.steps).tolist()
        x = first_state(self.grid, sigmas[0], problem, x_init, noise, shape)
        levels, guard, stats, count = levels_like(sigmas, x), FiniteGuard(x), Stats(), operator.measured()
        closed = closed_prox(operator) if correction == "exact" else None
        for i, (sigma_t, sigma_s) in enumerate(pairwise(sigmas)):
            seen = prior(x, levels[i])
            z = operator.forward(seen.x0)
            stats.residuals.append(problem.likelihood.residual(z, y, count))
            gamma = self._gamma(problem, z, count, sigma_t)
            solved = closed(seen.x0, bounded_rho(1 / gamma, x), y) if closed is not None else None
            change = self._change(operator, y - z, correction, gamma) if solved is None else solved - seen.x0
            calls = 2 if solved is not None or correction == "projection" else 2 * (1 + self.cg_iterations)
            fresh = noise.normal(x.shape, x.dtype) if sigma_s > 0 and self.eta > 0 else None
            x0, x = guided_ddim_b(x, seen, change, sigma_t, sigma_s, self.eta, fresh)
            stats.nfe, stats.operator_calls = i + 1, calls * (i + 1)
            guard.keep(x0, stats.residuals[-1])
            on_step(Step(i, len(sigmas) - 1, sigma_s, x0))
            if guard.diverged(i):
                break
        return Result(guard.last, Status.DIVERGED if guard.broken() else Status.OK, stats)

    def _gamma(self, problem: Problem, z: Tensor, count: int, sigma_t: float) -> Tensor | float:
        """Return the weight of the data at a noise level: a number, or one per sample, (B, 1, ...)."""
        if self.weighting == "constant":
            return self.gamma
        return self.gamma * matched_gamma(problem, z, count, sigma_t)

    def _change(self, operator: LinearOperator, misfit: Tensor, correction: str, gamma: Tensor | float) -> Tensor:
        """Return x0' - x0hat for the data misfit y - A x0hat (B, *out_shape)."""
        if correction == "projection":
            change = operator.pinv(misfit)
            if change is None:
                message = f"dds with correction 'projection' needs a pseudo-inverse, {operator!r} has none"
                raise ConfigError(message, "use method.correction=auto")
            return change
        if correction == "cg-noiseless":
            return conjugate_gradients(operator.normal, operator.adjoint(misfit), iterations=self.cg_iterations).x
        pull, count = gamma * operator.adjoint(misfit), self.cg_iterations
        return conjugate_gradients(operator.normal, pull, iterations=count, shift=1.0, weight=gamma).x

    def _resolved(self, problem: Problem) -> str:
        """Return the correction that "auto" and "exact" stand for: 1/gamma is 0 for exact data, and divides by 0."""
        if isinstance(problem.likelihood, Gaussian) and problem.likelihood.sigma == 0:
            return "cg-noiseless" if self.correction in ("auto", "exact") else self.correction
        return "cg" if self.correction == "auto" else self.correction


def _linear(problem: Problem) -> LinearOperator:
    if not isinstance(problem.operator, LinearOperator):
        raise ConfigError(f"method 'dds' needs a linear operator, got {problem.operator!r}", "use method dps")
    return problem.operator
