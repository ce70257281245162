"""Priors over a latent space: the measurement seen through their decoder.

x = decode(z),   y ~ p(y | A(decode(z))):   a problem with the non-linear operator A o decode, in the latents' shape
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from recon.data import Problem
from recon.operators.base import Operator
from recon.priors.base import Denoiser


@runtime_checkable
class LatentPrior(Protocol):
    """What a prior over latents offers beside its denoiser."""

    def decode(self, z: Tensor) -> Tensor:
        """Return images (B, *image shape) of latents (B, *latent shape), differentiable."""
        ...

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the latent shape (C', Y', X') of images (C, Y, X)."""
        ...


@final
class Decoded(Operator):
    """A o decode as an operator on latents."""

    def __init__(self, operator: Operator, decode: Callable[[Tensor], Tensor], in_shape: tuple[int, ...]) -> None:
        self.operator, self.decode = operator, decode
        self.in_shape, self.out_shape = in_shape, operator.out_shape
        self.in_dtype, self.out_dtype = torch.zeros((), dtype=operator.in_dtype).real.dtype, operator.out_dtype
        self.differentiable, self.support = operator.differentiable, operator.support

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator.forward(self.decode(x))


def in_latents(
    prior: Denoiser, problem: Problem, shape: tuple[int, ...]
) -> tuple[Problem, tuple[int, ...], Callable[[Tensor], Tensor]]:
    """Return the problem, the shape of the samples, and the decoder, in the prior's space.

    shape: (B, C, Y, X) of the images.  A prior over images gives the problem and shape back, and the identity.
    """
    if not isinstance(prior, LatentPrior):
        return problem, shape, lambda x: x
    latent = prior.latent_shape(tuple(shape[1:]))
    return replace(problem, operator=Decoded(problem.operator, prior.decode, latent)), (shape[0], *latent), prior.decode
