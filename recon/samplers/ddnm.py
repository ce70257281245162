"""DDNM: denoising diffusion null-space model, the measured part of the denoised image replaced by the data's.

    plain      x0' = x0hat + A^+ (y - A x0hat),            x_s = x0' + sigma_s (sqrt(1 - eta^2) eps + eta z)
    spectral   DDNM+: plain in each singular direction whose data are less noisy than the level, damped in the others,
               with the noise that is then missing: the step of `recon.samplers.spectral` with eta_b = 1
    scalar     DDNM+ where there is no SVD, with one gain g, the root mean square of A^+ n for unit noise n:
               x0' = x0hat + lambda A^+ (y - A x0hat),     lambda = min(1, sigma_s/(g sigma_y))
               x_s = x0' + gamma (sqrt(1 - eta^2) eps + eta z),   gamma^2 = sigma_s^2 - (lambda g sigma_y)^2

    travel     at every travel_length-th level but the last, travel_repeat - 1 times: back up by travel_length levels,
               x = x0hat + sigma z, and down again (RePaint's schedule)

Source: Wang, Yu, Zhang 2023 (DDNM), algorithms 1 to 4, eqs. 17 to 19 and 45 to 51, the authors' code, svd_ddnm.py for
"plain" and "spectral". Departures: "scalar" measures g (the paper: 1, for A^+ with A A^+ = I and pixels), and its noise
adds to sigma_s^2 (the code multiplies gamma by sigma_s, and mixes ab with sqrt(ab)); going back takes one draw of noise
for all its levels; `cutoff` is relative to the largest singular value (the code: absolute, by operator).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.operators.base import LinearOperator
from recon.priors.base import Denoiser
from recon.samplers.base import Method, NoiseSource, OnStep, Result, Stats, Status, Step, ignore_step
from recon.samplers.gradient import require_linear
from recon.samplers.guard import FiniteGuard
from recon.samplers.projection import measured_subspace, rms_gain
from recon.samplers.renoise import ddim_b
from recon.samplers.spectral import gaussian_sigma, spectral_data, truncated_pinv
from recon.samplers.start import first_state, levels_like


@final
@dataclass(frozen=True)
class DDNM(Method):
    """Denoising diffusion null-space model, with DDNM+ for noisy data.

    steps: noise levels.  grid: name in `recon.schedules.GRIDS`.  eta: share of fresh noise, 0 to 1.
    form: see the top of the file; "auto" is "plain" for exact data, else "spectral" where there is an SVD, or "scalar".
    travel_length, travel_repeat: of time travel; a repeat of 1 is none.
    cutoff: singular values below this share of the largest count as unmeasured; no other A^+ is cut off.
    inverse: A^+: "pinv", the operator's (filtered backprojection, which is none, may diverge), "cg" by `iterations` of
        conjugate gradients, or "auto": its own where it has one.
    """

    cfg_plus_plus: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"linear", "adjoint"})
    citation: ClassVar[str] = (
        "@inproceedings{wang2023ddnm, title={Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model}, "
        "author={Wang, Yinhuai and Yu, Jiwen and Zhang, Jian}, booktitle={ICLR}, year={2023}}"
    )

    steps: int = 100
    grid: str = "vp"
    eta: float = 0.85
    form: Literal["auto", "plain", "spectral", "scalar"] = "auto"
    travel_length: int = 1
    travel_repeat: int = 1
    cutoff: float = 0.03
    inverse: Literal["auto", "pinv", "cg"] = "auto"
    iterations: int = 10

    def __post_init__(self) -> None:
        if min(self.steps, self.travel_length, self.travel_repeat, self.iterations) < 1:
            raise ConfigError("ddnm needs steps, travel_length, travel_repeat and iterations of at least 1")
        if not (0 <= self.eta <= 1 and 0 <= self.cutoff < 1):
            raise ConfigError(f"ddnm needs 0 <= eta <= 1 and 0 <= cutoff < 1, got {self.eta} and {self.cutoff}")
        schedules.grid(self.grid, self.steps)

    @property
    def network_calls(self) -> int:
        return sum(s > t for t, s in pairwise(self._path(len(schedules.grid(self.grid, self.steps)) - 1)))

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
        """Return posterior samples; one network evaluation, one A and (but "spectral") one A^+ per step down."""
        if prior is None:
            raise ConfigError("method 'ddnm' needs a prior", "name one with --prior")
        operator, sigma_y, y = require_linear("ddnm", problem), gaussian_sigma("ddnm", problem), problem.y
        best = "plain" if sigma_y == 0 else "spectral" if operator.has_svd() else "scalar"
        form = best if self.form == "auto" else self.form
        data = spectral_data("ddnm", problem, self.cutoff) if form == "spectral" else None
        sigmas = schedules.grid(self.grid, self.steps).tolist()
        x = first_state(self.grid, sigmas[0], problem, x_init, noise, shape)
        own, calls = self._inverse(operator, x)
        reach = sigma_y * rms_gain(own, operator, x) if form == "scalar" else 0.0
        levels, guard, stats, count = levels_like(sigmas, x), FiniteGuard(x), Stats(), operator.measured()
        total, x0 = self.network_calls, x
        for t, s in pairwise(self._path(len(sigmas) - 1)):
            fresh = noise.normal(x.shape, x.dtype) if sigmas[s] > 0 else None
            if s < t and fresh is not None:
                x = x0.add(fresh, alpha=sigmas[s])
                continue
            seen = prior(x, levels[t])
            x0, eps = seen.x0, seen.eps(x, sigmas[t])
            z = operator.forward(x0)
            stats.residuals.append(problem.likelihood.residual(z, y, count))
            if data is not None:
                x = data.step(x0, eps, fresh, sigmas[s], self.eta, 1.0)
            else:
                share = 1.0 if reach <= sigmas[s] else sigmas[s] / reach
                left = max(sigmas[s] ** 2 - (share * reach) ** 2, 0.0) ** 0.5
                x = ddim_b(x0.add(own(y - z), alpha=share), eps, sigmas[t], left, self.eta, fresh)
            extra = calls if data is None else 0
            stats.nfe, stats.operator_calls = stats.nfe + 1, stats.operator_calls + 1 + extra
            guard.keep(x if sigmas[s] == 0 else x0, stats.residuals[-1])
            on_step(Step(stats.nfe - 1, total, sigmas[s], x0))
            if guard.diverged(stats.nfe - 1):
                break
        return Result(guard.last, Status.DIVERGED if guard.broken() else Status.OK, stats)

    def _inverse(self, operator: LinearOperator, like: Tensor) -> tuple[Callable[[Tensor], Tensor], int]:
        """Return A^+ and the calls of A and A^H in it."""
        if self.inverse == "cg" or (self.inverse == "auto" and not operator.has_pinv()):
            by_cg = measured_subspace(operator, "cg", self.iterations, like)
            return by_cg.back, by_cg.calls
        own = truncated_pinv(operator, self.cutoff)
        if own is None:
            raise ConfigError(f"{operator!r} has no pseudo-inverse", "use method.inverse=cg")
        return own, 1

    def _path(self, count: int) -> list[int]:
        """Return the indices of the levels in the order of their visit, from 0 to `count`, the index of sigma = 0."""
        length, path = self.travel_length, []
        for left in reversed(range(count)):  # levels that remain above 0
            at = count - 1 - left
            path.append(at)
            if left % length == 0 and left < count - length:
                path += (self.travel_repeat - 1) * [at - length, *range(at - length + 1, at + 1)]
        return [*path, count]
