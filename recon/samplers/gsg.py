"""DPS-GSG: DPS with the operator's gradient guessed from random directions.

    x_s = step(x_t, x0hat) - zeta/sqrt(ab_s ab_t) J^T g/(2 ||r||),    r = y - A(x0hat),  x0hat = D(x_t, sigma_t)
    g ~ grad_{x0hat} ||r||^2  by `recon.solvers.smoothed_gradient`,   J = dx0hat/dx,  ab = 1/(1 + sigma^2)

A is a black box, the network is not: J^T g is one backward pass. The zeroth-order neighbour that EnKG is compared with.
step  Euler(-Maruyama), in VP coordinates on VP grids (`renoise.euler`).

Source: Zheng et al. 2024 (EnKG), appendix, the authors' code (DPS-cGSG, DPS-fGSG). Departures: queries that fill no
batch are made too (the code drops them); the last step goes to sigma = 0 (the code: 0.01).
"""

from __future__ import annotations

import math
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
from recon.samplers.gradient import measured_data, trace
from recon.samplers.guard import FiniteGuard
from recon.samplers.renoise import euler
from recon.samplers.start import first_state, is_vp, levels_like
from recon.solvers.smoothed_gradient import smoothed_gradient


@final
@dataclass(frozen=True)
class DPSGSG(Method):
    """DPS by Gaussian-smoothed gradients.

    steps: noise levels.  grid: name in `recon.schedules.GRIDS`.  zeta: step size of the VP code.
    queries: calls of A for a gradient.  batch: of them at once, per sample.  mu: width of the smoothing.
    difference: "central" (a direction takes two queries) or "forward" (one, and one more for all).
    stochastic_steps: Euler-Maruyama steps of the reverse diffusion; False takes the probability-flow ODE.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"forward"})
    through_prior: ClassVar[bool] = True
    citation: ClassVar[str] = (
        "@article{zheng2024enkg, title={Ensemble Kalman Diffusion Guidance: A Derivative-free Method for Inverse "
        "Problems}, author={Zheng, Hongkai and Chu, Wenda and Wang, Austin and Kovachki, Nikola and Baptista, Ricardo "
        "and Yue, Yisong}, journal={arXiv:2409.20175}, year={2024}}"
    )

    steps: int = 1000
    grid: str = "vp-continuous"
    zeta: float = 0.01
    queries: int = 1024
    batch: int = 32
    mu: float = 0.01
    difference: Literal["central", "forward"] = "central"
    stochastic_steps: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.queries < 2 or self.batch < 1 or not self.mu > 0 or not self.zeta >= 0:
            raise ConfigError("dps-gsg needs steps, batch >= 1, queries >= 2, mu > 0 and zeta >= 0")
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
        """Return posterior samples; one network evaluation, one backward pass and `queries` + 1 of A per step."""
        if prior is None:
            raise ConfigError("method 'dps-gsg' needs a prior", "name one with --prior")
        sigmas = schedules.grid(self.grid, self.steps).tolist()
        x = first_state(self.grid, sigmas[0], problem, x_init, noise, shape)
        levels, guard, stats, count = levels_like(sigmas, x), FiniteGuard(x), Stats(), problem.operator.measured()
        y = measured_data(problem)
        for i, (sigma_t, sigma_s) in enumerate(pairwise(sigmas)):
            traced = trace(prior, x, levels[i])
            x0 = traced.x0
            z = problem.operator.forward(x0)
            misfit = _square(y - z, 1)
            slope = traced.pull(self._gradient(problem, y, x0, misfit, noise))
            root = misfit.sqrt().clamp_min(torch.finfo(misfit.dtype).tiny).reshape(-1, *(1,) * (x.ndim - 1))
            stats.residuals.append(problem.likelihood.residual(z, problem.y, count))
            guard.keep(x0, stats.residuals[-1])
            fresh = noise.normal(x.shape, x.dtype) if sigma_s > 0 and self.stochastic_steps else None
            x = euler(x0, (x - x0) / sigma_t, sigma_t, sigma_s, fresh, is_vp(self.grid))
            step = self.zeta * math.sqrt((1 + sigma_s**2) * (1 + sigma_t**2))
            x.addcdiv_(slope, (2 * root).to(x.dtype), value=-step)
            stats.nfe, stats.backprops = i + 1, i + 1
            stats.operator_calls += 1 + (2 * (self.queries // 2) if self.difference == "central" else self.queries)
            on_step(Step(i, len(sigmas) - 1, sigma_s, x0))
            if guard.diverged(i):
                return Result(guard.last, Status.DIVERGED, stats)
        guard.keep(x)
        return Result(guard.last, Status.DIVERGED if guard.broken() else Status.OK, stats)

    def _gradient(self, problem: Problem, y: Tensor, x0: Tensor, misfit: Tensor, noise: NoiseSource) -> Tensor:
        """Return the guess of grad ||y - A(x0)||^2."""

        def values(points: Tensor) -> Tensor:
            z = problem.operator.forward(points.flatten(0, 1))
            return _square(y[:, None] - z.reshape(*points.shape[:2], *z.shape[1:]), 2)

        central = self.difference == "central"
        directions, batch = (self.queries // 2, max(self.batch // 2, 1)) if central else (self.queries, self.batch)
        return smoothed_gradient(values, x0, None if central else misfit, self.mu, directions, batch, noise.normal)


def _square(r: Tensor, axes: int) -> Tensor:
    """Return ||r||^2 over all but the first `axes` axes, in float64: differences of it are taken."""
    exact = r.flatten(0, axes - 1).to(torch.complex128 if r.is_complex() else torch.float64)
    return per_item_norm(exact).square().reshape(r.shape[:axes])
