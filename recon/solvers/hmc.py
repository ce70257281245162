"""Hamiltonian Monte Carlo for a density p: the damped form of the DAPS code, and the exact form.

    damped   v' = m v + sqrt(h) score(x) + sqrt(2 (1 - m)) z,   x' = x + sqrt(h) v',   no accept test
    exact    v ~ N(0, I);  leapfrog steps of size e:  v += e/2 score(x),  x += e v,  v += e/2 score(x);
             accept with probability min(1, exp(H(x, v) - H(x', v'))),   H = ||v||^2/2 - ln p(x)

The damped chain is biased by O(h): N(0, v) becomes N(0, v/(1 - h/(2 (1 + m) v))); m = 0 is unadjusted Langevin.
Every item of the batch is a chain of its own; complex vectors count as pairs of real numbers.
Sources: the authors' code of DAPS (Zhang et al. 2025); Duane et al. 1987; Neal 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recon.likelihoods import per_item_dot
from recon.solvers.langevin import Score
from recon.solvers.metropolis import Chain, Normal, Target, accepts, choose


@torch.no_grad()
def damped_hmc(score: Score, x: Tensor, step: float, momentum: float, steps: int, normal: Normal) -> Tensor:
    """Return x (B, ...) after `steps` damped steps from a velocity that is drawn first.

    score: gradient of the log density.  step: h, as for Langevin.  momentum: m, 0 to 1.
    """
    v = normal(x.shape, x.dtype)
    for _ in range(steps):
        z = normal(x.shape, x.dtype)
        v = (momentum * v).add_(score(x), alpha=step**0.5).add_(z, alpha=(2 * (1 - momentum)) ** 0.5)
        x = x.add(v, alpha=step**0.5)
    return x


@torch.no_grad()
def hmc(target: Target, x: Tensor, step: float, leapfrog: int, trajectories: int, normal: Normal) -> Chain:
    """Return the exact chain from x (B, ...) after `trajectories` of `leapfrog` >= 1 steps of size e = `step`.

    target: the log density up to a constant and its gradient, (B, ...) -> (B,), (B, ...).
    """
    density, score = target(x)
    accepted = torch.zeros_like(density)
    for _ in range(trajectories):
        v = normal(x.shape, x.dtype)
        energy = per_item_dot(v, v) / 2 - density
        place, slope, value = x, score, density
        v = v.add(slope, alpha=step / 2)
        for i in range(leapfrog):
            place = place.add(v, alpha=step)
            value, slope = target(place)
            v = v.add(slope, alpha=step if i < leapfrog - 1 else step / 2)
        taken = accepts(energy - per_item_dot(v, v) / 2 + value, normal)
        x, score, density = choose(taken, place, x), choose(taken, slope, score), choose(taken, value, density)
        accepted = accepted + taken
    return Chain(x, accepted / max(trajectories, 1))
