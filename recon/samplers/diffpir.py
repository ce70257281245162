"""DiffPIR: plug-and-play restoration by half-quadratic splitting, a proximal data step on each denoised image.

    x0' = argmin_x ||y - A x||^2 + rho ||x - x0hat||^2,    rho = lam sigma_y^2/sigma_t^2
    x_s = x0' + sigma_s (sqrt(1 - zeta) eps' + sqrt(zeta) z),     eps' = (x - x0')/sigma_t, refreshed

x0' = x0hat on the last step. Linear A with Gaussian noise: closed form, or CG. Else one gradient step of the same
objective, with f = -ln p(y | A x) and f = ||y - A x||^2/(2 sigma_y^2) for Gaussian noise:
    x0' = x0hat - (sigma_t^2/lam) grad f(x0hat),           no longer than Polyak's (f - f_min)/||grad f||^2 grad f

Source: Zhu et al. 2023 (DiffPIR), algorithm 1, eqs. 12 and 13, the authors' code. Departures: the step of eq. 13 grows
like sigma_t^2, hence Polyak's bound; lam is for sigma_y and sigma_t in one unit. The code has images and sigma_t in the
unit of [-1, 1] and sigma_y in that of [0, 1], so that its lam is 4 times ours: its 7 for deblurring is 1.75 here (2 to
12 for super-resolution, 1 for inpainting). x starts at noise, not at y noised to the first level, and the last denoised
image is the result (the code: the state before it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, final

import torch
from torch import Tensor

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian, Likelihood, per_item_norm
from recon.operators.base import LinearOperator, Operator
from recon.priors.base import Denoiser, per_item
from recon.samplers.base import Method, NoiseSource, OnStep, Result, Stats, Status, Step, ignore_step
from recon.samplers.gradient import measured_data
from recon.samplers.guard import FiniteGuard
from recon.samplers.renoise import ddim_b
from recon.samplers.start import first_state, levels_like
from recon.solvers.prox import closed_prox, proximal_map

DataStep = Callable[[Tensor, float], Tensor]


@final
@dataclass(frozen=True)
class DiffPIR(Method):
    """Denoising diffusion for plug-and-play image restoration.

    steps: noise levels (the quadratic grid takes equal ones once).  grid: name in `recon.schedules.GRIDS`.
    lam: weight of the denoised image against the data.  zeta: share of fresh noise in the variance, 0 to 1.
    noise_floor: least sigma_y, for exact data.
    clip: clamp x0hat to the prior's value range, as the authors do; complex images are never clamped.
    cg_iterations: per step, where the operator has no closed form.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"forward", "gradient"})
    citation: ClassVar[str] = (
        "@inproceedings{zhu2023diffpir, title={Denoising Diffusion Models for Plug-and-Play Image Restoration}, "
        "author={Zhu, Yuanzhi and Zhang, Kai and Liang, Jingyun and Cao, Jiezhang and Wen, Bihan and Timofte, Radu and "
        "Van Gool, Luc}, booktitle={CVPR Workshops}, year={2023}}"
    )

    steps: int = 100
    grid: str = "vp-quadratic"
    lam: float = 1.75
    zeta: float = 0.3
    noise_floor: float = 0.002
    clip: bool = True
    cg_iterations: int = 20

    def __post_init__(self) -> None:
        if self.steps < 1 or self.cg_iterations < 1:
            raise ConfigError(f"diffpir needs steps and cg_iterations >= 1, got {self.steps} and {self.cg_iterations}")
        if not (self.lam > 0 and self.noise_floor > 0 and 0 <= self.zeta <= 1):
            raise ConfigError(
                f"diffpir needs lam > 0, noise_floor > 0 and 0 <= zeta <= 1, got {self.lam}, {self.noise_floor} and "
                f"{self.zeta}"
            )
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
        """Return posterior samples; one network evaluation and one data step per step, after one A for the residual."""
        if prior is None:
            raise ConfigError("method 'diffpir' needs a prior", "name one with --prior")
        operator, y = problem.operator, problem.y
        sigmas = schedules.grid(self.grid, self.steps).tolist()
        x = first_state(self.grid, sigmas[0], problem, x_init, noise, shape)
        clipped = self.clip and not (x.is_complex() or prior.info.complex_channels)
        data_step, calls = self._data_step(problem, x)
        levels, guard, stats, count = levels_like(sigmas, x), FiniteGuard(x), Stats(), operator.measured()
        total = len(sigmas) - 1
        for i, (sigma_t, sigma_s) in enumerate(pairwise(sigmas)):
            x0 = prior(x, levels[i]).x0
            x0 = x0.clamp(*prior.info.value_range) if clipped else x0
            stats.residuals.append(problem.likelihood.residual(operator.forward(x0), y, count))
            if i < total - 1:
                x0 = data_step(x0, sigma_t)
            fresh = noise.normal(x.shape, x.dtype) if sigma_s > 0 and self.zeta > 0 else None
            x = ddim_b(x0, (x - x0).div_(sigma_t), sigma_t, sigma_s, self.zeta**0.5, fresh)
            stats.nfe, stats.operator_calls = i + 1, stats.operator_calls + 1 + (calls if i < total - 1 else 0)
            guard.keep(x0, stats.residuals[-1])
            on_step(Step(i, total, sigma_s, x0))
            if guard.diverged(i):
                break
        return Result(guard.last, Status.DIVERGED if guard.broken() else Status.OK, stats)

    def _data_step(self, problem: Problem, like: Tensor) -> tuple[DataStep, int]:
        """Return (x0hat, sigma_t) -> x0', and the calls of A and A^H that it takes."""
        operator, likelihood, y = problem.operator, problem.likelihood, measured_data(problem)
        if isinstance(likelihood, Gaussian):
            likelihood = Gaussian(max(likelihood.sigma, self.noise_floor))
            if isinstance(operator, LinearOperator):
                weight, prox = self.lam * likelihood.sigma**2, proximal_map(operator, self.cg_iterations)
                calls = 2 if closed_prox(operator)(like, 1.0, y) is not None else 2 * (1 + self.cg_iterations)
                return lambda x0, sigma: prox(x0, weight / sigma**2, y), calls
        return lambda x0, sigma: _descended(operator, likelihood, y, x0, sigma**2 / self.lam), 2


def _descended(operator: Operator, likelihood: Likelihood, y: Tensor, x0: Tensor, length: float) -> Tensor:
    """Return x0 - step grad f, f = -ln p(y | A x0), with the step `length`, or Polyak's where that is shorter."""
    with torch.enable_grad():
        leaf = x0.detach().requires_grad_()
        loss = likelihood.loss(operator.forward(leaf), y)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    excess = (loss.detach() - likelihood.loss(y, y)).clamp_min(0)
    step = (excess / per_item_norm(gradient).square().clamp_min(1e-30)).clamp_max(length)
    return x0 - per_item(step, gradient) * gradient
