"""Weighted particles: how many they are worth, and resampling.

    effective number  1/sum W_k^2,   W = softmax(log weights)
    systematic        child m descends from the first k with W_1 + ... + W_k > (m + u)/K,   m = 0..K-1, one uniform u

Systematic resampling gives particle k floor(K W_k) or one more children, K W_k on average. Weights are float64, and
nothing waits for a device. Sources: Kong et al. 1994; Carpenter et al. 1999; Douc and Cappe 2005.
"""

from __future__ import annotations

import torch
from torch import Tensor


def effective(log_weights: Tensor) -> Tensor:
    """Return the effective number (), in 1..K, of particles with log weights (K,)."""
    return 1 / log_weights.softmax(0).square().sum()


def systematic(log_weights: Tensor, uniform: Tensor) -> Tensor:
    """Return the ancestors (K,), ascending, of K children; `uniform` () in [0, 1)."""
    count = len(log_weights)
    upto = log_weights.softmax(0).cumsum(0)
    at = (torch.arange(count, dtype=upto.dtype, device=upto.device) + uniform) / count
    # rounding may leave the last sum below 1
    return torch.searchsorted(upto, at * upto[-1], right=True).clamp_max(count - 1)
