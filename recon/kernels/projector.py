"""The contract of projectors, and their product with batches that autograd and complex numbers go through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor


class Projector(ABC):
    """A real matrix A (rays, pixels) and its transpose, by whatever means. Immutable.

    name: the backend, as `RECON_KERNELS` names it.
    """

    name: str

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return A x_b for each item: (B, pixels) -> (B, rays), real, without gradient."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y_b for each item: (B, rays) -> (B, pixels), real, without gradient."""

    @abstractmethod
    def to(self, device: torch.device | None, dtype: torch.dtype | None) -> Projector:
        """Return the same projector for tensors of another type, or on another device where it can work there."""


def project(projector: Projector, x: Tensor) -> Tensor:
    """Return A x_b for each item of a batch: (B, pixels) -> (B, rays), real or complex.

    Differentiable any number of times, forwards and backwards: the gradient is the adjoint.
    """
    return _by_parts(projector, x, False)


def backproject(projector: Projector, y: Tensor) -> Tensor:
    """Return A^T y_b for each item of a batch: (B, rays) -> (B, pixels), real or complex; its gradient is `project`."""
    return _by_parts(projector, y, True)


def _by_parts(projector: Projector, x: Tensor, back: bool) -> Tensor:
    if not x.is_complex():
        result: Tensor = _Product.apply(x, projector, back)
        return result
    parts = torch.view_as_real(x.resolve_conj()).movedim(-1, 0)
    both = _Product.apply(parts.flatten(0, 1), projector, back).unflatten(0, parts.shape[:2])
    return torch.view_as_complex(both.movedim(0, -1).contiguous())


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, projector: Projector, back: bool) -> Tensor:
        return projector.adjoint(x) if back else projector.forward(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Projector, bool], output: Tensor) -> None:
        ctx.projector, ctx.back = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _by_parts(ctx.projector, grads[0], not ctx.back), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return _by_parts(ctx.projector, tangents[0], ctx.back)
