"""The Denoiser contract that every prior is adapted to once.

    D(x, sigma) = E[x0 | x0 + sigma n = x],   n ~ N(0, I)

All samplers work in this sigma-space; only the adapters in this package know VP/VE/EDM scaling and time indices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from recon.errors import ConfigError


@dataclass(frozen=True)
class Prediction:
    """What a denoiser returns.

    x0: posterior mean, same shape as x.
    variance_mix: learned-variance fraction in [0, 1], same shape, where the network has one (literal DPS/MCG use it).
    x0_uncond: the unconditional posterior mean, for guidance (CFG++).
    """

    x0: Tensor
    variance_mix: Tensor | None = None
    x0_uncond: Tensor | None = None

    def eps(self, x: Tensor, sigma: float) -> Tensor:
        """Return the noise (x - x0)/sigma that a step adds again, of the unconditional mean where there is one.

        x: what was denoised, at noise level sigma. Source: Chung et al. 2025 (CFG++), algorithm 2, for the latter.
        """
        return (x - (self.x0 if self.x0_uncond is None else self.x0_uncond)).div_(sigma)


@dataclass(frozen=True)
class PriorInfo:
    """What a prior declares about itself.

    channels: number of real channels.
    sizes: spatial sizes it accepts (None: any size; other sizes are padded to `multiple`).
    multiple: spatial sizes must divide by this; the adapter pads and crops where they do not.
    sigma_min, sigma_max: noise levels it was made for.
    value_range: (low, high) of x0 that corresponds to the data's (black, white).
    complex_channels: True if channel pairs are real and imaginary parts.
    symmetry: group that its images were drawn by in training, as `recon.priors.symmetric` names it; "none" if unknown.
    provenance: data, licence, configuration, hash: free-form, JSON-able.
    """

    name: str
    channels: int
    multiple: int = 1
    sizes: tuple[int, ...] | None = None
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    value_range: tuple[float, float] = (-1.0, 1.0)
    complex_channels: bool = False
    symmetry: str = "none"
    provenance: dict[str, Any] = field(default_factory=dict)


class Denoiser(ABC):
    """Abstract denoiser; subclasses write `_denoise` and declare `info`."""

    info: PriorInfo

    def __call__(self, x: Tensor, sigma: Tensor | float, cond: Tensor | None = None) -> Prediction:
        """Return E[x0 | x0 + sigma n = x].

        x: (B, C, [Z,] Y, X), float.  sigma: a number, or a tensor of shape () or (B,), in units of x.
        cond: class labels or other conditioning, where the prior takes any.
        Raises ConfigError if the channels or sizes do not fit.
        """
        self.check_shape(tuple(x.shape[1:]))
        sigma = torch.as_tensor(sigma, dtype=x.real.dtype, device=x.device)
        return self._denoise(x, sigma.expand(x.shape[0]) if sigma.ndim == 0 else sigma, cond)

    @abstractmethod
    def _denoise(self, x: Tensor, sigma: Tensor, cond: Tensor | None) -> Prediction:
        """Denoise x (B, C, ...) at noise levels sigma (B,)."""

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise ConfigError unless images of this (C, [Z,] Y, X) can be denoised."""
        if shape[0] != self.info.channels:
            raise ConfigError(
                f"prior '{self.info.name}' expects {self.info.channels} channel(s), got {shape[0]}",
                "choose another prior (recon priors list), or take one channel: recon convert IN OUT --channel grey",
            )
        if self.info.sizes is not None and tuple(shape[1:]) != self.info.sizes:
            raise ConfigError(
                f"prior '{self.info.name}' expects sizes {self.info.sizes}, got {tuple(shape[1:])}",
                "crop or resample the input, or choose a fully convolutional prior",
            )

    def to(self, device: str | torch.device) -> Denoiser:
        """Return the same denoiser on another device."""
        return self


def per_item(sigma: Tensor, x: Tensor) -> Tensor:
    """Reshape sigma (B,) so that it broadcasts over x (B, ...)."""
    return sigma.reshape(-1, *(1,) * (x.ndim - 1))
