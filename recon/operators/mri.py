"""Cartesian MRI: undersampled k-space of an image, seen by one coil or many.

    y_c = M F S_c x,    F = fftshift fft2 ifftshift, orthonormal ("centred": index n // 2 is the origin in both domains)

Published settings:
    fastMRI, InverseBench   mask="random", axis="x", acceleration=4, acs=0.08 (8: acs=0.04), complex_image=true
    DDS                     mask="dds-random", acceleration=4, acs=0.08, complex_image=true
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch

from recon.errors import ConfigError, InputError
from recon.operators.cartesian import CartesianMRI
from recon.operators.checks import image_size, numeric, required
from recon.operators.coils import birdcage_maps, checked_maps
from recon.operators.family import Arrays, Family
from recon.operators.masks import PLANES, line_mask, plane_mask


@final
@dataclass(frozen=True)
class MRIParams:
    """Parameters of a Cartesian scan.

    acceleration: lines (or points) of full k-space for each measured one, at least 1.
    mask: of lines, "uniform", "random", "gaussian", "dds-random" or "dds-gaussian"; of points, "gaussian2d", "poisson",
        "dds-random2d" or "dds-gaussian2d"; "given": the array `mask` must be there. A given mask overrides the
        parameters mask, acceleration and acs.
    acs: fully sampled centre, as a number of lines (integer) or a fraction of them (0.08).
    axis: which axis of the image is undersampled by lines: "x" (whole columns of k-space are kept, as in fastMRI), "y".
    coils: their number (None: as many as the array `maps` has, or one without a map).
    maps: "birdcage" (synthetic, where there is more than one coil), or "given": the array `maps` must be there.
    complex_image: whether the image is complex; a real image's adjoint takes the real part.
    """

    acceleration: float = 4.0
    mask: Literal[
        "uniform", "random", "gaussian", "dds-random", "dds-gaussian",
        "gaussian2d", "poisson", "dds-random2d", "dds-gaussian2d", "given",
    ] = "random"  # fmt: skip
    acs: int | float = 0.08
    axis: Literal["x", "y"] = "x"
    coils: int | None = None
    maps: Literal["birdcage", "given"] = "birdcage"
    complex_image: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.acceleration < float("inf"):
            raise ConfigError(f"operator 'mri': acceleration must be at least 1, got {self.acceleration}")
        if self.acs < 0 or (isinstance(self.acs, float) and not self.acs <= 1):
            raise ConfigError(
                f"operator 'mri': acs = {self.acs} is no centre",
                "give a number of lines as an integer, or a fraction in 0..1",
            )
        if self.coils is not None and self.coils < 1:
            raise ConfigError(f"operator 'mri': coils must be at least 1, got {self.coils}")


def _draw(params: MRIParams, in_shape: tuple[int, ...], rng: np.random.Generator, given: Arrays) -> Arrays:
    size = _size(in_shape)
    arrays = {"mask": _checked_mask(given["mask"], size, params.axis) if "mask" in given else _mask(params, size, rng)}
    if "maps" in given:
        arrays["maps"] = checked_maps("mri", given["maps"], size, params.coils)
    elif params.maps == "given":
        raise ConfigError(
            "operator 'mri' with maps = 'given' came without the array 'maps'",
            "name it in an operator file (--operator FILE), or use maps = 'birdcage'",
        )
    elif params.coils is not None and params.coils > 1:
        arrays["maps"] = birdcage_maps(params.coils, size)
    return arrays


def _mask(params: MRIParams, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    if params.mask == "given":
        raise ConfigError(
            "operator 'mri' with mask = 'given' came without the array 'mask'",
            "name it in an operator file (--operator FILE), or choose another mask",
        )
    if params.mask in PLANES:
        mask = plane_mask(params.mask, size, params.acceleration, params.acs, rng)
    else:
        mask = line_mask(params.mask, size["yx".index(params.axis)], params.acceleration, params.acs, rng)
    return mask.astype(np.uint8)


def _build(params: MRIParams, in_shape: tuple[int, ...], arrays: Arrays) -> CartesianMRI:
    size = _size(in_shape)
    mask = _checked_mask(required("mri", "mask", arrays), size, params.axis)
    if mask.ndim == 1 and params.axis == "y":
        mask = mask[:, None]
    mask = np.broadcast_to(mask, size).astype(np.float32)
    if "maps" not in arrays and (params.maps == "given" or (params.coils or 1) > 1):
        required("mri", "maps", arrays)
    maps = checked_maps("mri", arrays["maps"], size, params.coils) if "maps" in arrays else None
    return CartesianMRI(torch.from_numpy(mask), None if maps is None else torch.from_numpy(maps), params.complex_image)


def _size(in_shape: tuple[int, ...]) -> tuple[int, int]:
    size = image_size("mri", in_shape)
    if len(in_shape) != 3 or in_shape[0] != 1:
        raise ConfigError(f"operator 'mri' expects an image of shape (1, Y, X), got {in_shape}", "choose one channel")
    return size


def _checked_mask(mask: np.ndarray, size: tuple[int, int], axis: str) -> np.ndarray:
    """Return a mask, (X,) or (Y,) of lines along `axis`, or (Y, X) or broadcastable to it, as uint8 0 and 1."""
    mask = numeric("mask", mask)
    lines = size["yx".index(axis)]
    fits = mask.shape == (lines,) or (
        mask.ndim == 2 and all(m in (1, n) for m, n in zip(mask.shape, size, strict=True))
    )
    if not fits:
        transposed = mask.shape in (size[::-1], (lines, 1), (1, lines)) and size[0] != size[1]
        raise InputError(
            f"mask has shape {mask.shape}, expected ({lines},) of lines along {axis}, or {size}",
            "rows and columns look transposed: give the mask as (Y, X)"
            if transposed
            else "set the operator's axis to the axis that is undersampled, or crop the mask",
        )
    values = np.unique(mask)
    if values[-1] == 0 or values[0] < 0 or len(values) > 2 or (len(values) == 2 and values[0] != 0):
        raise InputError(
            f"mask has the {len(values)} values {values[0]:g} to {values[-1]:g}, expected 0 (missing) and 1 (measured)"
        )
    return (mask != 0).astype(np.uint8)


def _reads_shape(params: MRIParams, arrays: Arrays, y_shape: tuple[int, ...]) -> tuple[int, ...] | None:
    return (1, *y_shape[1:]) if len(y_shape) == 3 else None


def _never_invented(params: MRIParams) -> frozenset[str]:
    return frozenset({"mask", "maps"} if params.maps == "given" or (params.coils or 1) > 1 else {"mask"})


FAMILY = Family(
    kind="mri",
    params=MRIParams,
    draw=_draw,
    build=_build,
    arrays={
        "mask": "sampled lines (X,) or (Y,), or samples (Y, X), of centred k-space: 1 measured, 0 not",
        "maps": "coil sensitivities (coils, Y, X), complex",
    },
    reads_shape=_reads_shape,
    never_invented=_never_invented,
)
