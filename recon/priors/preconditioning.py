"""Published ways to make a denoiser of a network F: the coefficients of each.

    D(x, s) = c_skip x + c_out F(c_in x; c_noise)

    kind        c_skip           c_out               c_in              c_noise
    edm         sd^2/(s^2+sd^2)  s sd/sqrt(s^2+sd^2) 1/sqrt(s^2+sd^2)  ln(s)/4
    vp          1                -s                  1/sqrt(s^2+1)     (M-1) t,  s^2+1 = exp(beta_d t^2/2 + beta_min t)
    ve          1                s                   1                 ln(s/2)
    vp-table    1                -s                  1/sqrt(s^2+1)     t, interpolated in ln s on a table of levels s_t
    iddpm       1                -s                  1/sqrt(s^2+1)     M-1 - (index of the level nearest to s)
    score-ve    1                s^2                 1                 s        (F is the score: Tweedie's formula)
    flow        1/(1+s)          -s/(1+s)            1/(1+s)           t = s/(1+s): x_t = (1-t) x0 + t n, F = n - x0
    direct      0                1                   1                 s        (F is the denoised image)

Source: Karras et al. 2022 (EDM), table 1; Song et al. 2021 (score SDE) for score-ve; Lipman et al. 2023 and Liu et al.
2023 for flow: D = x_t - t v. Departure from the authors' code: iDDPM's nearest level is exact, where they take it from
a distance matrix in float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.schedules import (
    sigma_from_alpha_bar,
    vp_alpha_bars,
    vp_cosine_alpha_bars,
    vp_scaled_linear_alpha_bars,
)

SCHEDULES = ("linear", "scaled-linear", "cosine")
PREDICTIONS = ("epsilon", "sample", "v")


@dataclass(frozen=True)
class Coefficients:
    """c_skip, c_out, c_in and c_noise, each (B,) or a number."""

    skip: Tensor | float
    out: Tensor
    inside: Tensor | float
    noise: Tensor


@dataclass(frozen=True)
class Preconditioning(ABC):
    """Abstract preconditioning; its fields are JSON-able."""

    kind: ClassVar[str]
    # whether further channels of F are the learned variance, as fraction v in [-1, 1] between its bounds
    learned_variance: ClassVar[bool] = False
    # whether D(x, s) above sigma_max is that of an image of less contrast, scaled back
    scales_back: ClassVar[bool] = False

    @abstractmethod
    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return the coefficients at levels sigma (B,), in their dtype: float32 as the networks were trained with."""


@final
@dataclass(frozen=True)
class EDM(Preconditioning):
    """Karras et al. 2022; sigma_data: standard deviation of the images."""

    kind: ClassVar[str] = "edm"
    sigma_data: float = 0.5

    def coefficients(self, sigma: Tensor) -> Coefficients:
        total = sigma**2 + self.sigma_data**2
        root = total.sqrt()
        return Coefficients(self.sigma_data**2 / total, sigma * self.sigma_data / root, 1 / root, sigma.log() / 4)


