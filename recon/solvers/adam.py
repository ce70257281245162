"""Adam's update, in place and without a look at the device.

    x -= rate decay x     (AdamW; decay 0 leaves it out)
    m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2,   x -= rate m/(1 - b1^k) / (sqrt(v/(1 - b2^k)) + eps)

Complex numbers count as pairs of real ones. Sources: Kingma and Ba 2015, algorithm 1; for the first line, Loshchilov
and Hutter 2019, algorithm 2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor


@final
@dataclass
class Adam:
    """The moments of one run.

    rate: step size.  betas: decay of both moments, in [0, 1).  eps: added to the root of the second.  decay: of x.
    """

    rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    decay: float = 0.0
    count: int = 0
    first: Tensor | None = field(default=None, repr=False)
    second: Tensor | None = field(default=None, repr=False)

    @torch.no_grad()
    def step(self, x: Tensor, gradient: Tensor) -> None:
        """Change x (...), real or complex, by its step for the gradient (...)."""
        x, g = (torch.view_as_real(v) if v.is_complex() else v for v in (x, gradient.resolve_conj()))
        if self.first is None or self.second is None:
            self.first, self.second = torch.zeros_like(g), torch.zeros_like(g)
        (b1, b2), self.count = self.betas, self.count + 1
        if self.decay:
            x.mul_(1 - self.rate * self.decay)
        self.first.lerp_(g, 1 - b1)
        self.second.mul_(b2).addcmul_(g, g, value=1 - b2)
        root = (self.second / (1 - b2**self.count)).sqrt_().add_(self.eps)
        x.addcdiv_(self.first, root, value=-self.rate / (1 - b1**self.count))
