"""How image units map to a method's units, estimated from the measurement and never from the truth.

v = a u + b,   A v = a A u + b A 1   =>   A u ~ (y - b A 1)/a   with noise sigma/a
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from recon.config.schema import ScalingSection
from recon.data import Geometry
from recon.errors import ConfigError, InputError
from recon.io.disk import in_parts, is_large, let_go, scratch, trim
from recon.operators.base import LinearOperator, Operator
from recon.operators.slices import TOGETHER
from recon.solvers.cg import conjugate_gradients
from recon.training.intensity import foreground_quantile, foreground_quantile_of_parts

FIRST_ITERATIONS = 10


@dataclass(frozen=True)
class Window:
    """Image values `low` and `high` that map to the ends of a value range, and where they came from."""

    low: float
    high: float
    source: str

    def affine(self, value_range: tuple[float, float]) -> tuple[float, float]:
        """Return (a, b) of v = a u + b for u in `value_range`."""
        a = (self.high - self.low) / (value_range[1] - value_range[0])
        return a, self.low - a * value_range[0]


def find_window(
    section: ScalingSection,
    geometry: Geometry | None,
    operator: Operator,
    y: torch.Tensor | np.ndarray | None,
    first_images: Callable[[], torch.Tensor] | None = None,
) -> Window:
    """Return the window of image values for the measurement y (N, *out_shape).

    first_images: returns the images (N, C, Y, X) to estimate from, in place of those that operator and y give.
    Raises ConfigError for a mode and limits that do not fit each other, InputError if nothing was measured that a
    scale could be estimated from.
    """
    declared = geometry.value_range if geometry is not None else None
    fixed = _fixed_window(section)
    if fixed is not None:
        return fixed
    if declared is not None:
        return Window(*declared, source="declared by the image's type")
    if operator.value_range is not None:
        return Window(*operator.value_range, source="the range that the operator is made for")
    if not isinstance(operator, LinearOperator):
        raise InputError(
            "the image scale cannot be estimated through a non-linear operator",
            "give it: --set scaling.mode=fixed --set scaling.high=VALUE",
        )
    if first_images is not None:
        images = first_images().numpy()
    elif y is not None:
        images = first_images_of(operator, y if isinstance(y, np.ndarray) else y.numpy())
    else:
        raise ValueError("an estimate needs a measurement")
    if not any(part.any() for part in in_parts(images)):
        raise InputError("the measurement is zero everywhere: no image scale can be estimated from it")
    if is_large(images.shape, images.dtype):
        high = foreground_quantile_of_parts(lambda: (p - section.low for p in in_parts(images)), section.quantile)
    else:
        high = foreground_quantile(images - section.low, section.quantile)
    high += section.low
    return Window(section.low, high, f"{section.quantile:.1%} quantile of the foreground of a least-squares image")


def _fixed_window(section: ScalingSection) -> Window | None:
    if section.mode == "auto":
        if section.high is not None:
            raise ConfigError("scaling.high has no effect with scaling.mode = 'auto'", "set scaling.mode=fixed as well")
        return None
    if section.high is None:
        raise ConfigError("scaling.mode = 'fixed' needs scaling.high", "give it: --set scaling.high=VALUE")
    if not -np.inf < section.low < section.high < np.inf:
        raise ConfigError(f"scaling.low = {section.low:g} must be below scaling.high = {section.high:g}")
    return Window(section.low, section.high, "fixed by scaling.low and scaling.high")


def first_reconstruction(operator: LinearOperator, y: torch.Tensor) -> torch.Tensor:
    """Return an early-stopped least-squares image |v| (N, C, Y, X), the one that scales are estimated from.

    A few images at a time, so that memory beyond the result does not grow with their number.
    """
    size = torch.Size(operator.in_shape).numel()
    parts = y.split(max(1, TOGETHER // size))
    found = torch.empty(len(y), *operator.in_shape, dtype=operator.in_dtype.to_real(), device=y.device)
    for part, own in zip(parts, found.split(len(parts[0])), strict=True):
        rhs = operator.adjoint(part)
        own.copy_(conjugate_gradients(operator.normal, rhs, torch.zeros_like(rhs), FIRST_ITERATIONS).x.abs())
    return found


def first_images_of(operator: LinearOperator, y: np.ndarray) -> np.ndarray:
    """Return `first_reconstruction` of data (N, *out_shape) that may lie on disk; large ones come to lie there too."""
    step = max(1, TOGETHER // torch.Size(operator.in_shape).numel())
    found = scratch((len(y), *operator.in_shape), torch.empty(0, dtype=operator.in_dtype.to_real()).numpy().dtype)
    for first in range(0, len(y), step):
        part = torch.from_numpy(y[first : first + step])
        found[first : first + step] = first_reconstruction(operator, part).numpy()
        let_go(y)
        let_go(found)
        if isinstance(found, np.memmap):
            trim()
    return found


def data_range(stack: np.ndarray, geometry: Geometry) -> float:
    """Return the range that relative noise refers to: the declared one, else the truth's foreground quantile."""
    if geometry.value_range is not None:
        return geometry.value_range[1] - geometry.value_range[0]
    return foreground_quantile(stack)
