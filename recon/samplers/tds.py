"""TDS: the twisted diffusion sampler, particles that are weighted and resampled, exact as their number grows.

    lam_t(x) = -w_t L(A D(x, sigma_t))       the twist: ln p(y | x_t) as guessed from the denoised image;  w_0 = 1
    x_s ~ N(m + (sigma_t^2 - sigma_s^2) grad lam_t(x_t), v)       m = x0hat + (sigma_s/sigma_t)^2 (x_t - x0hat)
    ln W += ln N(x_s; m, v) - ln N(x_s; m + ..., v) + lam_s(x_s) - lam_t(x_t)
    resample systematically where 1/sum W^2 < threshold K;  at sigma_s = 0 from N(m, v), without the gradient

    L   -ln p(y | A x0)     x0hat  D(x_t, sigma_t)     r_t^2 = tau^2 sigma_t^2/(tau^2 + sigma_t^2)     tau  prior_std
    w_t 1/(1 + r_t^2/s_y^2) if `widen`, s_y the noise level (of A x0 | x_t too, for A A^H ~ 1); else 1
    v   sigma_s^2 (sigma_t^2 - sigma_s^2)/sigma_t^2  ("small")     + (1 - sigma_s^2/sigma_t^2)^2 r_t^2  ("matched")

The weights' target is p(y | x0) times the chain N(m, v) from noise, whatever the twist: with K to infinity the result
is that chain's posterior, and with steps to infinity the prior's. "matched" is exact at any number of steps for priors
N(., tau^2 I). One ensemble is one estimate: its members share ancestors.

Source: Wu et al. 2023 (TDS), algorithm 1, the authors' image code (type 6 of its variances; type 2 has tau = 1).
Departures: any operator and likelihood (the code inpaints exact data); no clamp of the twisted image; v is fixed (the
code's may be learned).
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
from recon.priors.base import Denoiser
from recon.samplers.base import EnsembleStats, NoiseSource, OnStep, Result, Stats, Status, Step, ignore_step
from recon.samplers.ensemble import EnsembleMethod, require_ensemble, spread
from recon.samplers.guard import FiniteGuard
from recon.samplers.particles import Particles, Twist
from recon.samplers.start import first_state, levels_like


@final
@dataclass(frozen=True)
class TDS(EnsembleMethod):
    """Twisted diffusion sampler.

    particles: K.  batch: particles that the network takes at once.  steps: noise levels.  grid: in `schedules.GRIDS`.
    threshold: 0..1, of the effective number's share of K.  widen, kernel, prior_std: w_t, v and tau, as above.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"forward", "gradient"})
    through_prior: ClassVar[bool] = True
    citation: ClassVar[str] = (
        "@inproceedings{wu2023tds, title={Practical and Asymptotically Exact Conditional Sampling in Diffusion "
        "Models}, author={Wu, Luhuan and Trippe, Brian L. and Naesseth, Christian A. and Blei, David M. and "
        "Cunningham, John P.}, booktitle={NeurIPS}, year={2023}}"
    )

    particles: int = 64
    batch: int = 64
    steps: int = 100
    grid: str = "vp"
    threshold: float = 0.5
    widen: bool = True
    kernel: Literal["small", "matched"] = "small"
    prior_std: float = 1.0

    def __post_init__(self) -> None:
        if self.particles < 2 or self.batch < 1 or self.steps < 1:
            raise ConfigError("tds needs particles >= 2, batch >= 1 and steps >= 1")
        if not 0 <= self.threshold <= 1 or not self.prior_std > 0:
            raise ConfigError(f"tds needs threshold in 0..1 and prior_std > 0, got {self.threshold}, {self.prior_std}")
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
        """Return equally weighted particles; one network evaluation, one backward pass and one A per step."""
        if prior is None:
            raise ConfigError("method 'tds' needs a prior", "name one with --prior")
        require_ensemble("tds", problem, shape)
        sigmas = schedules.grid(self.grid, self.steps).tolist()
        x = first_state(self.grid, sigmas[0], problem, x_init, noise, shape)
        levels, guard = levels_like(sigmas, x), FiniteGuard(x)
        twist, cloud = Twist(prior, problem, self.batch), Particles(shape[0], x.device, self.threshold, noise)
        stats = Stats(ensemble=(ensemble := EnsembleStats()))
        for i, (sigma_t, sigma_s) in enumerate(pairwise(sigmas)):
            seen = twist.at(x, levels[i], self._variance(sigma_t) if self.widen else 0.0)
            cloud.reweigh(seen.value)
            chosen = cloud.ancestors()
            x, x0, slope, residual = (v.index_select(0, chosen) for v in (x, seen.x0, seen.slope, seen.residual))
            shift = slope * (sigma_t**2 - sigma_s**2) if sigma_s > 0 else torch.zeros_like(x)
            variance = self._kernel_variance(sigma_t, sigma_s)
            z = noise.normal(x.shape, x.dtype)
            cloud.moved(shift, z, variance)
            x = x0 + (sigma_s / sigma_t) ** 2 * (x - x0) + shift + variance**0.5 * z
            guard.keep(x0, residual)
            ensemble.spreads.append(spread(x0))
            ensemble.effective.append(cloud.effective)
            stats.residuals.append(seen.residual)
            stats.nfe, stats.backprops, stats.operator_calls = i + 1, i + 1, 2 * (i + 1)
            on_step(Step(i, len(sigmas) - 1, sigma_s, x0))
            if guard.diverged(i):
                return Result(guard.last, Status.DIVERGED, stats)
        cloud.reweigh(twist.final(x))
        stats.operator_calls += 1
        guard.keep(x.index_select(0, cloud.drawn()))
        ensemble.spreads.append(spread(guard.last))
        ensemble.log_evidence = cloud.log_evidence
        sound = not guard.broken() and bool(cloud.log_evidence.isfinite())
        return Result(guard.last, Status.OK if sound else Status.DIVERGED, stats)

    def _variance(self, sigma: float) -> float:
        """Return r^2, the variance of an image given its noisy version."""
        return self.prior_std**2 * sigma**2 / (self.prior_std**2 + sigma**2)

    def _kernel_variance(self, sigma_t: float, sigma_s: float) -> float:
        share = (sigma_s / sigma_t) ** 2
        small = share * (sigma_t**2 - sigma_s**2)
        return small + ((1 - share) ** 2 * self._variance(sigma_t) if self.kernel == "matched" else 0.0)
