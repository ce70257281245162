"""DPS: diffusion posterior sampling by the gradient of the data residual through the network.

    x_s = step(x_t, x0hat) - zeta / sqrt(ab_s ab_t) grad_x ||y - A(x0hat(x))||,    ab = 1/(1 + sigma^2)

The factor is that of the VP code: its states are sqrt(ab) x, so x_vp -= zeta grad_{x_vp} n divides by sqrt(ab_t) in the
gradient and by sqrt(ab_s) in the new state; ab_s = 1 on the last step.

Source: Chung et al. 2023 (DPS), algorithms 1 and 2, the authors' code; Zheng et al. 2025 (InverseBench) for "sde" and
"ode". Departures: norms are per sample (the code: over the batch); the Poisson weight floors |y|; EDM grids keep the
factor, so that zeta keeps its meaning; the last step of "sde" and "ode" goes to sigma = 0 (InverseBench: 0.01).
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
from recon.likelihoods import per_item_norm
from recon.priors.base import Denoiser
from recon.samplers.base import Method, NoiseSource, OnStep, Result, Stats, Status, Step, ignore_step
from recon.samplers.gradient import measured_data, trace, within_range
from recon.samplers.guard import FiniteGuard
from recon.samplers.renoise import ancestral, euler
from recon.samplers.start import first_state, is_vp, levels_like

POISSON_FLOOR = 1e-3


@final
@dataclass(frozen=True)
class DPS(Method):
    """Diffusion posterior sampling.

    steps: noise levels.  grid: name in `recon.schedules.GRIDS`.  zeta: step size of the VP code.
    form: "ancestral" (the authors' DDPM step; with the learned variance where the network has one), "sde" or "ode"
        (InverseBench's Euler steps, in VP coordinates on VP grids).
    norm: what is differentiated: "norm" ||r|| (the authors' code), "squared" ||r||^2 (the paper's algorithm), "poisson"
        ||r|| mean(1/|y|) over the measured values (the code for Poisson noise), "rms" sqrt(m) ||r|| of m measured
        values (ours: the step at a pixel then does not depend on the size of the image, nor does the best zeta).
    clip: clamp x0hat to the prior's value range, as the authors do; complex images are never clamped.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"forward", "gradient"})
    through_prior: ClassVar[bool] = True
    citation: ClassVar[str] = (
        "@inproceedings{chung2023dps, title={Diffusion Posterior Sampling for General Noisy Inverse Problems}, "
        "author={Chung, Hyungjin and Kim, Jeongsol and McCann, Michael T. and Klasky, Marc L. and Ye, Jong Chul}, "
        "booktitle={ICLR}, year={2023}}"
    )

    steps: int = 1000
    grid: str = "vp"
    zeta: float = 0.5
    form: Literal["ancestral", "sde", "ode"] = "ancestral"
    norm: Literal["norm", "squared", "poisson", "rms"] = "norm"
    clip: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.zeta >= 0:
            raise ConfigError(f"dps needs steps >= 1 and zeta >= 0, got {self.steps} and {self.zeta}")
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
        """Return posterior samples; one network evaluation, one backward pass and one A per step."""
        if prior is None:
            raise ConfigError("method 'dps' needs a prior", "name one with --prior")
        sigmas = schedules.grid(self.grid, self.steps).tolist()
        x = first_state(self.grid, sigmas[0], problem, x_init, noise, shape)
        levels, guard, stats, count = levels_like(sigmas, x), FiniteGuard(x), Stats(), problem.operator.measured()
        y, weight = measured_data(problem), self._weight(problem)
        total = len(sigmas) - 1
        for i, (sigma_t, sigma_s) in enumerate(pairwise(sigmas)):
            traced = trace(prior, x, levels[i])
            with torch.enable_grad():
                x0 = within_range(traced.seen.x0, prior) if self.clip else traced.seen.x0
                z = problem.operator.forward(x0)
                loss = per_item_norm(y - z)
                gradient = traced.slope(loss**2 if self.norm == "squared" else loss * weight)
            x0 = x0.detach()
            stats.residuals.append(problem.likelihood.residual(z.detach(), problem.y, count))
            guard.keep(x0, stats.residuals[-1])
            x = self._moved(x, x0, traced.variance_mix, sigma_t, sigma_s, noise)
            x.add_(gradient, alpha=-self.zeta * ((1 + sigma_s**2) * (1 + sigma_t**2)) ** 0.5)
            stats.nfe, stats.backprops, stats.operator_calls = i + 1, i + 1, 2 * (i + 1)
            on_step(Step(i, total, sigma_s, x0))
            if guard.diverged(i):
                return Result(guard.last, Status.DIVERGED, stats)
        guard.keep(x)
        return Result(guard.last, Status.DIVERGED if guard.broken() else Status.OK, stats)

    def _moved(
        self, x: Tensor, x0: Tensor, mix: Tensor | None, sigma_t: float, sigma_s: float, noise: NoiseSource
    ) -> Tensor:
        """Return the unconditional step from x at sigma_t to sigma_s."""
        eps = (x - x0) / sigma_t
        z = noise.normal(x.shape, x.dtype) if sigma_s > 0 and self.form != "ode" else None
        if self.form != "ancestral":
            return euler(x0, eps, sigma_t, sigma_s, z, is_vp(self.grid))
        return ancestral(x0, eps, sigma_t, sigma_s, z, mix)

    def _weight(self, problem: Problem) -> Tensor | float:
        """Return mean(1/|y|) over the m measured values, (1 or B,), for the Poisson norm; sqrt(m) for "rms"; else 1."""
        if self.norm != "poisson":
            return problem.operator.measured() ** 0.5 if self.norm == "rms" else 1.0
        inverse = 1 / problem.y.abs().clamp_min(POISSON_FLOOR)
        support = problem.operator.support
        held = torch.ones_like(inverse) if support is None else (support != 0).to(inverse.dtype).expand_as(inverse)
        return (inverse * held).flatten(1).sum(1) / held.flatten(1).sum(1)
