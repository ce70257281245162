"""What flows between the rooms: arrays with named axes, geometry, units and provenance.

Axis names: `x`, `y`, `z` in space, `c` for channels, `n` for independent items. The internal layout is the stack
(N, C, Y, X): items or slices, channels, rows, columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from recon.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from recon.likelihoods import Likelihood
    from recon.operators.base import Operator

AXES = ("n", "z", "c", "y", "x")


@dataclass(frozen=True)
class Geometry:
    """How an array on disk maps to space and to units; carried from a truth or scan to the reconstruction.

    axes: one name per dimension, in file order.  affine: (4, 4), voxel (x, y, z) -> world, or None.
    spacing: size of a step along each axis, in `units`.  units: of space, e.g. "mm".
    value_range: (black, white) that the file's type declares (8-bit: 0, 255), or None.
    meta: format-specific, JSON-able facts to carry to the output (NIfTI codes, source dtype).
    """

    axes: tuple[str, ...]
    affine: np.ndarray | None = None
    spacing: tuple[float, ...] | None = None
    units: str | None = None
    value_range: tuple[float, float] | None = None
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Volume:
    """An image, stack or volume as a file holds it: `array` has one axis per name in `geometry.axes`."""

    array: np.ndarray
    geometry: Geometry

    def __post_init__(self) -> None:
        axes = self.geometry.axes
        if len(axes) != self.array.ndim or len(set(axes)) != len(axes) or not set(axes) <= set(AXES):
            raise InputError(
                f"axes {','.join(axes)} do not name the {self.array.ndim} dimensions of shape {self.array.shape}",
                f"name each axis once, from {','.join(AXES)} (--axes)",
            )


def to_stack(volume: Volume) -> np.ndarray:
    """Return the volume as (N, C, Y, X); `n` and `z` become items, a missing channel axis becomes one channel.

    Raises InputError where there is no y or x axis.
    """
    axes = list(volume.geometry.axes)
    if "y" not in axes or "x" not in axes:
        raise InputError(f"expected axes y and x, got {','.join(axes)}", "name the axes with --axes")
    array = volume.array
    for name in AXES:
        if name not in axes:
            array = array[None]
            axes.insert(0, name)
    array = array.transpose([axes.index(name) for name in AXES])
    return np.ascontiguousarray(array.reshape(-1, *array.shape[2:]))


def from_stack(stack: np.ndarray, geometry: Geometry, view: bool = False) -> Volume:
    """Put a stack (N, C, Y, X) back into the axes of `geometry`; inverse of `to_stack`.

    A channel axis that the geometry lacks must have length 1, and an items axis likewise.
    view: of the stack's memory, whatever the order of the axes, as for a stack that lies on disk.
    Raises InputError where the stack does not fit the axes.
    """
    axes = geometry.axes
    n, c = stack.shape[:2]
    if "n" in axes and "z" in axes:
        raise InputError("a geometry with both n and z axes cannot be restored from a stack")
    item = "n" if "n" in axes else "z"
    array = stack
    names = [item, "c", "y", "x"]
    for name, size in ((item, n), ("c", c)):
        if name not in axes:
            if size != 1:
                raise InputError(f"{size} {'channels' if name == 'c' else 'slices'} do not fit axes {','.join(axes)}")
            array = array.squeeze(names.index(name))
            names.remove(name)
    array = array.transpose([names.index(a) for a in axes])
    return Volume(array if view else np.ascontiguousarray(array), geometry)


def take_item(volume: Volume, index: int) -> Volume:
    """Return one slice (along z, else n) as a volume of the same axes, its affine moved to where the slice lies.

    Raises InputError if there is no such axis or index; negative indices count from the end.
    """
    axes = volume.geometry.axes
    name = next((a for a in ("z", "n") if a in axes), None)
    if name is None:
        raise InputError(f"an image with axes {','.join(axes)} has no slices to choose from", "leave out --index")
    axis = axes.index(name)
    count = volume.array.shape[axis]
    if not -count <= index < count:
        raise InputError(f"slice {index} is outside 0..{count - 1}")
    index %= count
    affine = volume.geometry.affine
    if affine is not None and name == "z":
        affine = affine.copy()
        affine[:3, 3] += affine[:3, 2] * index
    return Volume(volume.array.take([index], axis=axis), replace(volume.geometry, affine=affine))


@dataclass(frozen=True)
class OperatorSpec:
    """A forward operator as data: enough to build it again exactly.

    kind: name in `recon.operators.catalog`.  params: JSON-able parameters.  in_shape: (C, [Z,] Y, X).
    arrays: masks, coil maps, angles, kernels, by name.
    """

    kind: str
    params: dict[str, Any]
    in_shape: tuple[int, ...]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class NoiseSpec:
    """Noise of a measurement, in the measurement's own units.

    kind "gaussian": y = z + sigma n; for complex data sigma is the standard deviation of each of the real and
    imaginary parts.  kind "poisson": y = Poisson(gain z)/gain, gain in counts per unit.  kind "transmission":
    y = -ln(Poisson(gain exp(-attenuation z))/gain)/attenuation, gain in counts of a ray that nothing attenuates,
    attenuation in nepers per unit.  kind "none": exact data.
    """

    kind: str = "gaussian"
    sigma: float = 0.0
    gain: float = 0.0
    attenuation: float = 1.0


@dataclass(frozen=True)
class Scan:
    """What a scanner's file says of its data beyond an operator; what it leaves open is inferred when reconstructing.

    crop: (Y, X) at the centre of the reconstructed image that the scanner shows, or None for all of it.
    readout: axis of the image, "y" or "x", along which every line is read out; None where it is not known.
    oversampling: field of view measured along the readout for each one shown; 1 where none was added.
    lines: whether k-space is on a Cartesian grid; without it an operator for its trajectory is needed.
    notes: what reading found out, one line each for the user.
    """

    crop: tuple[int, int] | None = None
    readout: str | None = None
    oversampling: float = 1.0
    lines: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """Measurements of N items (or slices) through one operator.

    y: (N, *out_shape).  operator, noise, geometry (of the image to reconstruct) where known.
    scan: set where the data are a scanner's own, whose operator may differ from item to item and is to be completed.
    """

    y: np.ndarray
    operator: OperatorSpec | None = None
    noise: NoiseSpec | None = None
    geometry: Geometry | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    scan: Scan | None = None


@dataclass(frozen=True)
class Problem:
    """One inverse problem in the prior's units: find u with A u ~ y.

    operator: acts on u (B, C, Y, X).  y: (1, *out_shape), already shifted and scaled with the image.
    likelihood: of y given A u.
    """

    operator: Operator
    y: Tensor
    likelihood: Likelihood
