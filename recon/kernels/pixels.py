"""The compiled CPU backprojection of filtered views, which interpolates where pixels and voxels are seen.

It serves float32 and float64 tensors on the CPU that need no gradient; `fbp.py` and `point_source.py` do the same in
torch.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recon.errors import ResourceError
from recon.kernels import fused
from recon.kernels.compiled import call
from recon.kernels.vectors import LETTERS


class _Sight(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("slices", "rows", "columns", "height", "views", "detectors")),
        *((name, ctypes.c_void_p) for name in ("across", "along")),
        *((name, ctypes.c_double) for name in ("magnification", "origin", "distance", "rise", "middle", "lowest")),
        ("curved", ctypes.c_long),
    )


@dataclass(frozen=True)
class Sight:
    """How pixels of an image (Y, X) are seen: at column magnification (across/along) - origin, by (distance/along)^2.

    across, along: (views, 3), values at pixel (0, 0), and what a row and a column add.  curved: the column is
    magnification arctan(across/along) - origin, the factor distance/(across^2 + along^2).
    """

    across: np.ndarray
    along: np.ndarray
    magnification: float
    origin: float
    distance: float
    curved: bool = False


def sight(
    x: np.ndarray,
    y: np.ndarray,
    directions: tuple[np.ndarray, np.ndarray],
    magnification: float,
    origin: float,
    distance: float | None,
    curved: bool = False,
) -> Sight:
    """Return how pixels at x (columns) and y (rows), evenly spaced, are seen along (-sin, cos) of each view.

    distance: of the source from the axis of rotation, None for parallel beams.
    """
    cos, sin = directions
    right, down = (float(axis[1] - axis[0]) if len(axis) > 1 else 0.0 for axis in (x, y))
    across = np.stack([x[0] * cos + y[0] * sin, down * sin, right * cos], 1)
    if distance is None:
        along = np.broadcast_to([1.0, 0.0, 0.0], across.shape)
    else:
        along = np.stack([distance - x[0] * sin + y[0] * cos, down * cos, -right * sin], 1)
    return Sight(across, along, magnification, origin, 1.0 if distance is None else distance, curved)


def serves(data: Tensor) -> bool:
    """Return whether the library takes these data."""
    recorded = torch.is_grad_enabled() and data.requires_grad
    return data.dtype in LETTERS and not recorded and fused.backend(data.device) == "compiled"


def backproject_plane(filtered: Tensor, seen: Sight, shape: tuple[int, int]) -> Tensor:
    """Return the sum over views of their values where pixels are seen: (B, views, detectors) -> (B, *shape)."""
    padded = torch.nn.functional.pad(filtered.detach(), (1, 1)).contiguous()
    image = padded.new_empty(len(padded), *shape)
    _see(seen, padded, image, (1, *shape, 0, *filtered.shape[1:]), (0.0, 0.0, 0.0))
    return image


def backproject_volume(
    filtered: Tensor, seen: Sight, shape: tuple[int, int, int], rise: float, lowest: float
) -> Tensor:
    """Return the sum over views of their values where voxels are seen: (B, views, rows, columns) -> (B, *shape).

    rise, lowest: slice z is seen at detector row rise (z - middle)/along - lowest.
    """
    volume = filtered.new_empty(len(filtered), *shape)
    views, height, columns = filtered.shape[1:]
    for data, found in zip(filtered.detach(), volume, strict=True):
        padded = data.new_zeros(views, columns + 2, height + 2)
        padded[:, 1:-1, 1:-1] = data.mT
        _see(seen, padded[None], found, (*shape, height, views, columns), (rise, (shape[0] - 1) / 2, lowest))
    return volume


def _see(
    seen: Sight, padded: Tensor, image: Tensor, sizes: tuple[int, ...], heights: tuple[float, float, float]
) -> None:
    """Fill the image; sizes, heights: the counts of `csrc/kernels.c`, and rise, middle and lowest."""
    held = [np.ascontiguousarray(part, float) for part in (seen.across, seen.along)]
    described = _Sight(
        *sizes,
        *(part.ctypes.data for part in held),
        *(seen.magnification, seen.origin, seen.distance, *heights),
        int(seen.curved),
    )
    if call(f"recon_see_{LETTERS[image.dtype]}", ctypes.byref(described), padded, image, len(padded)):
        raise ResourceError("out of memory in the backprojection", "use a smaller batch or image")