@final
@dataclass(frozen=True)
class VP(Preconditioning):
    """Variance preserving, F = eps; beta_d, beta_min: of the schedule on t in [0, 1]; steps: M."""

    kind: ClassVar[str] = "vp"
    beta_d: float = 19.9
    beta_min: float = 0.1
    steps: int = 1000

    def coefficients(self, sigma: Tensor) -> Coefficients:
        square = sigma**2 + 1
        t = ((self.beta_min**2 + 2 * self.beta_d * square.log()).sqrt() - self.beta_min) / self.beta_d
        return Coefficients(1.0, -sigma, 1 / square.sqrt(), (self.steps - 1) * t)

    def sigma(self, t: float) -> float:
        """Return the noise level at time t in [0, 1]."""
        exponent = torch.tensor(0.5 * self.beta_d * t**2 + self.beta_min * t, dtype=torch.float64)
        return float(torch.expm1(exponent).sqrt())

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest noise level, at times 1e-5 and 1."""
        return self.sigma(1e-5), self.sigma(1.0)


@final
@dataclass(frozen=True)
class VPTable(Preconditioning):
    """Variance preserving on a table of `count` discrete levels, of guided diffusion and diffusers.

    schedule: of the betas: "linear" from beta_min to beta_max, "scaled-linear" (their square roots are linear), or
    "cosine" (Nichol and Dhariwal 2021, eq. 17).  prediction: what F is: "epsilon", "sample" (the image) or "v"
    (Salimans and Ho 2022, appendix D).
    Levels below the table take time 0; those of the table its whole numbers, exactly.
    """

    kind: ClassVar[str] = "vp-table"
    learned_variance: ClassVar[bool] = True
    schedule: str = "linear"
    count: int = 1000
    beta_min: float = 1e-4
    beta_max: float = 0.02
    prediction: str = "epsilon"

    def __post_init__(self) -> None:
        rising = 0 < self.beta_min < self.beta_max < 1
        if self.schedule not in SCHEDULES or not 2 <= self.count <= 10**6 or not rising:
            raise ConfigError(
                f"no table of {self.count} levels of schedule '{self.schedule}'", f"choose from: {', '.join(SCHEDULES)}"
            )
        if self.prediction not in PREDICTIONS:
            raise ConfigError(f"unknown prediction '{self.prediction}'", f"choose from: {', '.join(PREDICTIONS)}")

    def coefficients(self, sigma: Tensor) -> Coefficients:
        table = torch.from_numpy(self.log_sigmas).to(sigma.device)
        level = sigma.double().log()
        above = torch.searchsorted(table, level).clamp(1, self.count - 1)
        part = (level - table[above - 1]) / (table[above] - table[above - 1])
        time = (above - 1 + part).clamp(0, self.count - 1)
        # levels come in float32: those of the table are met to 2e-5 of a step only
        whole = time.round()
        time = torch.where((time - whole).abs() < 1e-4, whole, time).to(sigma.dtype)
        root = (sigma**2 + 1).sqrt()
        if self.prediction == "epsilon":
            return Coefficients(1.0, -sigma, 1 / root, time)
        if self.prediction == "sample":
            return Coefficients(0.0, torch.ones_like(sigma), 1 / root, time)
        return Coefficients(1 / root**2, -sigma / root, 1 / root, time)

    @property
    def alpha_bars(self) -> np.ndarray:
        """alpha-bar_t, t = 0..count-1."""
        if self.schedule == "cosine":
            return vp_cosine_alpha_bars(self.count)
        scale = vp_alpha_bars if self.schedule == "linear" else vp_scaled_linear_alpha_bars
        return scale(self.count, self.beta_min, self.beta_max)

    @cached_property
    def log_sigmas(self) -> np.ndarray:
        """ln sigma_t, rising."""
        return np.log(sigma_from_alpha_bar(self.alpha_bars))

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest noise level of the table."""
        table = np.exp(self.log_sigmas)
        return float(table[0]), float(table[-1])


@final
@dataclass(frozen=True)
class VE(Preconditioning):
    """Variance exploding, as in EDM's own checkpoints; F = sigma times the score."""

    kind: ClassVar[str] = "ve"

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return Coefficients(1.0, sigma, 1.0, (0.5 * sigma).log())


@final
@dataclass(frozen=True)
class IDDPM(Preconditioning):
    """Improved DDPM, F = eps on a list of levels: u_0 = sigma_max, ..., u_M = 0."""

    kind: ClassVar[str] = "iddpm"
    levels: tuple[float, ...]

    def coefficients(self, sigma: Tensor) -> Coefficients:
        table = torch.tensor(self.levels, dtype=sigma.dtype, device=sigma.device)
        nearest = (sigma[:, None] - table).abs().argmin(dim=1)
        return Coefficients(1.0, -sigma, 1 / (sigma**2 + 1).sqrt(), (len(self.levels) - 2 - nearest).to(sigma.dtype))


@final
@dataclass(frozen=True)
class ScoreVE(Preconditioning):
    """Variance exploding, as in score_sde checkpoints: F is the score and takes sigma itself."""

    kind: ClassVar[str] = "score-ve"

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return Coefficients(1.0, sigma**2, 1.0, sigma)


@final
@dataclass(frozen=True)
class Flow(Preconditioning):
    """Flow matching and rectified flow on straight paths x_t = (1 - t) x0 + t n, F = v = dx_t/dt.

    scale: of the time that F takes, scale t.  to_data: whether F's time and velocity run from noise to data: it takes
    scale (1 - t), and is x0 - n.  Networks trained with noise coupled to the data (optimal transport) are denoisers
    only as far as that coupling is weak.
    """

    kind: ClassVar[str] = "flow"
    scale: float = 1000.0
    to_data: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.scale, int | float) or not self.scale > 0 or not isinstance(self.to_data, bool):
            raise ConfigError(f"no flow of scale {self.scale!r} and to_data {self.to_data!r}", "give 1000 and false")

    def coefficients(self, sigma: Tensor) -> Coefficients:
        kept = 1 / (1 + sigma)
        t = sigma * kept
        return Coefficients(kept, t if self.to_data else -t, kept, self.scale * (kept if self.to_data else t))

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest noise level, at times 0.001 and 0.999."""
        return 1 / 999, 999.0


@final
@dataclass(frozen=True)
class Direct(Preconditioning):
    """A Gaussian denoiser that takes the noise level, such as FFDNet: F = D."""

    kind: ClassVar[str] = "direct"
    scales_back: ClassVar[bool] = True

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return Coefficients(0.0, torch.ones_like(sigma), 1.0, sigma)


KINDS: dict[str, type[Preconditioning]] = {c.kind: c for c in (EDM, VP, VPTable, VE, IDDPM, ScoreVE, Flow, Direct)}
