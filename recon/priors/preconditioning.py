"""Published ways to make a denoiser of a network F: one Denoiser for all of them.

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
2023 for flow: D = x_t - t v. Departures from the authors' code: levels above sigma_max are evaluated at sigma_max on
the rescaled input (see `edm.py`); iDDPM's nearest level is exact, where the authors take it from a distance matrix in
float32; sizes are padded (see `padding.py`).

A direct denoiser's sigma_max lies far below the contrast of its images, so that x/s is no noise alone above it: there
D(x, s) = m + (F(m + a (x - m), sigma_max) - m)/a with a = sigma_max/s and m mid-grey, the noise at the level that F
knows on an image of less contrast. FFDNet, trained to 0.29, gives in the mean over three photographs 24.7 dB at
s = 0.5, 21.6 at 1, 18.5 at 2; 18.3, 14.1 and 12.6 without the division by a; 24.3, 15.6 and 5.7 at the level s itself.
"""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon.errors import ConfigError
from recon.priors.base import Denoiser, Prediction, PriorInfo, per_item
from recon.priors.padding import on_padded
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


@final
class PreconditionedDenoiser(Denoiser):
    """A published network F(x, c[, labels]) as a Denoiser.

    network: with `config`, a frozen dataclass.  kind: a key of `KINDS`; parameters: the fields of that class.
    cond of a call: classes, as indices (B,) or vectors (B, labels), where `config.labels` is not 0; None: no class.
    F may have more channels than x: the first are used, and where they are the learned variance the others give
    `variance_mix`.
    """

    def __init__(self, network: nn.Module, info: PriorInfo, kind: str, **parameters: Any) -> None:
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.info = info
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()}
        self.preconditioning = KINDS[kind](**fields)
        self.labels = int(getattr(network.config, "labels", 0))
        self.needs_class = self.labels > 0 and bool(getattr(network, "needs_class", False))

    @property
    def settings(self) -> dict[str, Any]:
        """The keywords that build this denoiser again from its network and info."""
        return {"kind": self.preconditioning.kind, **dataclasses.asdict(self.preconditioning)}

    def _denoise(self, x: Tensor, sigma: Tensor, cond: Tensor | None) -> Prediction:
        shrink = (self.info.sigma_max / sigma).clamp(max=1.0)
        level = sigma * shrink
        labels = None if cond is None else self._class_vectors(cond, x)

        def evaluate(inside: Tensor) -> Tensor:
            c = self.preconditioning.coefficients(level)
            arguments = () if labels is None else (labels,)
            out = self.network(_times(c.inside, inside), c.noise, *arguments)
            x0 = _times(c.skip, inside) + per_item(c.out, x) * out[:, :channels]
            return torch.cat([x0, (out[:, channels:] + 1) / 2], dim=1) if variance else x0

        channels = x.shape[1]
        variance = self.preconditioning.learned_variance and self.network.config.out_channels == 2 * channels
        scale = per_item(shrink, x)
        if self.preconditioning.scales_back:
            grey = sum(self.info.value_range) / 2
            found = on_padded(evaluate, grey + scale * (x - grey), self.info.multiple, self.info.name)
            return Prediction(grey + (found - grey) / scale)
        found = on_padded(evaluate, scale * x, self.info.multiple, self.info.name)
        return Prediction(found[:, :channels], found[:, channels:] if variance else None)

    def _class_vectors(self, cond: Tensor, x: Tensor) -> Tensor:
        if not self.labels:
            raise ConfigError(f"prior '{self.info.name}' takes no classes", "leave the conditioning out")
        if cond.ndim == 1 and not cond.is_floating_point():
            if not bool(((cond >= 0) & (cond < self.labels)).all()):
                raise ConfigError(f"prior '{self.info.name}' has classes 0 to {self.labels - 1}")
            return F.one_hot(cond.long(), self.labels).to(device=x.device, dtype=x.dtype)
        if cond.ndim != 2 or cond.shape[1] != self.labels:
            raise ConfigError(
                f"prior '{self.info.name}' expects class indices (B,) or class vectors (B, {self.labels}), "
                f"got {tuple(cond.shape)}"
            )
        return cond.to(device=x.device, dtype=x.dtype)

    def to(self, device: str | torch.device) -> PreconditionedDenoiser:
        moved = copy.copy(self)
        moved.network = self.network.to(device)
        return moved


def _times(c: Tensor | float, x: Tensor) -> Tensor:
    return per_item(c, x) * x if isinstance(c, Tensor) else x if c == 1.0 else c * x
