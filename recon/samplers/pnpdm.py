"""PnP-DM: plug-and-play diffusion models, a split Gibbs sampler with annealed coupling.

    z ~ p(y | z) N(z; x, rho_k^2)            the data step: exact, Langevin, HMC or Metropolis (`data_step`)
    x ~ p(x) N(x; z, rho_k^2)                the prior step: the reverse diffusion from x_rho = z at sigma = rho_k to 0
    rho_k = max(rho_max decay^k, rho_min),   k = 0..K-1;  the result is the last x

At fixed rho the pair (x, z) tends to p(y | z) N(z; x, rho^2) p(x), and x to the posterior of y = A (x + rho n') + n:
with Gaussian noise and linear A its covariance is s^2 I + rho^2 A A^H instead of s^2 I. The error is O(rho^2) and falls
with rho_min, while the chain takes of the order of var/rho^2 iterations to forget its state: annealing starts it close.

Source: Wu et al. 2024 (PnP-DM), algorithms 1 and 2, the authors' code; Zheng et al. 2025 (InverseBench). Departures:
the prior step starts at sigma = rho itself (the code: at the grid's next level below, with the same z) and its last
step returns D(x) (the code's Euler step of the SDE: 2 D(x) - x); it is of second order unless `integrator` says "sde";
the noise level of the data step is the likelihood's own unless `tau` is set (InverseBench: 1); the last x of each chain
is the sample (the code: 20 states of one chain).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.priors.base import Denoiser
from recon.samplers.base import Method, NoiseSource, OnStep, Result, Stats, Status, Step, ignore_step
from recon.samplers.data_step import Convention, DataStep, Kind, data_settings
from recon.samplers.guard import FiniteGuard
from recon.samplers.integrate import INTEGRATORS, evaluations, integrate
from recon.samplers.latent import in_latents
from recon.samplers.start import first_state, levels_like


@final
@dataclass(frozen=True)
class PnPDM(Method):
    """Plug-and-play diffusion models by split Gibbs sampling.

    iterations: K.  rho_max, rho_min, decay: of the coupling.
    integrator: of the prior step, in `recon.samplers.integrate`: "sde" (the authors' "edm_sde"), "euler" (their "edm":
        a point, not a draw), "dpm++2m-sde" (second order).
    prior_grid: "tail" (the authors' code) the levels below rho of one poly-7 grid of prior_steps levels, prior_max to
        prior_min; "own" (InverseBench) prior_steps levels from rho to prior_min.
    inner: kind of data step, see `data_step`; inner_steps, lr, momentum, leapfrog, cg_iterations: its own.
    tau, convention, gradient_limit: the data's weight, see `DataSettings`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"forward"})
    citation: ClassVar[str] = (
        "@inproceedings{wu2024pnpdm, title={Principled Probabilistic Imaging using Diffusion Models as Plug-and-Play "
        "Priors}, author={Wu, Zihui and Sun, Yu and Chen, Yifan and Zhang, Bingliang and Yue, Yisong and Bouman, "
        "Katherine L.}, booktitle={NeurIPS}, year={2024}}"
    )

    iterations: int = 100
    rho_max: float = 10.0
    rho_min: float = 0.02
    decay: float = 0.93
    integrator: str = "dpm++2m-sde"
    prior_grid: Literal["tail", "own"] = "tail"
    prior_steps: int = 100
    prior_min: float = 0.002
    prior_max: float = 80.0
    inner: Kind = "auto"
    inner_steps: int = 40
    lr: float = 5e-5
    momentum: float = 0.9
    leapfrog: int = 10
    cg_iterations: int = 30
    tau: float | None = None
    convention: Convention = "legacy"
    gradient_limit: float | None = None

    def __post_init__(self) -> None:
        if self.iterations < 1 or not self.lr > 0:
            raise ConfigError(f"pnpdm needs iterations >= 1 and lr > 0, got {self.iterations} and {self.lr}")
        if not 0 < self.rho_min <= self.rho_max or not 0 < self.decay <= 1:
            given = f"{self.rho_min}, {self.rho_max} and {self.decay}"
            raise ConfigError(f"pnpdm needs 0 < rho_min <= rho_max and 0 < decay <= 1, got {given}")
        if self.integrator not in INTEGRATORS:
            raise ConfigError(f"unknown integrator '{self.integrator}'", f"choose from: {', '.join(INTEGRATORS)}")
        self._grids(), data_settings(self)

    def _grids(self) -> list[list[float]]:
        """Return the levels of each prior step, the first rho_k and the last 0."""
        whole = schedules.poly_rho(self.prior_steps, self.prior_min, self.prior_max).tolist()
        rhos = [max(self.rho_max * self.decay**k, self.rho_min) for k in range(self.iterations)]
        if self.prior_grid == "tail" or self.rho_min <= self.prior_min:
            return [[rho, *(s for s in whole if s < rho)] for rho in rhos]
        return [schedules.poly_rho(self.prior_steps, self.prior_min, rho).tolist() for rho in rhos]

    @property
    def network_calls(self) -> int:
        return sum(evaluations(self.integrator, grid) for grid in self._grids())

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
        """Return posterior samples, each the end of a chain of its own; a data step and a prior step per iteration."""
        if prior is None:
            raise ConfigError("method 'pnpdm' needs a prior", "name one with --prior")
        problem, shape, decode = in_latents(prior, problem, shape)
        data, grids, count = DataStep(problem, data_settings(self), noise), self._grids(), problem.operator.measured()
        x = first_state("edm", 1.0, problem, x_init, noise, shape)
        levels = levels_like([sigma for grid in grids for sigma in grid], x).split([len(grid) for grid in grids])
        guard, stats = FiniteGuard(x), Stats()
        for k, grid in enumerate(grids):
            z = data.draw(x, grid[0], self.lr)
            x = integrate(prior, z, grid, self.integrator, noise, levels=levels[k])
            stats.nfe += evaluations(self.integrator, grid)
            stats.operator_calls += data.calls + 1
            stats.residuals.append(problem.likelihood.residual(problem.operator.forward(x), problem.y, count))
            guard.keep(x, stats.residuals[-1])
            on_step(Step(k, self.iterations, grid[0], decode(x)))
            if guard.diverged(k):
                break
        return Result(decode(guard.last), Status.DIVERGED if guard.broken() else Status.OK, stats)
