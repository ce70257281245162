"""Metropolis accept tests, and the random walk.

    x' = x + w z;  accept with probability min(1, p(x')/p(x)), each item of the batch by itself

A uniform number is drawn as Phi(z) of a normal z, so that one source of normal noise serves everything. A proposal with
a density that is not a number is never accepted. Nothing waits for a device.
Source: Metropolis et al. 1953.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Normal = Callable[[Sequence[int], torch.dtype], Tensor]  # (shape, dtype) -> standard normal noise
LogDensity = Callable[[Tensor], Tensor]  # (B, ...) -> (B,)
Target = Callable[[Tensor], tuple[Tensor, Tensor]]  # (B, ...) -> log density (B,) and its gradient (B, ...)


@dataclass(frozen=True)
class Chain:
    """Where a Markov chain ended.

    x: states (B, ...).  accepted: share of accepted proposals of each item, (B,).
    """

    x: Tensor
    accepted: Tensor


def accepts(log_ratio: Tensor, normal: Normal) -> Tensor:
    """Return, for log acceptance ratios (B,), which proposals are accepted, (B,) bool."""
    return torch.special.log_ndtr(normal(log_ratio.shape, log_ratio.dtype)) < log_ratio


def choose(taken: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Return new where taken (B,), else old: (B, ...)."""
    return torch.where(taken.reshape(-1, *(1,) * (new.ndim - 1)), new, old)


@torch.no_grad()
def random_walk(log_density: LogDensity, x: Tensor, width: float, steps: int, normal: Normal) -> Chain:
    """Return the chain from x after `steps` proposals x + width z.

    log_density: up to a constant, (B, ...) -> (B,).  x: (B, ...), real or complex.
    """
    density = log_density(x)
    accepted = torch.zeros_like(density)
    for _ in range(steps):
        proposal = x.add(normal(x.shape, x.dtype), alpha=width)
        proposed = log_density(proposal)
        taken = accepts(proposed - density, normal)
        x, density = choose(taken, proposal, x), choose(taken, proposed, density)
        accepted = accepted + taken
    return Chain(x, accepted / max(steps, 1))
