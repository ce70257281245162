"""Whether coil maps are those of the k-space that they came with."""

from __future__ import annotations

import numpy as np

from recon.data import NoiseSpec, OperatorSpec
from recon.errors import InputError
from recon.operators.base import Operator
from recon.operators.calibration import calibration_size, explained, measured_samples
from recon.operators.coils import likely_cause

CALIBRATION = 24  # samples a side of the centre of k-space, at most
LEAST = 4
PLAUSIBLE = 0.9  # of the energy of the coils' images; noise is taken off


def check_coils(y: np.ndarray, spec: OperatorSpec, operator: Operator) -> None:
    """Raise InputError where data (..., *out_shape) have another number of coils than the maps of their operator."""
    axis, maps = -len(operator.out_shape), spec.arrays.get("maps")
    if maps is None or y.ndim < -axis or y.shape[axis + 1 :] != operator.out_shape[1:] or y.shape[axis] == len(maps):
        return
    raise InputError(
        f"the k-space has {y.shape[axis]} coils, but the array 'maps' has {len(maps)}: shape {maps.shape}, "
        f"expected {(y.shape[axis], *maps.shape[1:])}",
        likely_cause(maps.shape, maps.shape[1:]),
    )


def doubts(y: np.ndarray, spec: OperatorSpec, noise: NoiseSpec) -> list[str]:
    """Return a line where the maps of a Cartesian scan do not explain its k-space (coils, Y, X); else nothing."""
    maps = spec.arrays.get("maps")
    if spec.kind != "mri" or maps is None or maps.ndim != 3 or y.shape != maps.shape or len(maps) < 2:
        return []
    region = calibration_size(measured_samples(y), CALIBRATION)
    if min(region) < LEAST:
        return []
    share = explained(y, maps, region, noise.sigma)
    if share >= PLAUSIBLE:
        return []
    return [
        f"the coil maps explain {max(share, 0):.0%} of the centre of k-space: are they of this scan, neither flipped "
        "nor shifted, and their coils in the order of the data?"
    ]
