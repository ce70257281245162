"""Checks that the image operators share: of image shapes, and of arrays that come from files."""

from __future__ import annotations

import math

import numpy as np

from recon.errors import ConfigError, InputError


def image_size(kind: str, in_shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (Y, X) of an image shape (C, [Z,] Y, X). Raises ConfigError where the shape is not one."""
    if len(in_shape) < 3 or min(in_shape) < 1:
        raise ConfigError(
            f"operator '{kind}' expects an image shape (C, Y, X), got {in_shape}", "name the axes of the image (--axes)"
        )
    return in_shape[-2], in_shape[-1]


def black_and_white(kind: str, low: float, high: float) -> None:
    """Raise ConfigError unless low < high are finite image values."""
    if not -math.inf < low < high < math.inf:
        raise ConfigError(f"operator '{kind}': low = {low}, high = {high}", "give the image values of black and white")


def numeric(name: str, array: np.ndarray, *, real: bool = True) -> np.ndarray:
    """Return the array, which must hold finite real numbers (or complex ones, with real=False); InputError if not."""
    array = np.asarray(array)
    if array.dtype.kind not in ("biuf" if real else "biufc"):
        raise InputError(f"array '{name}' has type {array.dtype}, expected {'real ' if real else ''}numbers")
    if array.size == 0 or not np.isfinite(array).all():
        raise InputError(f"array '{name}' of shape {array.shape} is empty or has non-finite values")
    return array


def required(kind: str, name: str, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return the array of that name; InputError where the operator came without it."""
    if name not in arrays:
        raise InputError(
            f"operator '{kind}' has no array '{name}'", f"give '{name}' in the operator or measurement file"
        )
    return arrays[name]
