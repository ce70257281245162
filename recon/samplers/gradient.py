"""Derivatives through the prior and the operator, and the noise of the measurement: what gradient methods share.

    x0 = D(x, sigma),  J = dx0/dx:      pull(v) = J^T v = grad_x Re<v, x0>      (one backward pass, no forward pass)
    A(x0 + u) ~ z + A' u:               forward(u) = A' u,  adjoint(v) = A'^H v  (A itself where it is linear)

Complex tensors count as pairs of real numbers, as autograd does. Nothing here waits for a device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Likelihood, Poisson, per_item_norm
from recon.operators.base import LinearOperator, Operator
from recon.priors.base import Denoiser, Prediction


@final
@dataclass(frozen=True)
class Traced:
    """One evaluation of a prior with its graph.

    x: the leaf (B, C, [Z,] Y, X).  seen: the prediction, attached to x.
    """

    x: Tensor
    seen: Prediction

    @property
    def x0(self) -> Tensor:
        """The denoised image, detached."""
        return self.seen.x0.detach()

    @property
    def variance_mix(self) -> Tensor | None:
        """The learned-variance fraction, detached, where the prior has one."""
        return None if self.seen.variance_mix is None else self.seen.variance_mix.detach()

    def pull(self, v: Tensor, keep: bool = False) -> Tensor:
        """Return J^T v for v like x0; the graph is freed unless `keep`."""
        (pulled,) = torch.autograd.grad(self.seen.x0, self.x, v, retain_graph=keep)
        return pulled

    def slope(self, loss: Tensor) -> Tensor:
        """Return the gradient in x of each item's loss (B,), a function of `seen.x0`; the graph is freed."""
        (gradient,) = torch.autograd.grad(loss, self.x, torch.ones_like(loss))
        return gradient


def trace(prior: Denoiser, x: Tensor, sigma: Tensor) -> Traced:
    """Return the prior's evaluation at x (B, C, [Z,] Y, X) with its graph, also within `torch.no_grad`."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return Traced(x, prior(x, sigma))


def within_range(x0: Tensor, prior: Denoiser) -> Tensor:
    """Return x0 clamped to the prior's value range, or as it is for complex images."""
    whole = x0.is_complex() or prior.info.complex_channels
    return x0 if whole else x0.clamp(*prior.info.value_range)


@final
@dataclass(frozen=True)
class Linearised:
    """An operator near an image: z = A(x0), and the maps u -> A' u and v -> A'^H v."""

    z: Tensor
    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]


def linearise(operator: Operator, x0: Tensor) -> Linearised:
    """Return the operator's first-order model at x0 (B, *in_shape); a linear operator is its own.

    A non-linear operator is differentiated by autograd: backward for A'^H, and backward through that, which is linear
    in its argument, for A'.
    """
    if isinstance(operator, LinearOperator):
        with torch.no_grad():
            return Linearised(operator.forward(x0), operator.forward, operator.adjoint)
    with torch.enable_grad():
        leaf = x0.detach().requires_grad_()
        z = operator.forward(leaf)
        weights = torch.zeros_like(z).requires_grad_()
        (pulled,) = torch.autograd.grad(z, leaf, weights, create_graph=True)

    def forward(u: Tensor) -> Tensor:
        return torch.autograd.grad(pulled, weights, u, retain_graph=True)[0]

    def adjoint(v: Tensor) -> Tensor:
        return torch.autograd.grad(z, leaf, v, retain_graph=True)[0]

    return Linearised(z.detach(), forward, adjoint)


def measured_data(problem: Problem) -> Tensor:
    """Return y with zeros where nothing was measured."""
    support = problem.operator.support
    return problem.y if support is None else problem.y * (support != 0)


def noise_variance(likelihood: Likelihood, z: Tensor, count: int) -> Tensor:
    """Return the variance of each real number of y given its noise-free value z, broadcastable to z.

    Poisson data: rate/(gain scale)^2 at each entry; else the likelihood's level for the item, (B, 1, ...).
    """
    if isinstance(likelihood, Poisson):
        return likelihood.rate(z) / (likelihood.gain * likelihood.scale) ** 2
    return likelihood.noise_level(z, count).reshape(-1, *(1,) * (z.ndim - 1)) ** 2


def least_variance(y: Tensor, count: int, floor: float) -> Tensor:
    """Return (floor times the root mean square of the measured numbers)^2, (1 or B, 1, ...), for exact data."""
    square = per_item_norm(y).reshape(-1, *(1,) * (y.ndim - 1)) ** 2
    return square * (floor**2 / max(count, 1))


def require_linear(name: str, problem: Problem) -> LinearOperator:
    """Return the problem's operator. Raises ConfigError unless it is linear."""
    if not isinstance(problem.operator, LinearOperator):
        raise ConfigError(f"method '{name}' needs a linear operator, got {problem.operator!r}", "use method dps or lgd")
    return problem.operator
