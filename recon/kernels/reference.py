"""The reference projectors, in torch alone: a stored sparse matrix, or above a memory cap one that is built anew.

`StoredMatrix` keeps A and its transpose. `StreamedMatrix` builds the matrix of a few views, uses and drops it, at every
product: slow, but its memory is bounded.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from recon.kernels.projector import Projector
from recon.kernels.rays import ConeRays, Rays
from recon.kernels.sparse import multiply, to_csr

BYTES_PER_ENTRY = 2 * (4 + 4)  # of the matrix and its transpose, with 32-bit indices and values
INDEX_LIMIT = 2**31 - 1


class StoredMatrix(Projector):
    """A sparse matrix and its stored transpose, CSR, of one type on one device."""

    name = "reference"

    def __init__(self, matrix: Tensor, transposed: Tensor) -> None:
        self.matrix, self.transposed = matrix, transposed

    def forward(self, x: Tensor) -> Tensor:
        return multiply(self.matrix, x)

    def adjoint(self, y: Tensor) -> Tensor:
        return multiply(self.transposed, y)

    def to(self, device: torch.device | None, dtype: torch.dtype | None) -> Projector:
        return StoredMatrix(self.matrix.to(device=device, dtype=dtype), self.transposed.to(device=device, dtype=dtype))


class StreamedMatrix(Projector):
    """A matrix that is never stored: blocks of views, each within `most_bytes` where a view is."""

    name = "reference"

    def __init__(self, rays: Rays | ConeRays, most_bytes: float) -> None:
        self.rays, self.most_bytes = rays, most_bytes
        per_view = BYTES_PER_ENTRY * rays.most_entries() / rays.views
        self.views = max(1, int(most_bytes / per_view / 4))  # building takes a few times what is kept

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([multiply(self._block(first, x), x) for first in self._starts()], dim=1)

    def adjoint(self, y: Tensor) -> Tensor:
        size = self.rays.rays_per_view
        x = y.new_zeros(y.shape[0], self.rays.pixels)
        for first in self._starts():
            x += multiply(self._block(first, y, True), y[:, first * size : (first + self.views) * size])
        return x

    def to(self, device: torch.device | None, dtype: torch.dtype | None) -> Projector:
        return self

    def _starts(self) -> range:
        return range(0, self.rays.views, self.views)

    def _block(self, first: int, like: Tensor, transposed: bool = False) -> Tensor:
        kind = np.float64 if like.dtype == torch.float64 else np.float32
        block = matrix_of(self.rays, kind, first, min(first + self.views, self.rays.views))
        return to_csr(block.T.tocsr() if transposed else block).to(like.device)


def matrix_of(rays: Rays | ConeRays, dtype: type = np.float32, first: int = 0, last: int | None = None) -> csr_matrix:
    """Return the projection matrix of views first .. last - 1, CSR (rays, pixels) with 32-bit indices."""
    last = rays.views if last is None else last
    parts: list[tuple[np.ndarray, ...]] = [
        (ray.astype(np.int32), pixel.astype(np.int32), weight.astype(dtype))
        for ray, pixel, weight in rays.entries(first, last)
    ]
    ray, pixel, weight = (np.concatenate(each) for each in zip(*parts, strict=True))
    matrix = csr_matrix((weight, (ray, pixel)), shape=((last - first) * rays.rays_per_view, rays.pixels))
    matrix.sum_duplicates()
    return matrix


def store(rays: Rays | ConeRays) -> StoredMatrix:
    """Return the stored matrix of all views, in float32 on the CPU."""
    matrix = matrix_of(rays)
    return StoredMatrix(to_csr(matrix), to_csr(matrix.T.tocsr()))
