"""PiGDM: pseudo-inverse guided diffusion, the data's gradient through the network with an isotropic covariance.

    p(x0 | x) ~ N(x0hat, r^2 I),   r^2 = sigma^2/(1 + sigma^2),   x0hat = D(x, sigma),   J = dx0hat/dx
    d = r^2 A^H (r^2 A A^H + sigma_y^2 I)^-1 (y - A x0hat)        noisy;   A^+ (y - A x0hat) for exact data
    x_s = rule(x0hat, eps) + weight J^T d                         guidance "added", the published form
    x_s = rule(D_y, eps_y),  D_y = x0hat + (sigma^2/r^2) J^T d    guidance "score": D + sigma^2 grad log p(y | x)

    eps = (x - x0hat)/sigma, eps_y = (x - D_y)/sigma        rule  DDIM-A(eta) or DDIM-B(eta), see renoise.py

In sigma-space the published weight is 1: the RED-diff code adds sqrt(ab_s) sqrt(ab_t) g to the VP state, g = J_vp^T d,
and J_vp^T = J^T/sqrt(ab_t); InverseBench steps in sigma-space and adds J^T d. As it does not shrink with the step, the
limit for many steps is not the posterior; "score" is, for a prior N(0, I), where the covariance r^2 I is the true one.

Source: Song, Vahdat, Mardani, Kautz 2023, algorithm 1; the RED-diff code (noise-free, DDIM-A, `project` to inpaint);
InverseBench (noisy, grid "log", rule "ddim-b", eta 0.2). Departures: A^+ is general, by SVD or CG; Poisson data get
their variance at x0hat; a run starts at noise, not at A^+ y noised.
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
from recon.priors.base import Denoiser
from recon.samplers.base import Method, NoiseSource, OnStep, Result, Stats, Status, Step, ignore_step
from recon.samplers.gradient import measured_data, require_linear, trace
from recon.samplers.guard import FiniteGuard
from recon.samplers.projection import isotropic_gain, measured_subspace
from recon.samplers.renoise import ddim_a, ddim_b
from recon.samplers.start import first_state, levels_like

RULES = {"ddim-a": ddim_a, "ddim-b": ddim_b}


@final
@dataclass(frozen=True)
class PiGDM(Method):
    """Pseudo-inverse guided diffusion model.

    steps: noise levels.  grid: name in `recon.schedules.GRIDS`.  eta: share of fresh noise, 0 to 1.
    rule: of renoising, DDIM-A or DDIM-B.  weight: of the guidance.
    guidance: "added" to the state of each step (published), or "score": within the denoised image, as a score.
    form: "noisy", "noise-free" (data taken as exact), or "auto": by the likelihood.
    project: the RED-diff code's inpainting: x0hat + A^+ (y - A x0hat), and J^T d kept out of the measured part.
    iterations: of CG, where neither the operator's SVD nor its closed forms do.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"linear", "adjoint"})
    through_prior: ClassVar[bool] = True
    citation: ClassVar[str] = (
        "@inproceedings{song2023pseudoinverse, title={Pseudoinverse-Guided Diffusion Models for Inverse Problems}, "
        "author={Song, Jiaming and Vahdat, Arash and Mardani, Morteza and Kautz, Jan}, booktitle={ICLR}, year={2023}}"
    )

    steps: int = 100
    grid: str = "vp"
    eta: float = 1.0
    rule: Literal["ddim-a", "ddim-b"] = "ddim-a"
    guidance: Literal["added", "score"] = "added"
    weight: float = 1.0
    form: Literal["auto", "noisy", "noise-free"] = "auto"
    project: bool = False
    iterations: int = 20

    def __post_init__(self) -> None:
        if self.steps < 1 or self.iterations < 1:
            raise ConfigError(f"pigdm needs steps >= 1 and iterations >= 1, got {self.steps} and {self.iterations}")
        if not 0 <= self.eta <= 1 or not self.weight >= 0:
            raise ConfigError(f"pigdm needs 0 <= eta <= 1 and weight >= 0, got {self.eta} and {self.weight}")
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
        """Return posterior samples; one network evaluation and one backward pass per step."""
        if prior is None:
            raise ConfigError("method 'pigdm' needs a prior", "name one with --prior")
        operator, y = require_linear("pigdm", problem), measured_data(problem)
        sigmas = schedules.grid(self.grid, self.steps).tolist()
        x = first_state(self.grid, sigmas[0], problem, x_init, noise, shape)
        levels, guard, stats, count = levels_like(sigmas, x), FiniteGuard(x), Stats(), operator.measured()
        exact = self.form == "noise-free" or (self.form == "auto" and problem.likelihood == Gaussian(0.0))
        change, calls = isotropic_gain(problem, operator, exact, self.iterations, x)
        subspace = measured_subspace(operator, "auto", self.iterations, x) if self.project else None
        for i, (sigma_t, sigma_s) in enumerate(pairwise(sigmas)):
            traced = trace(prior, x, levels[i])
            x0, square = traced.x0, sigma_t**2 / (1 + sigma_t**2)
            z = operator.forward(x0)
            stats.residuals.append(problem.likelihood.residual(z, problem.y, count))
            pulled = self.weight * traced.pull(change(y - z, z, square))
            eps = (x - x0) / sigma_t
            if self.guidance == "score":
                x0 = x0.add(pulled, alpha=sigma_t**2 / square)
                eps = (x - x0) / sigma_t
            if subspace is not None:
                x0, pulled = subspace.fit(x0, y), subspace.unmeasured(pulled)
            guard.keep(x0, stats.residuals[-1])
            fresh = noise.normal(x.shape, x.dtype) if sigma_s > 0 and self.eta > 0 else None
            x = RULES[self.rule](x0, eps, sigma_t, sigma_s, self.eta, fresh)
            if self.guidance == "added":
                x.add_(pulled)
            per_step = 1 + calls + (2 * (1 + subspace.calls) if subspace is not None else 0)
            stats.nfe, stats.backprops, stats.operator_calls = i + 1, i + 1, per_step * (i + 1)
            on_step(Step(i, len(sigmas) - 1, sigma_s, x0))
            if guard.diverged(i):
                return Result(guard.last, Status.DIVERGED, stats)
        guard.keep(x)
        return Result(guard.last, Status.DIVERGED if guard.broken() else Status.OK, stats)
