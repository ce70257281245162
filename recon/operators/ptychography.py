"""Ptychography: diffraction amplitudes of overlapping parts of an object, each lit by the same probe.

    y_j = |F (p o(x)[window at r_j])|,     F centred and orthonormal over the window

Source: Rodenburg and Faulkner, Appl. Phys. Lett. 85, 2004; Thibault et al., Ultramicroscopy 109, 2009.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from recon.errors import ConfigError, InputError
from recon.operators.base import Operator, Shape
from recon.operators.checks import black_and_white, image_size, numeric, required
from recon.operators.family import Arrays, Family
from recon.operators.object_field import Kind, ObjectField, check_depth


@final
@dataclass(frozen=True)
class PtychographyParams:
    """The probe, where it goes, and what the image is.

    window: side of the diffraction patterns in pixels.  radius: of the probe, as a fraction of half the window.
    defocus: phase of the probe at its edge in radians, quadratic: a curved probe tells more.
    overlap: of neighbouring probes along an axis, as a fraction of their diameter.  jitter: of positions, in pixels,
        which takes away the period of the grid.
    object: "symmetric" (mid-grey is dark), "unit" (black is dark) or "phase".  depth: radians from black to white.
    low, high: image values of black and white; simulations and pictures bring their own.
    """

    window: int = 32
    radius: float = 0.6
    defocus: float = 4.0
    overlap: float = 0.6
    jitter: int = 1
    object: Kind = "unit"
    depth: float = math.pi
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.window < 2 or self.jitter < 0:
            raise ConfigError(f"operator 'ptychography': window = {self.window}, jitter = {self.jitter}")
        if not 0 < self.radius <= 1 or not 0 <= self.overlap < 1 or not math.isfinite(self.defocus):
            raise ConfigError(
                f"operator 'ptychography': radius = {self.radius}, overlap = {self.overlap}, defocus = {self.defocus}",
                "give a radius in (0, 1] and an overlap in [0, 1)",
            )
        check_depth("ptychography", self.depth)
        black_and_white("ptychography", self.low, self.high)


@final
class Ptychography(Operator):
    """y_j = |F (p o(x)[window j])| for real x (B, C, Y, X); y real, (B, C, positions, w_y, w_x).

    probe: p (w_y, w_x), complex.  positions: (J, 2), row and column of the windows' first pixels.
    Windows that reach beyond the image see darkness there. The slope where an amplitude is 0 counts as 0.
    """

    def __init__(self, in_shape: Shape, probe: Tensor, positions: np.ndarray, field: ObjectField) -> None:
        self.in_shape, self.probe, self.field, self.value_range = in_shape, probe, field, (field.low, field.high)
        self.out_shape = (in_shape[0], len(positions), *probe.shape)
        rows, columns = (
            torch.from_numpy(p)[:, None] + torch.arange(n) for p, n in zip(positions.T, probe.shape, strict=True)
        )
        height, width = in_shape[-2:]
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
        places = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None]
        self.places, self.lit = places.flatten(), inside * probe

    def _forward(self, x: Tensor) -> Tensor:
        seen = self.field(x).flatten(-2).index_select(-1, self.places).reshape(-1, *self.out_shape)
        spectrum = torch.fft.fft2(seen * self.lit, norm="ortho")
        return torch.fft.fftshift(spectrum.abs(), dim=(-2, -1))


def disc_probe(window: int, radius: float, defocus: float) -> np.ndarray:
    """Return a disc with a soft edge of two pixels and a quadratic phase, largest amplitude 1, complex64."""
    t = np.arange(window) - window // 2
    distance = np.hypot(t[:, None], t) / max(radius * window / 2, 1)
    soft = 1 / max(radius * window / 2, 1)
    amplitude = np.clip((1 + soft - distance) / (2 * soft), 0, 1)
    return np.asarray(amplitude * np.exp(1j * defocus * distance**2), np.complex64)


def draw(params: PtychographyParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    """Return {"probe": (w, w), complex64, "positions": (J, 2), int64}, those covering the image."""
    size = _size(in_shape)
    probe = _checked_probe(given.get("probe", disc_probe(params.window, params.radius, params.defocus)))
    if "positions" in given:
        return {"probe": probe, "positions": _checked_positions(given["positions"], probe.shape, size)}
    step = max(1, round(params.radius * params.window * (1 - params.overlap)))
    axes = []
    for side, window in zip(size, probe.shape, strict=True):
        # centres from border to border, so that every pixel is lit
        count = math.ceil((side - 1) / step) + 1
        axes.append(np.rint(np.linspace(0, side - 1, count)).astype(np.int64) - window // 2)
    positions = np.stack([p.ravel() for p in np.meshgrid(*axes, indexing="ij")], 1)
    positions += rng.integers(-params.jitter, params.jitter, positions.shape, endpoint=True)
    return {"probe": probe, "positions": _checked_positions(positions, probe.shape, size)}


def build(params: PtychographyParams, in_shape: Shape, arrays: Arrays) -> Ptychography:
    """Return the operator of the arrays "probe" and "positions"."""
    size = _size(in_shape)
    probe = _checked_probe(required("ptychography", "probe", arrays))
    positions = _checked_positions(required("ptychography", "positions", arrays), probe.shape, size)
    field = ObjectField(params.object, params.low, params.high, params.depth)
    return Ptychography(in_shape, torch.from_numpy(probe), positions, field)


def _size(in_shape: Shape) -> tuple[int, int]:
    size = image_size("ptychography", in_shape)
    if len(in_shape) != 3:
        raise ConfigError(f"operator 'ptychography' expects an image of shape (C, Y, X), got {in_shape}")
    return size


def _checked_probe(probe: np.ndarray) -> np.ndarray:
    probe = numeric("probe", probe, real=False)
    if probe.ndim != 2 or not probe.any():
        raise InputError(f"the probe of shape {probe.shape} is no (w, w) field of light")
    return probe.astype(np.complex64)


def _checked_positions(positions: np.ndarray, window: Shape, size: tuple[int, int]) -> np.ndarray:
    positions = numeric("positions", positions)
    if positions.ndim != 2 or positions.shape[1] != 2 or (positions != np.rint(positions)).any():
        raise InputError(
            f"positions of shape {positions.shape} and type {positions.dtype} are not (n, 2) whole pixels",
            "give row and column of each window's first pixel",
        )
    if (positions <= -np.array(window)).any() or (positions >= np.array(size)).any():
        raise InputError(
            f"some of the {len(positions)} positions put the window of {window} outside the image of {size}",
            "give row and column of each window's first pixel, in pixels of the image",
        )
    return positions.astype(np.int64)


FAMILY = Family(
    "ptychography",
    PtychographyParams,
    draw,
    build,
    {
        "probe": "(w_y, w_x), complex, the light on the object",
        "positions": "(n, 2), row and column of each window's first pixel",
    },
    None,
    lambda params: frozenset({"probe", "positions"}),
)
