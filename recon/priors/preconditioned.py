"""One Denoiser for all published networks: a network F, and the preconditioning that makes D of it.

    D(x, s) = c_skip x + c_out F(c_in x; c_noise)              (coefficients: `preconditioning.py`)

Departures from the authors' code: levels above sigma_max are evaluated at sigma_max on the rescaled input (see
`edm.py`); sizes are padded (see `padding.py`).

A direct denoiser's sigma_max lies far below the contrast of its images, so that x/s is no noise alone above it: there
D(x, s) = m + (F(m + a (x - m), sigma_max) - m)/a with a = sigma_max/s and m mid-grey, the noise at the level that F
knows on an image of less contrast. FFDNet, trained to 0.29, gives in the mean over three photographs 24.7 dB at
s = 0.5, 21.6 at 1, 18.5 at 2; 18.3, 14.1 and 12.6 without the division by a; 24.3, 15.6 and 5.7 at the level s itself.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon.errors import ConfigError
from recon.priors.base import Denoiser, Prediction, PriorInfo, per_item
from recon.priors.padding import on_padded
from recon.priors.preconditioning import KINDS


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
        given: int = getattr(self.network.config, "out_channels", channels)
        variance = self.preconditioning.learned_variance and given == 2 * channels
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
