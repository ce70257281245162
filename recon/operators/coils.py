"""Synthetic receive sensitivities of MRI coils."""

from __future__ import annotations

import numpy as np

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
