"""Langevin dynamics for a density p, unadjusted and Metropolis-adjusted.

    unadjusted   x' = x + h score(x) + sqrt(2 h) z,    score = grad ln p
    adjusted     the same proposal, accepted with probability min(1, p(x') q(x | x')/(p(x) q(x' | x))),
                 ln q(b | a) = -||b - a - h score(a)||^2/(4 h)

The unadjusted chain is biased by O(h): N(0, v) becomes N(0, v/(1 - h/(2 v))). Every item of the batch is a chain of its
own. Complex vectors count as pairs of real numbers: noise has unit variance in each part, gradients are autograd's.
Sources: Parisi 1981; Roberts and Tweedie 1996 (MALA).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recon.likelihoods import per_item_dot, per_item_norm
from recon.solvers.metropolis import Chain, Normal, Target, accepts, choose

Score = Callable[[Tensor], Tensor]


@torch.no_grad()
def langevin(score: Score, x: Tensor, step: float, steps: int, normal: Normal) -> Tensor:
    """Return x (B, ...) after `steps` unadjusted steps of size `step`.

    score: gradient of the log density, (B, ...) -> (B, ...).  normal: standard normal noise of a shape and dtype.
    """
    for _ in range(steps):
        x = x.add(score(x), alpha=step).add_(normal(x.shape, x.dtype), alpha=(2 * step) ** 0.5)
    return x


@torch.no_grad()
def adjusted_langevin(target: Target, x: Tensor, step: float, steps: int, normal: Normal) -> Chain:
    """Return the exact chain from x (B, ...) after `steps` proposals of size `step`.

    target: the log density up to a constant and its gradient, (B, ...) -> (B,), (B, ...).
    """
    density, score = target(x)
    accepted = torch.zeros_like(density)
    for _ in range(steps):
        z = normal(x.shape, x.dtype)
        proposal = x.add(score, alpha=step).add_(z, alpha=(2 * step) ** 0.5)
        proposed, slope = target(proposal)
        # back = x - proposal - h slope;  ||forward||^2 = 2 h ||z||^2
        back = (x - proposal).sub_(slope, alpha=step)
        forth = per_item_dot(z, z) / 2
        taken = accepts(proposed - density - per_item_norm(back) ** 2 / (4 * step) + forth, normal)
        x, score, density = choose(taken, proposal, x), choose(taken, slope, score), choose(taken, proposed, density)
        accepted = accepted + taken
    return Chain(x, accepted / max(steps, 1))
