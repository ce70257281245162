"""DAPS: decoupled annealing posterior sampling, a fresh draw of the image at each noise level.

    x0' ~ p(y | x0') N(x0'; c, r^2)          the data step: exact, Langevin, HMC or Metropolis (`data_step`)
    x_s = x0' + sigma_s z                    forgets x_t but for what x0' keeps of it; x_0 = x0'

    conditional   centre c                                    spread r^2
    published     end of the probability-flow ODE from x_t    sigma_t^2
    tweedie       D(x_t, sigma_t)                             sigma_t^2 dD/dx: trace, diagonal, or all of it (`tweedie`)

    h = lr (1 + (k/K)(lr_ratio - 1)) at level k, K = steps + 1 (main) or steps (legacy);  grids of both: `anneal`

The published conditional has a biased limit even for Gaussian priors: the ODE's endpoint is not the mean, and sigma_t^2
not the variance, of x0 given x_t. Tweedie's moments are exact there, at any number of levels.

Source: Zhang et al. 2025 (DAPS), algorithm 1, the authors' code ("main", and "legacy" for the paper's first version);
Zheng et al. 2025 (InverseBench), as "legacy". Departures: the noise level of the data step is the likelihood's own
unless `tau` is set (both codes: tau = 0.01 whatever the noise); w = 1 (`convention`; main: 2); exact draws where they
exist; a non-finite sample keeps its last finite estimate (main: the batch is zeroed). Published settings for each
problem: `daps_published`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from recon.data import Problem
from recon.errors import ConfigError
from recon.priors.base import Denoiser
from recon.samplers.anneal import Anneal, annealing, ode_levels
from recon.samplers.base import Method, NoiseSource, OnStep, Result, Stats, Status, Step, ignore_step
from recon.samplers.data_step import Convention, DataStep, Kind, data_settings
from recon.samplers.gradient import trace
from recon.samplers.guard import FiniteGuard
from recon.samplers.integrate import evaluations, integrate
from recon.samplers.latent import in_latents
from recon.samplers.start import first_state, levels_like
from recon.samplers.tweedie import draw_image


@final
@dataclass(frozen=True)
class DAPS(Method):
    """Decoupled annealing posterior sampling.

    steps: noise levels, from sigma_max to sigma_min.  anneal, conditional: as above.
    ode, ode_steps, ode_min: integrator ("euler", "heun", "dpm++2m") of the published centre, its steps and last level.
    covariance, products: of "tweedie": "scalar", "diagonal" (probes) or "full" (of Lanczos, and of CG; exact only).
    inner: kind of data step, see `data_step`; inner_steps, lr, lr_ratio, momentum, leapfrog, cg_iterations: its own.
    tau, convention, gradient_limit: the data's weight, see `DataSettings`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"forward"})
    citation: ClassVar[str] = (
        "@inproceedings{zhang2025daps, title={Improving Diffusion Inverse Problem Solving with Decoupled Noise "
        "Annealing}, author={Zhang, Bingliang and Chu, Wenda and Berner, Julius and Meng, Chenlin and Anandkumar, "
        "Anima and Song, Yang}, booktitle={CVPR}, year={2025}}"
    )

    steps: int = 200
    sigma_max: float = 100.0
    sigma_min: float = 0.1
    anneal: Anneal = "main"
    conditional: Literal["published", "tweedie"] = "published"
    covariance: Literal["scalar", "diagonal", "full"] = "scalar"
    products: int = 5
    ode: Literal["euler", "heun", "dpm++2m"] = "euler"
    ode_steps: int = 5
    ode_min: float = 0.01
    inner: Kind = "auto"
    inner_steps: int = 100
    lr: float = 1e-4
    lr_ratio: float = 0.01
    momentum: float = 0.9
    leapfrog: int = 10
    cg_iterations: int = 30
    tau: float | None = None
    convention: Convention = "legacy"
    gradient_limit: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 2 or self.ode_steps < 1 or self.products < 1:
            raise ConfigError("daps needs steps >= 2, ode_steps >= 1 and products >= 1")
        if not self.lr > 0 or not 0 < self.lr_ratio <= 1 or not self.ode_min > 0:
            raise ConfigError("daps needs lr > 0, 0 < lr_ratio <= 1 and ode_min > 0")
        if self.conditional == "tweedie" and self.covariance == "full" and self.inner not in ("auto", "exact"):
            raise ConfigError("daps draws from Tweedie's full covariance exactly", "use method.inner=exact")
        self._grids(), data_settings(self)

    def _grids(self) -> tuple[list[float], list[list[float]]]:
        """Return the noise levels, the last 0, and those of the ODE from each."""
        levels = annealing(self.anneal, self.steps, self.sigma_min, self.sigma_max)
        return levels, [ode_levels(self.anneal, self.ode_steps, self.ode_min, sigma) for sigma in levels[:-1]]

    @property
    def network_calls(self) -> int:
        if self.conditional == "tweedie":
            return self.steps
        return sum(evaluations(self.ode, grid) for grid in self._grids()[1])

    @property
    def differentiates_prior(self) -> bool:
        return self.conditional == "tweedie"

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
        """Return posterior samples; a centre and a data step per level (the files named above say what each costs)."""
        if prior is None:
            raise ConfigError("method 'daps' needs a prior", "name one with --prior")
        problem, shape, decode = in_latents(prior, problem, shape)
        data = DataStep(problem, data_settings(self), noise)
        (levels, grids), count = self._grids(), problem.operator.measured()
        full = self.conditional == "tweedie" and self.covariance == "full"
        x = first_state("edm", levels[0], problem, x_init, noise, shape)
        beside = levels_like([sigma for grid in grids for sigma in grid], x).split([len(grid) for grid in grids])
        guard, stats, calls = FiniteGuard(x), Stats(), 2 + 2 * self.products if full else 1 + data.calls
        if full:
            data.linear()
        for i, (sigma, after) in enumerate(pairwise(levels)):
            lr = self.lr * (1 + i / (self.steps + (self.anneal == "main")) * (self.lr_ratio - 1))
            if self.conditional == "published":
                centre = integrate(prior, x, grids[i], self.ode, levels=beside[i])
                x0 = data.draw(centre, sigma, lr)
                stats.nfe += evaluations(self.ode, grids[i])
            else:
                seen = trace(prior, x, beside[i][0])
                x0 = draw_image(self.covariance, self.products, seen, sigma, lr, data, noise.normal)
                stats.nfe += 1
                stats.backprops += self.products * (2 if self.covariance == "full" else 1)
            stats.operator_calls += calls
            z = problem.operator.forward(x0)
            stats.residuals.append(problem.likelihood.residual(z, problem.y, count))
            guard.keep(x0, stats.residuals[-1])
            on_step(Step(i, self.steps, after, decode(x0)))
            if guard.diverged(i):
                break
            x = x0.add(noise.normal(x0.shape, x0.dtype), alpha=after) if after > 0 else x0
        return Result(decode(guard.last), Status.DIVERGED if guard.broken() else Status.OK, stats)
