"""Which kernels project: Triton on a GPU, compiled C on the CPU, or the reference in torch.

`RECON_KERNELS` = triton | compiled | reference forces one of them. Otherwise the fastest that works is taken: Triton
for CUDA tensors, C for float32 and float64 on the CPU, and the reference wherever neither is.
"""

from __future__ import annotations

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

VARIABLE = "RECON_KERNELS"
BACKENDS = ("triton", "compiled", "reference")
Geometry = ParallelGeometry | FanGeometry | ConeGeometry


@dataclass(frozen=True)
class Choice:
    """The backend for a device, and why that one."""

    backend: str
    reason: str


def unavailable(backend: str, device: torch.device) -> str:
    """Return why the backend cannot project tensors of the device; empty where it can."""
    if backend == "triton":
        return "this version has no Triton projectors"
    if backend == "compiled":
        return compiled.library().reason or (
            "" if device.type == "cpu" else f"it works on the CPU, not on {device.type}"
        )
    return ""


def choose(device: torch.device, environ: Mapping[str, str] | None = None) -> Choice:
    """Return the backend for tensors of the device.

    Raises ConfigError for an unknown name in RECON_KERNELS, ResourceError for one that cannot work here.
    """
    forced = (os.environ if environ is None else environ).get(VARIABLE, "")
    if forced:
        if forced not in BACKENDS:
            raise ConfigError(f"{VARIABLE} = '{forced}' is unknown", f"use one of: {', '.join(BACKENDS)}, or unset it")
        reason = unavailable(forced, device)
        if reason:
            raise ResourceError(f"{VARIABLE} = {forced}: {reason}", f"unset {VARIABLE}, or use reference")
        return Choice(forced, f"{VARIABLE} is set")
    refused: list[str] = []
    for backend in BACKENDS:
        reason = unavailable(backend, device)
        if not reason:
            return Choice(backend, _praise(backend) if backend != "reference" else "; ".join(refused[-1:]))
        refused.append(reason)
    raise AssertionError("the reference works everywhere")


def projector(geometry: Geometry, memory: float, device: torch.device | None = None) -> Projector:
    """Return the projector of a geometry for tensors of a device, in float32 where it stores a matrix.

    memory: largest stored matrix with its transpose, in bytes; above it the reference stores none.
    Raises as `choose` does.
    """
    device = device or torch.device("cpu")
    if choose(device).backend == "compiled":
        return compiled.CompiledProjector(geometry.rays())
    return _reference(geometry, memory).to(device, None)


def moved(
    projector_: Projector, geometry: Geometry, memory: float, device: torch.device | None, dtype: torch.dtype | None
) -> Projector:
    """Return the projector for tensors of another device or type: the same kernels where they work there."""
    if device is None or not unavailable(projector_.name, device):
        return projector_.to(device, dtype)
    return projector(geometry, memory, device).to(device, dtype)


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


def _praise(backend: str) -> str:
    if backend == "compiled":
        return f"C with {compiled.library().instructions}, {torch.get_num_threads()} threads, no stored matrix"
    return "a CUDA device and Triton are there"
