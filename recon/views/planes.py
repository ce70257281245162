"""Three orthogonal planes of a volume, each with square pixels of one physical size."""

from __future__ import annotations

import numpy as np

from recon.errors import InputError
from recon.views.images import Window, shared_window
from recon.views.sheet import sheet


def planes(
    stack: np.ndarray,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    window: Window | None = None,
    flip_rows: bool = False,
    heading: str = "",
) -> np.ndarray:
    """Return the middle planes of a volume (Z, C, Y, X) across z, y and x as one RGB picture (Y, X, 3), uint8.

    spacing: of slices, rows and columns, in one unit; voxels are repeated so that lengths are right.
    flip_rows: the first row at the bottom in the plane across z; across y and x, the first slice is at the bottom.
    Planes are centred on black squares of one size. Raises InputError for a volume of one slice.
    """
    if stack.ndim != 4 or len(stack) < 2:
        raise InputError(f"orthogonal planes need a volume of several slices, got shape {stack.shape}")
    z, _, y, x = (n // 2 for n in stack.shape)
    dz, dy, dx = spacing
    shown = shared_window(stack) if window is None else window
    across_z, across_y, across_x = stack[z], stack[:, :, y].swapaxes(0, 1), stack[..., x].swapaxes(0, 1)
    unit = min(spacing)
    drawn = [
        _scaled(across_z[:, ::-1] if flip_rows else across_z, dy / unit, dx / unit),
        _scaled(across_y[:, ::-1], dz / unit, dx / unit),
        _scaled(across_x[:, ::-1], dz / unit, dy / unit),
    ]
    side = max(max(plane.shape[1:]) for plane in drawn)
    titles = [f"{name} {index + 1} of {count}" for name, index, count in _places(stack.shape, z, y, x)]
    return sheet([_centred(plane, side, shown[0]) for plane in drawn], titles, [], shown, heading=heading)


def _places(shape: tuple[int, ...], z: int, y: int, x: int) -> tuple[tuple[str, int, int], ...]:
    return ("slice", z, shape[0]), ("row", y, shape[2]), ("column", x, shape[3])


def _scaled(plane: np.ndarray, down: float, across: float) -> np.ndarray:
    """Return a plane (C, Y, X) with its rows and columns repeated by factors of 1 or more."""
    rows, columns = (
        np.minimum(np.arange(round(n * factor)) // factor, n - 1).astype(int)
        for n, factor in zip(plane.shape[1:], (down, across), strict=True)
    )
    return plane[:, rows][:, :, columns]


def _centred(plane: np.ndarray, side: int, black: float) -> np.ndarray:
    square = np.full((plane.shape[0], side, side), black, plane.dtype)
    top, left = ((side - n) // 2 for n in plane.shape[1:])
    square[:, top : top + plane.shape[1], left : left + plane.shape[2]] = plane
    return square
