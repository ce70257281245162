"""Which kernels project: Triton on a GPU, compiled C on the CPU, or the reference in torch.

`RECON_KERNELS` = triton | compiled | reference forces one of them. Otherwise the fastest that works is taken: Triton
for tensors on a GPU (CUDA or ROCm), C for float32 and float64 on the CPU, and the reference wherever neither is. Triton
is imported only where it projects. Its interpreter, with which kernels are tested, runs on the CPU if it is forced.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from recon.errors import ConfigError, ResourceError
from recon.kernels import compiled
from recon.kernels.parallel import ParallelGeometry, projection_matrix
from recon.kernels.projector import Projector
from recon.kernels.reference import BYTES_PER_ENTRY, INDEX_LIMIT, StoredMatrix, StreamedMatrix, store
from recon.kernels.scans import ConeGeometry, FanGeometry
from recon.kernels.sparse import to_csr

VARIABLE, INTERPRETER = "RECON_KERNELS", "TRITON_INTERPRET"
BACKENDS = ("triton", "compiled", "reference")
OLDEST_GPU = (8, 0)  # compute capability of NVIDIA's that Triton compiles for
Geometry = ParallelGeometry | FanGeometry | ConeGeometry


@dataclass(frozen=True)
class Choice:
    """The backend for a device, and why that one."""

    backend: str
    reason: str


def unavailable(backend: str, device: torch.device, environ: Mapping[str, str] | None = None) -> str:
    """Return why the backend cannot project tensors of the device; empty where it can."""
    if backend == "triton":
        return _without_triton() or _no_gpu(device, os.environ if environ is None else environ)
    if backend == "compiled":
        return compiled.library().reason or (
            "" if device.type == "cpu" else f"it works on the CPU, not on {device.type}"
        )
    return ""


def choose(device: torch.device, environ: Mapping[str, str] | None = None) -> Choice:
    """Return the backend for tensors of the device.

    Raises ConfigError for an unknown name in RECON_KERNELS, ResourceError for one that cannot work here.
    """
    environ = os.environ if environ is None else environ
    forced = environ.get(VARIABLE, "")
    if forced:
        if forced not in BACKENDS:
            raise ConfigError(f"{VARIABLE} = '{forced}' is unknown", f"use one of: {', '.join(BACKENDS)}, or unset it")
        reason = unavailable(forced, device, environ)
        if reason:
            raise ResourceError(f"{VARIABLE} = {forced}: {reason}", f"unset {VARIABLE}, or use reference")
        return Choice(forced, f"{VARIABLE} is set")
    refused: list[str] = []
    for backend in BACKENDS:
        reason = unavailable(backend, device, environ)
        if not reason:
            return Choice(backend, _praise(backend) if backend != "reference" else _why(refused, device))
        refused.append(reason)
    raise AssertionError("the reference works everywhere")


def projector(geometry: Geometry, memory: float, device: torch.device | None = None) -> Projector:
    """Return the projector of a geometry for tensors of a device, in float32 where it stores a matrix.

    memory: largest stored matrix with its transpose, in bytes; above it the reference stores none.
    Raises as `choose` does.
    """
    if device is None and os.environ.get(VARIABLE) == "triton" and not _without_triton():
        return _triton(geometry, torch.device("cpu"))  # to be moved: the CPU itself is refused when it projects
    device = device or torch.device("cpu")
    backend = choose(device).backend
    if backend == "triton":
        return _triton(geometry, device)
    if backend == "compiled":
        return compiled.CompiledProjector(geometry.rays())
    return _reference(geometry, memory).to(device, None)


def moved(
    projector_: Projector, geometry: Geometry, memory: float, device: torch.device | None, dtype: torch.dtype | None
) -> Projector:
    """Return the projector for tensors of another device or type: the same kernels where they work there.

    Only for Triton are others left that would work.
    """
    if device is not None:
        better = choose(device).backend == "triton" and projector_.name != "triton"
        if better or unavailable(projector_.name, device):
            return projector(geometry, memory, device).to(device, dtype)
    return projector_.to(device, dtype)


def matrix_bytes(geometry: Geometry) -> int:
    """Return the memory of a stored matrix and its transpose (a bound, where the scan has a point source)."""
    if isinstance(geometry, ParallelGeometry):
        return geometry.bytes_needed()
    return BYTES_PER_ENTRY * geometry.rays().most_entries()


def _reference(geometry: Geometry, memory: float) -> Projector:
    needed = matrix_bytes(geometry)
    if needed > memory or needed > BYTES_PER_ENTRY * INDEX_LIMIT:
        return StreamedMatrix(geometry.rays(), memory)
    if isinstance(geometry, ParallelGeometry):
        matrix, transposed = projection_matrix(geometry, np.float32)
        return StoredMatrix(to_csr(matrix), to_csr(transposed))
    return store(geometry.rays())


def _triton(geometry: Geometry, device: torch.device) -> Projector:
    from recon.kernels.triton.projector import TritonProjector

    return TritonProjector(geometry, device)


def _without_triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install 'diffusion-recon[gpu]')"
    return ""


def _no_gpu(device: torch.device, environ: Mapping[str, str]) -> str:
    if device.type == "cpu" and environ.get(INTERPRETER) == "1":
        return "" if environ.get(VARIABLE) == "triton" else f"its interpreter serves tests: set {VARIABLE} = triton"
    if device.type != "cuda":
        return f"Triton works on a GPU (CUDA or ROCm), not on {device.type}"
    if torch.cuda.is_available() and torch.version.hip is None:
        found = torch.cuda.get_device_capability(device)
        if found < OLDEST_GPU:
            return "Triton needs compute capability {}.{}, this GPU has {}.{}".format(*OLDEST_GPU, *found)
    return ""


def _praise(backend: str) -> str:
    if backend == "compiled":
        return f"C with {compiled.library().instructions}, {torch.get_num_threads()} threads, no stored matrix"
    return f"Triton for this {'ROCm' if torch.version.hip else 'CUDA'} GPU, no stored matrix"


def _why(refused: list[str], device: torch.device) -> str:
    return refused[0 if device.type == "cuda" else -1]
