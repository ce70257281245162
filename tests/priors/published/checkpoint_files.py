"""The small checkpoints under fixtures/: unpacked, read, and the authors' outputs beside them."""

from __future__ import annotations

import gzip
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recon.priors.published.reader import read_checkpoint

FIXTURES = Path(__file__).parent / "fixtures"


def unpack(name: str, folder: Path) -> Path:
    """Return a fixture, such as "edm-adm.pkl", decompressed into `folder`."""
    path = folder / name
    path.write_bytes(lzma.decompress((FIXTURES / f"{name}.xz").read_bytes()))
    return path


def content_of(name: str, folder: Path) -> Any:
    """Return what the restricted reader finds in a fixture."""
    return read_checkpoint(unpack(name, folder))


def arrays_of(name: str) -> dict[str, torch.Tensor]:
    """Return the inputs `x`, `sigma`, maybe `labels`, and the authors' outputs `x0` of a fixture."""
    with np.load(FIXTURES / f"{name.partition('.')[0]}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the tensors of a published network at its full size."""
    found = json.loads(gzip.decompress((FIXTURES / f"shapes-{name}.json.gz").read_bytes()))
    return {key: tuple(shape) for key, shape in found.items()}


def as_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Return tensors without memory of these shapes; resampling filters, which are small, hold ones."""
    return {
        key: torch.ones(shape) if key.endswith("resample_filter") else torch.empty(shape, device="meta")
        for key, shape in shapes.items()
    }


def largest_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest |found - expected| of each item relative to its largest |expected|, and of those the worst."""
    error = (found - expected).flatten(1).abs().amax(dim=1)
    return float((error / expected.flatten(1).abs().amax(dim=1)).max())


def unpack_folder(name: str, folder: Path) -> Path:
    """Return a fixture that is a folder, such as "diffusers-sample", unpacked into `folder`."""
    with tarfile.open(FIXTURES / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / name
