"""Receive sensitivities of MRI coils: synthetic ones, and checks of those that are given."""

from __future__ import annotations

import numpy as np

from recon.errors import ConfigError, InputError
from recon.operators.checks import numeric

RADIUS = 1.6  # of the circle of coils, in half-sides of the image: just outside its corners


def birdcage_maps(coils: int, shape: tuple[int, int]) -> np.ndarray:
    """Return smooth complex sensitivities with sum_c |S_c|^2 = 1 at each pixel: complex64 (coils, Y, X).

    Coil c is a long straight wire at p_c = R exp(2 pi i c / coils) around the image, whose field at z = x + i y is
    1 / (p_c - z) up to a constant (Biot-Savart in two dimensions); the phases agree at the image's centre.
    """
    y, x = ((np.arange(n) - n // 2) / (n / 2) for n in shape)
    z = np.add.outer(1j * y, x)
    wires = RADIUS * np.exp(2j * np.pi * np.arange(coils) / coils)
    fields = wires[:, None, None] / (wires[:, None, None] - z)
    return (fields / np.linalg.norm(fields, axis=0)).astype(np.complex64)


def checked_maps(kind: str, maps: np.ndarray, image: tuple[int, ...], coils: int | None) -> np.ndarray:
    """Return given maps (coils, *image) as complex64.

    Raises InputError for another shape, naming its likely cause; ConfigError where the parameter `coils` disagrees.
    """
    maps = numeric("maps", maps, real=False)
    if maps.ndim != 1 + len(image) or maps.shape[1:] != image:
        raise InputError(
            f"maps have shape {maps.shape}, expected ({', '.join(['coils', *map(str, image)])})",
            likely_cause(maps.shape, image),
        )
    if coils not in (None, maps.shape[0]):
        raise ConfigError(
            f"operator '{kind}': coils = {coils}, but the array 'maps' has {maps.shape[0]}",
            "leave out the parameter coils: the maps decide",
        )
    return maps.astype(np.complex64)


def likely_cause(shape: tuple[int, ...], image: tuple[int, ...]) -> str:
    """Return what makes maps of a shape unlike (coils, *image), and what to do about it."""
    order = "coils, Z, Y, X" if len(image) == 3 else "coils, Y, X"
    if len(shape) != 1 + len(image):
        return f"maps have the axes ({order}), one map for each coil of the data"
    if shape[1:] == image:
        return "they are of another number of coils: give those of this scan, in the order of the data"
    if sorted(shape[1:]) == sorted(image):
        return f"rows and columns look transposed: give maps as ({order})"
    if shape[:-1] == image:
        return f"the coils look to be the last axis: give maps as ({order})"
    if shape[:-1] == image[::-1]:
        return f"the axes look reversed: give maps as ({order})"
    return "they are of another grid: resample or crop them to the image that is reconstructed"
