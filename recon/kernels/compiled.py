"""The compiled CPU projectors: a C library that the wheel carries, called through ctypes.

The library (`csrc/kernels.c`) knows neither Python nor torch; it is built at installation where there is a C compiler,
and is missing otherwise. It chooses AVX2 at run time, works on as many threads as torch, started for each call, and
stores no matrix: positions and weights of the rays are computed line by line, the same in both directions.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recon.errors import ResourceError
from recon.kernels.projector import Projector
from recon.kernels.rays import ConeRays, Rays

ABI = 3
STEM = "_projectors"
CLOSEST, WIDEST = 1.0, 2.0  # pitch of parallel rays that the gathering transpose handles


@dataclass(frozen=True)
class Library:
    """The loaded library, or the reason why there is none. instructions: what it uses of this processor."""

    handle: ctypes.CDLL | None
    instructions: str = ""
    reason: str = ""


@functools.cache
def library() -> Library:
    """Load the library once a process."""
    found = sorted(p for p in Path(__file__).parent.glob(f"{STEM}*") if p.suffix in (".so", ".dylib", ".pyd", ".dll"))
    if not found:
        return Library(None, reason="no compiled kernels in this installation: it had no C compiler")
    try:
        handle = ctypes.CDLL(str(found[0]))
        abi = handle.recon_abi()
    except (OSError, AttributeError) as err:
        return Library(None, reason=f"the compiled kernels do not load: {str(err).splitlines()[0]}")
    if abi != ABI:
        return Library(None, reason="the compiled kernels are of another version: install recon again")
    handle.recon_instructions.restype = ctypes.c_char_p
    return Library(handle, handle.recon_instructions().decode())


def call(name: str, *arguments: Any) -> int:
    """Call a function of the library with as many threads as torch; return what it returns, 0 where all went well.

    Tensors go as the address of their memory, which they must fill without gaps; floats as double, integers as long,
    None as a null pointer.
    """
    function = getattr(library().handle, name)
    return int(function(*map(_argument, arguments), max(1, torch.get_num_threads())))


def _argument(value: Any) -> Any:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, float):
        return ctypes.c_double(value)
    return ctypes.c_long(value) if isinstance(value, int) else value


class _Rays(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("rows", "columns", "views", "detectors")),
        *((name, ctypes.c_void_p) for name in ("start", "slope", "height", "segments", "first_segment", "pitch")),
        ("walks", ctypes.c_int * 2),
        ("pitched", ctypes.c_int),
    )


class _Cone(ctypes.Structure):
    _fields_ = (
        ("plane", _Rays),
        *((name, ctypes.c_long) for name in ("slices", "height")),
        *((name, ctypes.c_double) for name in ("centre", "lowest", "pitch")),
        *((name, ctypes.c_void_p) for name in ("depth", "deepening", "tilt")),
    )


class CompiledProjector(Projector):
    """Joseph's method in C, of float32 and float64 tensors on the CPU."""

    name = "compiled"

    def __init__(self, rays: Rays | ConeRays) -> None:
        """Describe the rays to the library. Raises ResourceError where it is missing."""
        if library().handle is None:
            raise ResourceError(library().reason, "install a C compiler and then recon again")
        self.rays = rays
        self._kept: list[np.ndarray] = []
        if isinstance(rays, ConeRays):
            parts = (rays.slices, rays.rows, rays.centre, rays.lowest, rays.pitch)
            self._scan: _Rays | _Cone = _Cone(
                self._plane(rays.plane), *parts, *self._hold(rays.depth, rays.deepening, rays.tilt)
            )
        else:
            self._scan = self._plane(rays)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.rays,)

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledProjector:
        return self  # immutable, and its description points into its own arrays

    def forward(self, x: Tensor) -> Tensor:
        y = x.new_empty(x.shape[0], self.rays.views * self.rays.rays_per_view)
        self._call(x, y, 0)
        return y

    def adjoint(self, y: Tensor) -> Tensor:
        x = y.new_empty(y.shape[0], self.rays.pixels)
        self._call(x, y, 1)
        return x

    def to(self, device: torch.device | None, dtype: torch.dtype | None) -> Projector:
        return self

    def _call(self, x: Tensor, y: Tensor, back: int) -> None:
        letter = {torch.float32: "f", torch.float64: "d"}[x.dtype]
        kind = "cone" if isinstance(self._scan, _Cone) else "rays"
        x, y = x.contiguous(), y.contiguous()
        pointers = [ctypes.c_void_p(each.data_ptr()) for each in (x, y)]
        function = getattr(library().handle, f"recon_{kind}_{letter}")
        batch, threads = ctypes.c_long(x.shape[0]), max(1, torch.get_num_threads())
        if function(ctypes.byref(self._scan), *pointers, batch, threads, back):
            raise ResourceError("out of memory in the projector", "use a smaller batch or image")

    def _plane(self, rays: Rays) -> _Rays:
        segments, first = rays.segments()
        pitch = rays.pitch()
        pitch[(pitch < CLOSEST) | (pitch > WIDEST)] = 0
        held = self._hold(rays.start, rays.slope, rays.height, segments, first, pitch)
        walks = (ctypes.c_int * 2)(*(int((rays.axis == axis).any()) for axis in (0, 1)))
        return _Rays(*rays.shape, rays.views, rays.detectors, *held, walks, int(pitch.any()))

    def _hold(self, *arrays: np.ndarray) -> Sequence[int]:
        """Return the addresses of C-contiguous copies that live as long as the projector."""
        kept = [np.ascontiguousarray(array) for array in arrays]
        self._kept.extend(kept)
        return [array.ctypes.data for array in kept]
