"""What ensemble methods share: all samples of a call are members of one ensemble, for one measurement."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian, Likelihood
from recon.priors.base import Denoiser
from recon.samplers.base import Method


class EnsembleMethod(Method, ABC):
    """A method whose samples see each other.

    particles: members of the ensemble where fewer samples are asked for. `sample` draws the batch that it is given as
    one ensemble; a run draws `members(samples)` of them in one call and returns the first `samples`.
    """

    ensemble: ClassVar[bool] = True
    particles: int

    def members(self, samples: int) -> int:
        return max(samples, self.particles)


def require_ensemble(name: str, problem: Problem, shape: tuple[int, ...]) -> None:
    """Raise ConfigError unless `shape` (J, ...) has two members or more, and the problem one measurement."""
    if shape[0] < 2:
        raise ConfigError(f"method '{name}' needs an ensemble of 2 or more, got {shape[0]}", "set method.particles")
    if problem.y.shape[0] != 1:
        raise ConfigError(f"method '{name}' takes one measurement for its ensemble, got {problem.y.shape[0]}")


def denoised(prior: Denoiser, x: Tensor, sigma: Tensor, size: int) -> Tensor:
    """Return D(x, sigma), `size` members at a time."""
    return in_parts(lambda part: prior(part, sigma).x0, x, size)


def in_parts(function: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
    """Return function(x) for x (J, ...), `size` members at a time, the remainder last."""
    return torch.cat([function(part) for part in x.split(size)])


def errors(likelihood: Likelihood, outputs: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of each member's loss in its output (J, *out_shape), up to one factor: Y - y if Gaussian."""
    if isinstance(likelihood, Gaussian):
        return outputs - y
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        return torch.autograd.grad(likelihood.loss(leaf, y).sum(), leaf)[0]


def spread(x: Tensor) -> Tensor:
    """Return the root mean square over the image of the members' standard deviation, (); of x (J, ...).

    Complex images: of their real and imaginary parts.
    """
    parts = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
    return parts.var(dim=0).mean().sqrt()
