"""MMPS: moment matching posterior sampling, the likelihood's score with Tweedie's covariance.

    p(x0 | x) ~ N(x0hat, V),  x0hat = D(x, sigma),  V = sigma^2 J,  J = dD/dx            (Tweedie's moments)
    grad log p(y | x) = J^T A^H u,   (S + A V A^H) u = y - A x0hat
    D_y = x0hat + sigma^2 J^T A^H u  replaces D in any integrator:  E[x0 | x, y] under the moments

    S    variance of the noise of y, at each entry        u    solved by a few CG iterations, each one product J^T v

For a Gaussian prior the moments are exact, so D_y is the exact posterior denoiser once CG has converged. J is symmetric
for an exact denoiser: the same backward pass gives J^T v and, in V, stands for J v; no forward-mode pass is needed.

Source: Rozet et al. 2024, Learning Diffusion Priors from Observations by Expectation Maximization, on moment matching,
and the authors' code (64 DDPM steps, one CG iteration). Departures: V A^H p of each CG direction is kept, so that n
iterations take n backward passes (the code: n + 1); the grid ends at sigma 0.01 (the code: 0.001); exact data get a
small S; Poisson data the variance at x0hat. Non-linear operators are linearised at x0hat, as in the code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, final

import torch
from torch import Tensor

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.priors.base import Denoiser, Prediction, per_item
from recon.samplers.base import Method, NoiseSource, OnStep, Result, Stats, Status, Step, ignore_step
from recon.samplers.gradient import least_variance, linearise, measured_data, noise_variance, trace
from recon.samplers.guard import FiniteGuard
from recon.samplers.integrate import INTEGRATORS, evaluations, path
from recon.samplers.renoise import ddim_a
from recon.samplers.start import first_state, levels_like
from recon.solvers.gain import kalman_gain


@final
@dataclass(frozen=True)
class MMPS(Method):
    """Moment matching posterior sampling.

    steps: noise levels.  grid: name in `recon.schedules.GRIDS`.
    integrator: "ddim" (DDIM-A with eta: 1 is the authors' DDPM, 0 the ODE), or one of `recon.samplers.integrate`.
    eta: share of fresh noise of "ddim".  iterations: of CG at each evaluation, one backward pass each.
    warm_start: let CG's first iteration search along the solution of the evaluation before.
    floor: least noise level assumed, relative to the root mean square of y; for exact data.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"forward", "gradient"})
    through_prior: ClassVar[bool] = True
    citation: ClassVar[str] = (
        "@inproceedings{rozet2024learning, title={Learning Diffusion Priors from Observations by Expectation "
        "Maximization}, author={Rozet, Fran{\\c{c}}ois and Andry, G{\\'e}r{\\^o}me and Lanusse, Fran{\\c{c}}ois and "
        "Louppe, Gilles}, booktitle={NeurIPS}, year={2024}}"
    )

    steps: int = 64
    grid: str = "log"
    integrator: str = "ddim"
    eta: float = 1.0
    iterations: int = 1
    warm_start: bool = False
    floor: float = 1e-3

    def __post_init__(self) -> None:
        if self.steps < 1 or self.iterations < 1:
            raise ConfigError(f"mmps needs steps >= 1 and iterations >= 1, got {self.steps} and {self.iterations}")
        if not 0 <= self.eta <= 1 or not 0 < self.floor < 1:
            raise ConfigError(f"mmps needs 0 <= eta <= 1 and 0 < floor < 1, got {self.eta} and {self.floor}")
        if self.integrator != "ddim" and self.integrator not in INTEGRATORS:
            raise ConfigError(f"unknown integrator '{self.integrator}'", f"choose: ddim, {', '.join(INTEGRATORS)}")
        schedules.grid(self.grid, self.steps)

    @property
    def network_calls(self) -> int:
        sigmas = schedules.grid(self.grid, self.steps).tolist()
        return len(sigmas) - 1 if self.integrator == "ddim" else evaluations(self.integrator, sigmas)

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
        """Return posterior samples; `iterations` backward passes, A^H and A for each network evaluation, and one A."""
        if prior is None:
            raise ConfigError("method 'mmps' needs a prior", "name one with --prior")
        sigmas = schedules.grid(self.grid, self.steps).tolist()
        x = first_state(self.grid, sigmas[0], problem, x_init, noise, shape)
        levels, guard, stats = levels_like(sigmas, x), FiniteGuard(x), Stats()
        posterior = MomentMatched(prior, problem, self, stats)
        if self.integrator == "ddim":
            states = _ddim(posterior, x, sigmas, levels, self.eta, noise)
        else:
            states = path(posterior, x, sigmas, self.integrator, noise, levels=levels)
        for i, (state, x0) in enumerate(states):
            x = state
            guard.keep(x0, stats.residuals[-1])
            on_step(Step(i, len(sigmas) - 1, sigmas[i + 1], x0))
            if guard.diverged(i):
                return Result(guard.last, Status.DIVERGED, stats)
        guard.keep(x)
        return Result(guard.last, Status.DIVERGED if guard.broken() else Status.OK, stats)


@final
class MomentMatched(Denoiser):
    """The denoiser of p(x0 | y) under Tweedie's moments, for one run; `stats` gets its counts and residuals."""

    def __init__(self, prior: Denoiser, problem: Problem, settings: MMPS, stats: Stats) -> None:
        self.prior, self.problem, self.settings, self.stats, self.info = prior, problem, settings, stats, prior.info
        self.y, self.count = measured_data(problem), problem.operator.measured()
        self.least = least_variance(self.y, self.count, settings.floor)
        self.weights: Tensor | None = None

    def _denoise(self, x: Tensor, sigma: Tensor, cond: Tensor | None) -> Prediction:
        traced, iterations = trace(self.prior, x, sigma), self.settings.iterations
        near, variance = linearise(self.problem.operator, traced.x0), per_item(sigma, x) ** 2
        noise = torch.maximum(noise_variance(self.problem.likelihood, near.z, self.count), self.least)

        def spread(u: Tensor) -> Tensor:
            return variance * traced.pull(near.adjoint(u), keep=True)

        gain = kalman_gain(near.forward, spread, noise, self.y - near.z, iterations, self.weights)
        if self.settings.warm_start:
            self.weights = gain.weights
        self.stats.residuals.append(self.problem.likelihood.residual(near.z, self.problem.y, self.count))
        self.stats.nfe += 1
        self.stats.backprops += iterations
        self.stats.operator_calls += 1 + 2 * iterations
        return Prediction(traced.x0 + gain.change)


def _ddim(
    prior: Denoiser, x: Tensor, sigmas: list[float], levels: Tensor, eta: float, noise: NoiseSource
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the state after each DDIM-A step, and its x0."""
    for i, (t, s) in enumerate(pairwise(sigmas)):
        x0 = prior(x, levels[i]).x0
        z = noise.normal(x.shape, x.dtype) if s > 0 and eta > 0 else None
        x = ddim_a(x0, (x - x0) / t, t, s, eta, z)
        yield x, x0
