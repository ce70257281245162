"""Notice that values became non-finite or left the data, without waiting for the device at each step."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

CHECK_EVERY = 25
GROWTH = 1e3  # of the residual, over that of the first estimate, and over the noise's own


@final
class FiniteGuard:
    """Keeps each sample's last good estimate and looks at the verdict every `CHECK_EVERY` steps.

    Good is what is finite and whose residual did not grow by `GROWTH`.
    x: a tensor (B, ...) like the estimates; before the first good estimate the result is zero.
    """

    def __init__(self, x: Tensor) -> None:
        self.last = torch.zeros_like(x)
        self.alive = torch.ones(x.shape[0], dtype=torch.bool, device=x.device)
        self.most: Tensor | None = None

    def keep(self, x0: Tensor, residual: Tensor | None = None) -> None:
        """Take in the estimates x0 (B, ...), with their residuals (B,) where known.

        A sample that was ever non-finite or far off keeps its last good estimate.
        """
        good = x0.flatten(1).sum(1).isfinite()  # one reduction: a sum is finite if its terms are
        if residual is not None:
            if self.most is None:
                self.most = GROWTH * residual.clamp_min(1)
            good = good & ~(residual > self.most)
        self.alive = self.alive & good
        self.last = torch.where(self.alive.reshape(-1, *(1,) * (x0.ndim - 1)), x0, self.last)

    def diverged(self, index: int) -> bool:
        """Return whether a sample went bad; looks (and waits for the device) at every 25th index alone."""
        return index % CHECK_EVERY == CHECK_EVERY - 1 and self.broken()

    def broken(self) -> bool:
        """Return whether a sample went bad; waits for the device."""
        return not bool(self.alive.all())
