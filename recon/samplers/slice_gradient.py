"""The gradient of a data misfit through the slices of a volume, a few slices at a time.

    g = grad_x sum_k ||A x0(x) - y||_k,     x0 = D(x, sigma) slice by slice,    k: groups of neighbouring slices

One evaluation with its gradient where each slice is measured by itself; where the operator sees slices together, one
norm over all of them, and a second evaluation: first the volume x0, then J^T of its gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recon.data import Problem
from recon.likelihoods import per_item_norm
from recon.operators.slices import part_of
from recon.priors.base import Denoiser
from recon.priors.slices import Z_AXIS, Slices
from recon.samplers.gradient import trace
from recon.samplers.slice_steps import spread_over

TINY = 1e-30


def evaluations(prior: Denoiser, problem: Problem) -> int:
    """Return how often `guided` evaluates the prior at each slice."""
    coupled = isinstance(prior, Slices) and len(problem.operator.in_shape) == 4
    return 2 if coupled and part_of(problem.operator, 0, 1) is None else 1


def guided(prior: Denoiser, x: Tensor, level: Tensor, problem: Problem, batch: int) -> tuple[Tensor, Tensor]:
    """Return x0 and g, like x.

    prior: of x (B, C, [Z,] Y, X).  level: sigma, ().  batch: slices of a group, whose misfits share a norm.
    """
    if not isinstance(prior, Slices) or x.ndim < 5:
        seen = trace(prior, x, level)
        with torch.enable_grad():
            loss = per_item_norm(problem.operator.forward(seen.seen.x0) - problem.y)
        x0 = seen.x0
        return x0, seen.slope(loss)
    if part_of(problem.operator, 0, 1) is None:
        x0 = prior(x, level).x0
        return x0, _pulled(prior, x, level, _image_gradient(x0, problem))
    return _by_slices(prior, x, level, problem, batch)


def _by_slices(prior: Slices, x: Tensor, level: Tensor, problem: Problem, batch: int) -> tuple[Tensor, Tensor]:
    x0, gradient = torch.empty_like(x), torch.empty_like(x)
    squares = x.real.new_empty(len(x), x.shape[Z_AXIS])
    for item in range(len(x)):
        y = problem.y[item if len(problem.y) > 1 else 0]
        for first in range(0, x.shape[Z_AXIS], prior.chunk):
            part = x[item : item + 1, :, first : first + prior.chunk]
            operator = part_of(problem.operator, first, part.shape[Z_AXIS])
            assert operator is not None
            seen = trace(prior, part, level)
            with torch.enable_grad():
                misfit = operator.forward(seen.seen.x0) - y[None, first : first + part.shape[Z_AXIS]]
                found = per_item_norm(misfit[0]).square()
                loss = found.sum()[None] / 2
            x0[item, :, first : first + prior.chunk] = seen.x0[0]
            gradient[item, :, first : first + prior.chunk] = seen.slope(loss)[0]
            squares[item, first : first + prior.chunk] = found.detach()
    groups = squares.tensor_split(-(-squares.shape[1] // batch), dim=1)
    norms = torch.cat([g.sum(1, keepdim=True).sqrt().expand_as(g) for g in groups], dim=1)
    return x0, gradient.div_(spread_over(norms.clamp_min(TINY), x, Z_AXIS))


def _image_gradient(x0: Tensor, problem: Problem) -> Tensor:
    """Return the gradient in x0 of ||A x0 - y|| of each item."""
    with torch.enable_grad():
        leaf = x0.detach().requires_grad_()
        loss = per_item_norm(problem.operator.forward(leaf) - problem.y).sum()
    (found,) = torch.autograd.grad(loss, leaf)
    return found


def _pulled(prior: Slices, x: Tensor, level: Tensor, v: Tensor) -> Tensor:
    """Return J^T v of the prior at x, slice by slice."""
    found = torch.empty_like(x)
    for item in range(len(x)):
        for first in range(0, x.shape[Z_AXIS], prior.chunk):
            here = (slice(item, item + 1), slice(None), slice(first, first + prior.chunk))
            found[here] = trace(prior, x[here], level).pull(v[here])
    return found
