"""Axis names of arrays: given, unambiguous, or an error; never a guess."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recon.data import AXES, Geometry, Volume
from recon.errors import InputError
from recon.io.disk import converted, in_parts

Axes = str | Sequence[str] | None


def parse_axes(axes: Axes) -> tuple[str, ...] | None:
    """Return axis names from "z,y,x", "zyx" or a sequence; None stays None. Raises InputError on unknown names."""
    if axes is None:
        return None
    names = tuple(axes.lower().replace(",", "").replace(" ", "")) if isinstance(axes, str) else tuple(axes)
    if not names or not set(names) <= set(AXES) or len(set(names)) != len(names):
        raise InputError(
            f"axes '{','.join(names)}' are not valid", f"name each axis once, from {','.join(AXES)} (--axes)"
        )
    return names


def resolve_axes(shape: Sequence[int], axes: tuple[str, ...] | None, name: str) -> tuple[str, ...]:
    """Return the axes given, or those that a shape leaves no doubt about.

    Two dimensions are y,x; further ones must have length 1 (all before the last two, or one after the first two).
    Raises InputError, naming --axes, where the axes are unknown or do not fit.
    """
    shape = tuple(shape)
    if axes is not None:
        if len(axes) != len(shape):
            raise InputError(
                f"{name}: axes {','.join(axes)} do not fit shape {shape}", "name one axis a dimension (--axes)"
            )
        return axes
    if len(shape) == 2:
        return "y", "x"
    leading = len(shape) in (3, 4) and all(n == 1 for n in shape[:-2])
    trailing = len(shape) == 3 and shape[2] == 1
    if leading and not trailing:
        return ("z", "y", "x") if len(shape) == 3 else ("n", "c", "y", "x")
    if trailing and not leading:
        return "y", "x", "c"
    raise InputError(f"{name}: shape {shape} does not say which axis is which", axes_hint(len(shape)))


def axes_hint(ndim: int) -> str:
    """Return the advice to name the axes, with an example for this number of dimensions."""
    examples = {3: "--axes z,y,x for slices or --axes y,x,c for colours", 4: "--axes z,y,x,c"}
    if ndim not in examples:
        return f"images have 2 to 4 dimensions, named from {','.join(AXES)}"
    return f"name them, for example {examples[ndim]}"


def arrange(volume: Volume, order: Sequence[str], drop: Sequence[str] = ()) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the array with its axes in `order`, those of `drop` left out where their length is 1, and their names."""
    axes = volume.geometry.axes
    gone = [name for name in axes if name in drop and volume.array.shape[axes.index(name)] == 1]
    names = tuple(name for name in order if name in axes and name not in gone)
    return volume.array.transpose([axes.index(n) for n in (*gone, *names)])[(0,) * len(gone)], names


def grey_slices(volume: Volume, what: str, complex_values: bool = False) -> np.ndarray:
    """Return a grey image as slices (z, y, x); a picture is one slice, items and channels of length 1 are dropped.

    what: the format, for the message of the InputError that colours, items and, unless asked for, complex values raise.
    """
    axes, shape = volume.geometry.axes, volume.array.shape
    sizes = dict(zip(axes, shape, strict=True))
    if sizes.get("c", 1) > 1 or sizes.get("n", 1) > 1 or not {"y", "x"} <= set(axes):
        raise InputError(
            f"{what} holds grey slices, got axes {','.join(axes)} of shape {shape}", "write .npz, .h5 or .nii"
        )
    if volume.array.dtype.kind == "c" and not complex_values:
        raise InputError(f"{what} holds real values, got complex ones", "write .npz, .h5 or .nii")
    array, names = arrange(volume, ("z", "y", "x"), drop=("n", "c"))
    return array if "z" in names else array[None]


def known_steps(geometry: Geometry, units: tuple[str, ...] = ("mm",)) -> tuple[float, float, float] | None:
    """Return the spacing along (z, y, x), 1 for an axis that lacks; None where it is unknown or in other units."""
    if geometry.spacing is None or geometry.units not in units:
        return None
    steps = dict(zip(geometry.axes, (float(s) for s in geometry.spacing), strict=True))
    found = (steps.get("z", 1.0), steps.get("y", 1.0), steps.get("x", 1.0))
    return found if min(found) > 0 and max(found) < np.inf else None


def declared_range(dtype: np.dtype) -> tuple[float, float] | None:
    """Return (black, white) that a picture's type declares: bool, 8 or 16 bit unsigned; None for all others."""
    return {"b1": (0.0, 1.0), "u1": (0.0, 255.0), "u2": (0.0, 65535.0)}.get(f"{dtype.kind}{dtype.itemsize}")


def plain_geometry(array: np.ndarray, axes: tuple[str, ...] | None, name: str, form: str) -> Geometry:
    """Return the geometry of an array that comes without one: axes as given or unambiguous, range by type."""
    return Geometry(
        resolve_axes(array.shape, axes, name),
        value_range=declared_range(array.dtype),
        meta={"format": form, "dtype": str(array.dtype)},
    )


def to_float32(array: np.ndarray) -> np.ndarray:
    """Return the values in single precision, or in double where wide integers or large values would be changed."""
    if array.dtype.kind == "c":
        return array.astype(np.complex64, copy=False)
    if array.dtype == np.float32:
        return array
    parts = in_parts(array) if array.ndim > 1 else iter([array])
    return converted(array, np.float32 if all(_is_single(part) for part in parts) else np.float64)


def _is_single(array: np.ndarray) -> bool:
    """Tell whether single precision holds values: whole numbers exactly, others without becoming infinite."""
    if array.dtype.kind == "f":
        limit = np.finfo(np.float32).max
        return array.dtype.itemsize <= 4 or not bool((np.isfinite(array) & (np.abs(array) > limit)).any())
    return array.dtype.itemsize <= 2 or np.array_equal(array.astype(np.float32), array.astype(np.float64))
