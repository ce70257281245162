"""From a measurement in its own units to a Problem in a method's units."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recon.data import NoiseSpec, Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian, Likelihood, Poisson, Transmission
from recon.operators.base import LinearOperator, Operator
from recon.operators.slices import TOGETHER, part_of
from recon.operators.units import InUnits
from recon.solvers.power import operator_norm


@dataclass(frozen=True)
class Scaled:
    """A problem in the method's units and the way back: v = a u + b."""

    problem: Problem
    a: float
    b: float


def scale_problem(
    operator: Operator, y: Tensor, noise: NoiseSpec, a: float, b: float, norm: float | None = None
) -> Scaled:
    """Return the problem A u ~ (y - b A 1)/a for one item, y (1, *out_shape); A(a u + b)/a ~ y/a if A is not linear.

    norm: if given, operator and data are divided by it (see `unit_norm`).
    Raises ConfigError for a norm with a non-linear operator.
    """
    if not isinstance(operator, LinearOperator):
        if norm is not None:
            raise ConfigError(f"a non-linear operator has no norm: {operator!r}", "set scaling.unit_norm=false")
        if (a, b) != (1.0, 0.0):
            operator, y = InUnits(operator, a, b), y / a
        return Scaled(Problem(operator, y, likelihood_of(noise, a, torch.zeros_like(y))), a, b)
    factor = norm or 1.0
    inner = operator * (1 / factor) if norm else operator
    if noise.kind in ("gaussian", "none") and part_of(operator, 0, 1) is not None:
        likelihood = likelihood_of(noise, a * factor, y)  # which needs no offset
        return Scaled(Problem(inner, _slices_shifted(operator, y, b).div_(a * factor), likelihood), a, b)
    offset = b * operator.forward(torch.ones(1, *operator.in_shape, dtype=operator.in_dtype))
    likelihood = likelihood_of(noise, a * factor, offset)
    return Scaled(Problem(inner, (y - offset).div_(a * factor), likelihood), a, b)


def _slices_shifted(operator: LinearOperator, y: Tensor, b: float) -> Tensor:
    """Return y - b A 1 for a volume (1, Z, ...) whose slices are measured by themselves, a few of them at a time."""
    channels, slices, *plane = operator.in_shape
    step, found = max(1, TOGETHER // torch.Size((channels, *plane)).numel()), torch.empty_like(y)
    for first in range(0, slices, step):
        part = part_of(operator, first, min(step, slices - first))
        assert isinstance(part, LinearOperator)
        offset = b * part.forward(torch.ones(1, *part.in_shape, dtype=part.in_dtype))
        torch.sub(y[:, first : first + step], offset, out=found[:, first : first + step])
    return found


def likelihood_of(noise: NoiseSpec, scale: float, offset: Tensor) -> Likelihood:
    """Return the likelihood of data divided by `scale` after subtracting `offset`."""
    if noise.kind == "poisson":
        return Poisson(noise.gain, scale, offset)
    if noise.kind == "transmission":
        return Transmission(noise.gain, noise.attenuation * scale, noise.attenuation * offset)
    return Gaussian(noise.sigma / scale if noise.kind == "gaussian" else 0.0)


def unit_norm(operator: Operator) -> float | None:
    """Return the norm of a linear operator by power iteration from a fixed start; None if it is not linear."""
    if not isinstance(operator, LinearOperator):
        return None
    return float(operator_norm(operator))


def on_device(problem: Problem, device: torch.device) -> Problem:
    """Return the problem on a device."""
    return replace(
        problem,
        operator=problem.operator.to(device),
        y=problem.y.to(device),
        likelihood=problem.likelihood.to(device),
    )
