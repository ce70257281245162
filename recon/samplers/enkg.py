"""EnKG: ensemble Kalman diffusion guidance, for forward models that only say their values.

    X0_j = ODE(X_j, sigma_i -> 0),  Y_j = A(X0_j),  E_j = grad_Y L_j        L = ||Y - y||^2/2, or that of the noise
    C_jk = Re<E_j, Y_k - Ybar>/J,   X_j -= w_i/||C||_F sum_k C_jk (X_k - Xbar)     in the window, `updates` times
    X_j += (sigma_{i+1} - sigma_i) (X_j - D(X_j, sigma_i))/sigma_i                 at every level i = 0..N-1

    X, X0   members of the ensemble, noisy and denoised, j = 1..J     Y   what the model says of them     y   the data
    window  start N < i < N - floor(end N)                            ODE Euler, min(1 + floor((N-i)/every), most) steps
    w_i     scale if ratio <= 0, else  scale (1 - ratio)(N - i)/N + ratio              ("code")
                                       scale ((1 - ratio)(N - i)/N + ratio)            ("corrected")

No matrix of images or measurements is formed. No step knows the noise level: the spread is not the posterior's.

Source: Zheng et al. 2024 (EnKG), algorithm 1, and the authors' code. Departures: members beyond the last full batch are
denoised too; A is called in batches; other noise than Gaussian by its own loss; complex data as pairs of real numbers
(the code squares them); localisation and inflation, which the paper has not (`recon.solvers.ensemble_gain`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.priors.base import Denoiser
from recon.samplers.anneal import ode_levels
from recon.samplers.base import EnsembleStats, NoiseSource, OnStep, Result, Stats, Status, Step, ignore_step
from recon.samplers.ensemble import EnsembleMethod, denoised, errors, in_parts, require_ensemble, spread
from recon.samplers.gradient import measured_data
from recon.samplers.guard import FiniteGuard
from recon.samplers.integrate import integrate
from recon.samplers.latent import in_latents
from recon.samplers.start import first_state, levels_like
from recon.solvers.ensemble_gain import applied, inflated, shrunk, weights


@final
@dataclass(frozen=True)
class EnKG(EnsembleMethod):
    """Ensemble Kalman diffusion guidance.

    particles: J.  batch: members that the network and the model take at once.
    steps, sigma_max, sigma_min: N levels, poly-7, then 0.  start, end: of the window.  updates: in each of its levels.
    scale, ratio, precedence: of w_i, as above.  ode_steps, ode_every: most and every.
    localisation: "none", or "correlation" to shrink what the ensemble is too small to tell.
    inflation: 0..1, share of the spread lost in an update that is given back at each pixel.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"forward"})
    citation: ClassVar[str] = (
        "@article{zheng2024enkg, title={Ensemble Kalman Diffusion Guidance: A Derivative-free Method for Inverse "
        "Problems}, author={Zheng, Hongkai and Chu, Wenda and Wang, Austin and Kovachki, Nikola and Baptista, Ricardo "
        "and Yue, Yisong}, journal={arXiv:2409.20175}, year={2024}}"
    )

    particles: int = 1024
    batch: int = 64
    steps: int = 80
    sigma_max: float = 80.0
    sigma_min: float = 0.002
    start: float = 0.05
    end: float = 0.05
    updates: int = 2
    scale: float = 2.0
    ratio: float = 0.0
    precedence: Literal["code", "corrected"] = "code"
    ode_steps: int = 20
    ode_every: int = 4
    localisation: Literal["none", "correlation"] = "none"
    inflation: float = 0.0

    def __post_init__(self) -> None:
        if self.particles < 2 or min(self.batch, self.updates, self.ode_steps, self.ode_every) < 1 or self.steps < 2:
            raise ConfigError("enkg needs particles, steps >= 2 and batch, updates, ode_steps, ode_every >= 1")
        shares = all(0 <= share <= 1 for share in (self.start, self.end, self.inflation))
        if not (shares and self.scale >= 0 and self.ratio <= 1):
            raise ConfigError("enkg needs start, end and inflation in 0..1, scale >= 0 and ratio <= 1")
        self._levels()

    def _levels(self) -> tuple[list[float], list[list[float]]]:
        """Return the noise levels, the last 0, and those of the ODE at each: none outside of the window."""
        levels = schedules.poly_rho(self.steps, self.sigma_min, self.sigma_max).tolist()
        grids: list[list[float]] = [[] for _ in range(self.steps)]
        for i in range(self.steps):
            if self.start * self.steps < i < self.steps - int(self.end * self.steps):
                most = min(1 + (self.steps - i) // self.ode_every, self.ode_steps)
                grids[i] = ode_levels("legacy", most, self.sigma_min, levels[i])
        return levels, grids

    def _weight(self, i: int) -> float:
        ratio, floor = max(self.ratio, 0.0), 1 if self.precedence == "code" else self.scale
        return self.scale * ((1 - ratio) * (self.steps - i) / self.steps if ratio else 1) + ratio * floor

    @property
    def network_calls(self) -> int:
        return self.steps + self.updates * sum(max(len(grid) - 1, 0) for grid in self._levels()[1])

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
        """Return the members of one ensemble; an ODE and an A for each member and update, and a network evaluation."""
        if prior is None:
            raise ConfigError("method 'enkg' needs a prior", "name one with --prior")
        require_ensemble("enkg", problem, shape)
        problem, shape, decode = in_latents(prior, problem, shape)
        (levels, grids), y, count = self._levels(), measured_data(problem), problem.operator.measured()
        x = first_state("edm", levels[0], problem, x_init, noise, shape)
        beside, guard = levels_like(levels, x), FiniteGuard(x)
        inner = levels_like([s for grid in grids for s in grid], x).split([len(grid) for grid in grids])
        stats = Stats(ensemble=(ensemble := EnsembleStats()))
        for i, (sigma_t, sigma_s) in enumerate(pairwise(levels)):
            for _ in range(self.updates if grids[i] else 0):
                ode = partial(integrate, prior, sigmas=grids[i], integrator="euler", levels=inner[i])
                images = in_parts(ode, x, self.batch)
                outputs = in_parts(problem.operator.forward, images, self.batch)
                x = self._guided(x, errors(problem.likelihood, outputs, y), outputs, self._weight(i))
                stats.nfe, stats.operator_calls = stats.nfe + len(grids[i]) - 1, stats.operator_calls + 1
            if grids[i]:
                stats.residuals.append(problem.likelihood.residual(outputs, problem.y, count))
            x0 = denoised(prior, x, beside[i], self.batch)
            x = x + (x - x0) * ((sigma_s - sigma_t) / sigma_t)
            stats.nfe += 1
            ensemble.spreads.append(spread(x0))
            guard.keep(x0, stats.residuals[-1] if grids[i] else None)
            on_step(Step(i, self.steps, sigma_s, decode(x0)))
            if guard.diverged(i):
                break
        return Result(in_parts(decode, guard.last, self.batch), Status.DIVERGED if guard.broken() else Status.OK, stats)

    def _guided(self, x: Tensor, error: Tensor, outputs: Tensor, weight: float) -> Tensor:
        gain = weights(error, outputs)
        change = applied(gain, x)
        if self.localisation == "correlation" and len(x) > 2:
            change = shrunk(change, gain, x)
        moved = x - change * (weight / torch.linalg.matrix_norm(gain).clamp_min(torch.finfo(gain.dtype).tiny))
        return moved if self.inflation == 0 else inflated(moved, x, self.inflation)
