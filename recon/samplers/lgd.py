"""LGD: loss-guided diffusion, the data's loss averaged over Monte-Carlo images around the denoised one.

    x0_i = x0hat + r z_i, i = 1..n,   r = sigma/sqrt(1 + sigma^2),   x0hat = D(x, sigma),   L_i = -log p(y | x0_i)
    form "log-mean-exp"   D_y = x0hat + zeta sigma^2 grad_x log(1/n sum_i exp(-L_i)),   x_s = step(x, D_y)
    form "norm"           x_s = step(x, x0hat) - zeta/sqrt(ab_s ab_t) grad_x (1/n) sqrt(sum_i ||y - A(x0_i)||^2)

    step  Euler(-Maruyama), in VP coordinates on VP grids (see renoise.py)         ab = 1/(1 + sigma^2)

"log-mean-exp" is the paper's LGD-MC, an estimate of grad log p(y | x) under p(x0 | x) ~ N(x0hat, r^2 I): with zeta = 1
and n to infinity the posterior for a prior N(0, I). In many dimensions one image holds all of the weight, and its
misfit is r against sigma_y: data of little noise need a small zeta, or the run diverges. "norm" is InverseBench's code:
the mean of the gradients of the squared residuals, over twice the root of the residuals' sum.

Source: Song et al. 2023 (LGD); Zheng et al. 2025 (InverseBench). Departures: norms and sums are per sample; the last
step goes to sigma = 0 (InverseBench: 0.01).
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


@final
@dataclass(frozen=True)
class LGD(Method):
    """Loss-guided diffusion with Monte-Carlo samples.

    steps: noise levels.  grid: name in `recon.schedules.GRIDS`.  draws: n, Monte-Carlo images per sample and step.
    form: "norm" of all misfits (InverseBench), or "log-mean-exp" of the likelihoods (the paper).
    zeta: weight of the guidance; None is 3e-3 (InverseBench) for "norm" and 1 for "log-mean-exp".
    stochastic_steps: Euler-Maruyama steps of the reverse diffusion; False takes the probability-flow ODE.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"forward", "gradient"})
    through_prior: ClassVar[bool] = True
    citation: ClassVar[str] = (
        "@inproceedings{song2023lgd, title={Loss-Guided Diffusion Models for Plug-and-Play Controllable Generation}, "
        "author={Song, Jiaming and Zhang, Qinsheng and Yin, Hongxu and Mardani, Morteza and Liu, Ming-Yu and Kautz, "
        "Jan and Chen, Yongxin and Vahdat, Arash}, booktitle={ICML}, year={2023}}"
    )

    steps: int = 1000
    grid: str = "vp-continuous"
    draws: int = 3
    form: Literal["norm", "log-mean-exp"] = "norm"
    zeta: float | None = None
    stochastic_steps: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.draws < 1:
            raise ConfigError(f"lgd needs steps >= 1 and draws >= 1, got {self.steps} and {self.draws}")
        if self.zeta is not None and not self.zeta >= 0:
            raise ConfigError(f"lgd needs zeta >= 0, got {self.zeta}")
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
        """Return posterior samples; one network evaluation, one backward pass and `draws` of A per step."""
        if prior is None:
            raise ConfigError("method 'lgd' needs a prior", "name one with --prior")
        y, count = measured_data(problem), problem.operator.measured()
        repeated = y if y.shape[0] == 1 else y.repeat_interleave(self.draws, 0)
        zeta = self.zeta if self.zeta is not None else (3e-3 if self.form == "norm" else 1.0)
        sigmas = schedules.grid(self.grid, self.steps).tolist()
        x = first_state(self.grid, sigmas[0], problem, x_init, noise, shape)
        levels, guard, stats = levels_like(sigmas, x), FiniteGuard(x), Stats()
        for i, (sigma_t, sigma_s) in enumerate(pairwise(sigmas)):
            traced = trace(prior, x, levels[i])
            x0, spread = traced.x0, sigma_t / math.sqrt(1 + sigma_t**2)
            cloud = noise.normal((shape[0], self.draws, *shape[1:]), x.dtype)
            with torch.enable_grad():
                drawn = (traced.seen.x0[:, None] + spread * cloud).flatten(0, 1)
                z = problem.operator.forward(drawn)
                slope = traced.slope(self._loss(problem, z, repeated))
            seen = problem.likelihood.residual(z.detach(), repeated, count)
            stats.residuals.append(seen.reshape(-1, self.draws).square().mean(1).sqrt())
            if self.form == "log-mean-exp":
                x0 = x0.add(slope, alpha=-zeta * sigma_t**2)
            guard.keep(x0, stats.residuals[-1])
            fresh = noise.normal(x.shape, x.dtype) if sigma_s > 0 and self.stochastic_steps else None
            x = euler(x0, (x - x0) / sigma_t, sigma_t, sigma_s, fresh, is_vp(self.grid))
            if self.form == "norm":
                x.add_(slope, alpha=-zeta * math.sqrt((1 + sigma_s**2) * (1 + sigma_t**2)))
            stats.nfe, stats.backprops, stats.operator_calls = i + 1, i + 1, 2 * self.draws * (i + 1)
            on_step(Step(i, len(sigmas) - 1, sigma_s, x0))
            if guard.diverged(i):
                return Result(guard.last, Status.DIVERGED, stats)
        guard.keep(x)
        return Result(guard.last, Status.DIVERGED if guard.broken() else Status.OK, stats)

    def _loss(self, problem: Problem, z: Tensor, y: Tensor) -> Tensor:
        """Return what is differentiated, (B,), for z (B draws, *out_shape)."""
        if self.form == "norm":
            return per_item_norm((y - z).reshape(-1, self.draws, *z.shape[1:])) / self.draws
        losses = problem.likelihood.loss(z, y).reshape(-1, self.draws)
        return math.log(self.draws) - (-losses).logsumexp(1)
