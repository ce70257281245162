"""Notice that values became non-finite, without waiting for the device at each step."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

CHECK_EVERY = 25


@final
class FiniteGuard:
    """Keeps each sample's last finite estimate and looks at the verdict every `CHECK_EVERY` steps.

    x: a tensor (B, ...) like the estimates; before the first finite estimate the result is zero.
    """

    def __init__(self, x: Tensor) -> None:
        self.last = torch.zeros_like(x)
        self.alive = torch.ones(x.shape[0], dtype=torch.bool, device=x.device)

    def keep(self, x0: Tensor) -> None:
        """Take in the estimates x0 (B, ...); a sample that was ever non-finite keeps its last finite one."""
        self.alive = self.alive & x0.flatten(1).sum(1).isfinite()  # one reduction: a sum is finite if its terms are
        self.last = torch.where(self.alive.reshape(-1, *(1,) * (x0.ndim - 1)), x0, self.last)

    def diverged(self, index: int) -> bool:
        """Return whether a sample became non-finite; looks (and waits for the device) at every 25th index alone."""
        return index % CHECK_EVERY == CHECK_EVERY - 1 and self.broken()

    def broken(self) -> bool:
        """Return whether a sample became non-finite; waits for the device."""
        return not bool(self.alive.all())
