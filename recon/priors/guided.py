"""A class for a class-conditional prior, and guidance towards it without a classifier.

    D = D_0 + w (D_c - D_0),    D_c of the class, D_0 without one:    w = 1 is D_c, w > 1 exaggerates the class
    CFG      a sampler sees D alone
    CFG++    it also gets D_0 as `x0_uncond`: the step adds the noise eps_0 = (x - D_0)/sigma again; 0 < w <= 1

D_0 is the network without a class, where it was trained for that; a network that always takes one may have a class that
stands for none.
Sources: Ho and Salimans 2022 (classifier-free guidance), eq. 6 with w = 1 + their w; Chung et al. 2025 (CFG++).
"""

from __future__ import annotations

from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor

from recon.errors import ConfigError
from recon.priors.base import Denoiser, Prediction
from recon.priors.preconditioned import PreconditionedDenoiser
from recon.priors.wrapper import Wrapper

GuidanceMode = Literal["cfg", "cfg++"]


@final
class Guided(Wrapper):
    """A class-conditional prior at one class, guided by weight w.

    inner: a prior with classes.  label: index of the class.  weight: w; None for the class without guidance, which
    takes half the work.  mode: "cfg" or "cfg++".  null_label: the class that stands for none, for networks that always
    take one.  A class given in a call counts in place of `label`.
    Raises ConfigError for a prior without classes, classes that it has not, and guidance that it was not trained for.
    """

    def __init__(
        self,
        inner: Denoiser,
        label: int,
        weight: float | None = None,
        mode: GuidanceMode = "cfg",
        null_label: int | None = None,
    ) -> None:
        name = inner.info.name
        if not isinstance(inner, PreconditionedDenoiser) or not inner.labels:
            raise ConfigError(f"prior '{name}' takes no classes", "leave out prior.label")
        for key, index in (("label", label), ("null_label", null_label)):
            if index is not None and not 0 <= index < inner.labels:
                raise ConfigError(f"prior '{name}' has classes 0 to {inner.labels - 1}: prior.{key} = {index}")
        if weight is not None and inner.needs_class and null_label is None:
            raise ConfigError(
                f"prior '{name}' always takes a class, so there is nothing to guide it away from",
                "leave out prior.guidance, or name the class that stands for none: --set prior.null_label=INDEX",
            )
        if mode == "cfg++" and not (weight is not None and 0 < weight <= 1):
            raise ConfigError(f"CFG++ needs a weight above 0, up to 1, got {weight}", "for example 0.6")
        self.inner, self.label, self.weight, self.mode, self.null_label = inner, label, weight, mode, null_label
        self.labels, self.info = inner.labels, inner.info

    def _denoise(self, x: Tensor, sigma: Tensor, cond: Tensor | None) -> Prediction:
        if cond is None:
            cond = self._vectors(x, self.label)
        if self.weight is None:
            return self.inner(x, sigma, cond)
        if not cond.is_floating_point():
            cond = F.one_hot(cond.long(), self.labels).to(x.dtype)
        both = self.inner(torch.cat([x, x]), sigma.repeat(2), torch.cat([cond, self._vectors(x, self.null_label)]))
        towards, away = both.x0.chunk(2)
        mix = None if both.variance_mix is None else both.variance_mix.chunk(2)[0]
        return Prediction(torch.lerp(away, towards, self.weight), mix, away if self.mode == "cfg++" else None)

    def _vectors(self, x: Tensor, label: int | None) -> Tensor:
        """Return class vectors (B, labels); zero, which networks that can do without take for no class, for None."""
        vectors = x.new_zeros(len(x), self.labels)
        if label is not None:
            vectors[:, label] = 1
        return vectors

    def around(self, inner: Denoiser) -> Guided:
        return Guided(inner, self.label, self.weight, self.mode, self.null_label)
