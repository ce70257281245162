"""From noise to an image: integrators of the probability-flow ODE and of the reverse diffusion.

    ODE   dx = eps dsigma,                                  eps = (x - D(x, sigma))/sigma
    SDE   dx = 2 eps dsigma + sqrt(2 sigma |dsigma|) z      (its law given the first state is p(x_s | x_t))

With x0 = D(x, t), eps at level t, and the next level s < t:

    euler        x_s = x + (s - t) eps_t
    heun         x_s = x + (s - t) (eps_t + eps_s)/2,  eps_s at the Euler point; Euler where s = 0
    dpm++2m      x_s = (s/t) x + (1 - s/t) x0+,  x0+ = x0 + h/(2 h') (x0 - x0'),  h = ln(t/s); primes: the step before
                 (x0+ = x0 in the first step and where s = 0)
    dpm++2m-sde  x_s = (s/t)^2 x + (1 - (s/t)^2) x0+ + s sqrt(1 - (s/t)^2) z
    ancestral    the same with x0+ = x0: p(x_s | x_t, x0), DDIM-A with eta = 1
    sde          x_s = x + 2 (s - t) eps_t + sqrt(2 t (t - s)) z
    pc           Langevin corrector at t, x += e score + sqrt(2 e) z, e = 2 (snr ||z||/||score||)^2, then the predictor
                 x_s = x + (t^2 - s^2) score + sqrt(t^2 - s^2) z,  score = -eps/sigma
    churn        noise up to t' = (1 + g) t, g = min(churn/steps, sqrt 2 - 1), then Heun from t' to s

A step to sigma = 0 adds no noise and returns D.
CFG++ (a prior that gives D_0 beside the guided D): "euler" and "ancestral" with eps = (x - D_0)/sigma; "dpm++2m" with
(s/t) (D - D_0) more, x0' then being D_0 of the step before. The others refuse such priors.
Given the state at a level, "ancestral", "sde" (order 1) and "dpm++2m-sde" (order 2) draw the image's posterior as steps
shrink; "churn" and "pc" keep only the marginals; the ODE's endpoint is one point.
Sources: Karras et al. 2022, algorithms 1 and 2; Lu et al. 2022, DPM-Solver++ algorithm 2 and its appendix on SDEs; Song
et al. 2021, algorithms 2 to 4; Chung et al. 2025 (CFG++) and the authors' code. Departure: the corrector's norms are
per sample (the code: means over the batch).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.priors.base import Denoiser, Prediction
from recon.samplers.base import NoiseSource, OnStep, Step, ignore_step
from recon.samplers.renoise import ddim_a, langevin_corrector, reverse_diffusion
from recon.samplers.renoise import euler as sde_step
from recon.samplers.start import levels_like


@final
@dataclass(frozen=True)
class Options:
    """Settings of the stochastic integrators.

    snr, corrections: of "pc", per level.  churn, churn_noise, churn_range: S_churn, S_noise and (S_tmin, S_tmax) of
    "churn"; the defaults are Karras et al.'s for ImageNet.
    """

    snr: float = 0.16
    corrections: int = 1
    churn: float = 40.0
    churn_noise: float = 1.003
    churn_range: tuple[float, float] = (0.05, 50.0)


@final
@dataclass(frozen=True)
class Walk:
    """What every integrator is given: the denoiser, the levels as numbers and as a tensor, a source of noise."""

    prior: Denoiser
    sigmas: Sequence[float]
    levels: Tensor
    noise: NoiseSource | None
    options: Options
    cond: Tensor | None = None

    def see(self, x: Tensor, level: Tensor) -> Prediction:
        """Return the prediction at x and this level."""
        return self.prior(x, level, self.cond)

    def denoise(self, x: Tensor, level: Tensor) -> Tensor:
        """Return D(x, level), for integrators that know no CFG++."""
        seen = self.see(x, level)
        if seen.x0_uncond is not None:
            raise ConfigError("this integrator has no CFG++ form", "use euler, dpm++2m or ancestral, or guidance 'cfg'")
        return seen.x0

    def normal(self, x: Tensor) -> Tensor:
        """Return noise like x."""
        if self.noise is None:
            raise ConfigError("a stochastic integrator needs a source of noise")
        return self.noise.normal(x.shape, x.dtype)


Path = Iterator[tuple[Tensor, Tensor]]  # after each step: the state, and the x0 that the step was made with


def _euler(walk: Walk, x: Tensor) -> Path:
    for i, (t, s) in enumerate(pairwise(walk.sigmas)):
        seen = walk.see(x, walk.levels[i])
        x = seen.x0 + seen.eps(x, t) * s
        yield x, seen.x0


def _heun(walk: Walk, x: Tensor) -> Path:
    for i, (t, s) in enumerate(pairwise(walk.sigmas)):
        x0 = walk.denoise(x, walk.levels[i])
        x = _heun_step(walk, x, x0, t, s, i + 1)
        yield x, x0


def _heun_step(walk: Walk, x: Tensor, x0: Tensor, t: float, s: float, target: int) -> Tensor:
    """Return the state at levels[target] = s from x at level t with its x0."""
    eps = (x - x0) / t
    there = x + eps * (s - t)
    if s == 0:
        return there
    return x + (eps + (there - walk.denoise(there, walk.levels[target])) / s) * ((s - t) / 2)


def _dpm_2m(walk: Walk, x: Tensor) -> Path:
    guess = _Extrapolation()
    for i, (t, s) in enumerate(pairwise(walk.sigmas)):
        seen = walk.see(x, walk.levels[i])
        x0, uncond = seen.x0, seen.x0_uncond
        x = x * (s / t) + guess.take(x0, t, s, uncond) * (1 - s / t)
        x = x if uncond is None else x.add(x0 - uncond, alpha=s / t)
        yield x, x0


def _dpm_2m_sde(walk: Walk, x: Tensor) -> Path:
    guess = _Extrapolation()
    for i, (t, s) in enumerate(pairwise(walk.sigmas)):
        x0 = walk.denoise(x, walk.levels[i])
        x = x * (s / t) ** 2 + guess.take(x0, t, s) * (1 - (s / t) ** 2)
        if s > 0:
            x = x.add(walk.normal(x), alpha=s * math.sqrt(1 - (s / t) ** 2))
        yield x, x0


@final
class _Extrapolation:
    """The second-order estimate of x0 over a step, from this evaluation and the one before."""

    def __init__(self) -> None:
        self.before: Tensor | None = None
        self.step_before = 0.0

    def take(self, x0: Tensor, t: float, s: float, kept: Tensor | None = None) -> Tensor:
        """Return x0 + h/(2 h') (x0 - x0') for the step from t to s; x0 in the first step and where s = 0.

        kept: what becomes x0' of the next step, in place of x0.
        """
        if s == 0:
            return x0
        step, before = math.log(t / s), self.before
        guess = x0 if before is None else x0 + (x0 - before) * (step / (2 * self.step_before))
        self.before, self.step_before = x0 if kept is None else kept, step
        return guess


def _ancestral(walk: Walk, x: Tensor) -> Path:
    for i, (t, s) in enumerate(pairwise(walk.sigmas)):
        seen = walk.see(x, walk.levels[i])
        x = ddim_a(seen.x0, seen.eps(x, t), t, s, 1.0, walk.normal(x) if s > 0 else None)
        yield x, seen.x0


def _sde(walk: Walk, x: Tensor) -> Path:
    for i, (t, s) in enumerate(pairwise(walk.sigmas)):
        x0 = walk.denoise(x, walk.levels[i])
        x = sde_step(x0, (x - x0) / t, t, s, walk.normal(x) if s > 0 else None, vp_scaled=False)
        yield x, x0


def _predictor_corrector(walk: Walk, x: Tensor) -> Path:
    for i, (t, s) in enumerate(pairwise(walk.sigmas)):
        for _ in range(walk.options.corrections):
            x0 = walk.denoise(x, walk.levels[i])
            x = langevin_corrector(x0, (x - x0) / t, t, walk.options.snr, walk.normal(x))
        x0 = walk.denoise(x, walk.levels[i])
        x = reverse_diffusion(x0, (x - x0) / t, t, s, walk.normal(x) if s > 0 else None)
        yield x, x0


def _churn(walk: Walk, x: Tensor) -> Path:
    options, count = walk.options, len(walk.sigmas) - 1
    lowest, highest = options.churn_range
    most = min(options.churn / max(count, 1), math.sqrt(2) - 1)
    for i, (t, s) in enumerate(pairwise(walk.sigmas)):
        growth = 1 + (most if lowest <= t <= highest else 0.0)
        if growth > 1:
            x = x.add(walk.normal(x), alpha=options.churn_noise * t * math.sqrt(growth**2 - 1))
        x0 = walk.denoise(x, walk.levels[i] * growth)
        x = _heun_step(walk, x, x0, t * growth, s, i + 1)
        yield x, x0


INTEGRATORS: dict[str, Callable[[Walk, Tensor], Path]] = {
    "euler": _euler,
    "heun": _heun,
    "dpm++2m": _dpm_2m,
    "dpm++2m-sde": _dpm_2m_sde,
    "ancestral": _ancestral,
    "sde": _sde,
    "pc": _predictor_corrector,
    "churn": _churn,
}


def evaluations(integrator: str, sigmas: Sequence[float], options: Options | None = None) -> int:
    """Return how many network evaluations per sample `integrate` takes over these levels."""
    _known(integrator)
    steps = len(sigmas) - 1
    if integrator in ("heun", "churn"):
        return 2 * steps - (1 if steps > 0 and sigmas[-1] == 0 else 0)
    return steps * (1 + (options or Options()).corrections) if integrator == "pc" else steps


def path(
    prior: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    integrator: str = "heun",
    noise: NoiseSource | None = None,
    options: Options | None = None,
    levels: Tensor | None = None,
    cond: Tensor | None = None,
) -> Path:
    """Yield, after each step down the levels, the state and the x0 that the step was made with.

    Arguments as of `integrate`. Call it without gradients (`torch.no_grad`).
    """
    _known(integrator)
    numbers = [float(s) for s in sigmas]
    if len(numbers) < 2 or any(s >= t for t, s in pairwise(numbers)) or numbers[-1] < 0:
        raise ConfigError(f"an integrator needs two or more decreasing noise levels >= 0, got {len(numbers)}")
    levels = levels_like(numbers, x) if levels is None else levels
    return INTEGRATORS[integrator](Walk(prior, numbers, levels, noise, options or Options(), cond), x)


@torch.no_grad()
def integrate(
    prior: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    integrator: str = "heun",
    noise: NoiseSource | None = None,
    options: Options | None = None,
    levels: Tensor | None = None,
    cond: Tensor | None = None,
) -> Tensor:
    """Return the state at sigmas[-1] of the path that starts at x, at sigmas[0].

    x: (B, C, [Z,] Y, X).  sigmas: two or more decreasing numbers, the last may be 0.  integrator: in `INTEGRATORS`.
    noise: for the stochastic ones.  levels: `sigmas` as a tensor on x's device, where the caller has it.
    Raises ConfigError on an unknown name, levels that do not decrease, or noise that is missing.
    """
    for state, _ in path(prior, x, sigmas, integrator, noise, options, levels, cond):
        x = state
    return x


@torch.no_grad()
def sample_prior(
    prior: Denoiser,
    shape: tuple[int, ...],
    sigmas: Sequence[float],
    integrator: str,
    noise: NoiseSource,
    dtype: torch.dtype = torch.float32,
    options: Options | None = None,
    cond: Tensor | None = None,
    on_step: OnStep = ignore_step,
) -> Tensor:
    """Return unconditional samples (B, C, [Z,] Y, X) of a prior, from noise of standard deviation sigmas[0].

    shape: (B, C, [Z,] Y, X).  sigmas: a grid such as those of `recon.schedules`, ending at 0.  dtype: complex for
    priors of complex images.  Raises ConfigError as `integrate` does.
    """
    x = float(sigmas[0]) * noise.normal(shape, dtype)
    states = path(prior, x, sigmas, integrator, noise, options, cond=cond)
    for i, (state, x0) in enumerate(states):
        x = state
        on_step(Step(i, len(sigmas) - 1, float(sigmas[i + 1]), x0))
    return x


def _known(integrator: str) -> None:
    if integrator not in INTEGRATORS:
        raise ConfigError(f"unknown integrator '{integrator}'", f"choose from: {', '.join(INTEGRATORS)}")
