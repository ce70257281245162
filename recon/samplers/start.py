"""The state that a sampler starts from, and the noise levels on the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recon.data import Problem
from recon.errors import ConfigError
from recon.samplers.base import NoiseSource


def first_state(
    grid: str, sigma: float, problem: Problem, x_init: Tensor | None, noise: NoiseSource, shape: tuple[int, ...]
) -> Tensor:
    """Return the first state x (B, C, Y, X) at noise level sigma, in the operator's input type.

    No estimate: n sqrt(1 + sigma^2) on VP grids (unit variance in VP coordinates), n sigma on the others.
    With an x0 estimate x_init (1 or B, C, Y, X): x_init + sigma n.
    Raises ConfigError if `shape` is not (B, *in_shape).
    """
    if tuple(shape[1:]) != tuple(problem.operator.in_shape):
        raise ConfigError(f"samples of shape {tuple(shape)} do not fit {problem.operator!r}")
    n = noise.normal(shape, problem.operator.in_dtype)
    if x_init is not None:
        return x_init + sigma * n
    return n * (math.sqrt(1 + sigma**2) if is_vp(grid) else sigma)


def is_vp(grid: str) -> bool:
    """Return whether a named grid discretises the VP diffusion."""
    return grid.startswith("vp")


def levels_like(sigmas: list[float], x: Tensor) -> Tensor:
    """Return the noise levels as a real tensor beside x, so that no step copies a number to the device."""
    return torch.as_tensor(sigmas, dtype=x.real.dtype).to(x.device)
