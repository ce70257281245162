"""The gradient of a function that only says its values, from random directions.

    central  g = mean_q u_q (f(x + mu u_q) - f(x - mu u_q))/(2 mu)
    forward  g = mean_q u_q (f(x + mu u_q) - f(x))/mu

with u ~ N(0, I): E g is the gradient of f smoothed by N(0, mu^2 I), for "central" that of f itself where f is of second
degree. The mean square error of Q directions in D dimensions is about (D + 1)/Q of ||grad f||^2.
Sources: Nesterov and Spokoiny 2017; Mohamed et al. 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Normal = Callable[[Sequence[int], torch.dtype], Tensor]  # (shape, dtype) -> standard normal noise
Values = Callable[[Tensor], Tensor]  # (B, n, *item) -> f of each, (B, n)


@torch.no_grad()
def smoothed_gradient(
    values: Values, x: Tensor, at_x: Tensor | None, mu: float, directions: int, batch: int, normal: Normal
) -> Tensor:
    """Return g like x (B, *item), real or complex.

    values: f of B x n points, those of an item in its row.  at_x: f(x), (B,), for "forward"; None takes "central".
    mu: > 0, width of the smoothing.  directions: Q.  batch: directions that `values` is given at once, of each item.
    """
    total = torch.zeros_like(x)
    for start in range(0, directions, batch):
        u = normal((x.shape[0], min(batch, directions - start), *x.shape[1:]), x.dtype)
        ahead = values(x[:, None] + mu * u)
        change = (ahead - at_x[:, None]) if at_x is not None else (ahead - values(x[:, None] - mu * u)) / 2
        total += ((change / mu).to(x.real.dtype).reshape(*u.shape[:2], *(1,) * (x.ndim - 1)) * u).sum(1)
    return total / directions
