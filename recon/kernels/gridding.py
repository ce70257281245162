"""The compiled CPU kernel of transforms off the grid: coil maps, padded transforms and interpolation in one go.

    y_c = P F S_c x   and its adjoint,    F the plain transform of the padded image, P a real sparse matrix

Coils lie side by side in vector registers, as for SENSE on the grid. Both directions gather, by P and by its stored
transpose, so that the pair is adjoint by construction and results do not depend on the number of threads.
"""

from __future__ import annotations

import ctypes
from typing import Any, final

import torch
from torch import Tensor

from recon.kernels.sense import IMAGE_TO_SAMPLES, SAMPLES_TO_IMAGE, Coils, Fourier


class _Gridding(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("rows", "columns", "tall", "wide", "top", "left", "coils", "samples")),
        ("column", Fourier),
        ("row", Fourier),
        *((name, ctypes.c_void_p) for name in ("maps", "first", "cells", "weights")),
        *((name, ctypes.c_void_p) for name in ("first_back", "samples_back", "weights_back")),
        ("complex_image", ctypes.c_long),
    )


@final
class CompiledGridding:
    """Samples off the grid of images (B, 1, Y, X), on the CPU, in the type of the maps. Immutable."""

    def __init__(
        self,
        maps: Tensor,
        matrix: Tensor,
        transposed: Tensor,
        grid: tuple[int, int],
        corner: tuple[int, int],
        complex_image: bool,
    ) -> None:
        """Describe the scan to the library.

        maps: S (coils, Y, X), complex.  matrix: P (samples, prod(grid)), CSR with 32-bit indices, and its transpose.
        corner: where the image starts in the grid.  complex_image: else the real part counts.
        """
        self.parts = (maps, matrix, transposed, grid, corner, complex_image)
        self._coils, self._samples = Coils(maps, -2, complex_image), matrix.shape[0]
        self._scan = _Gridding(
            *(*maps.shape[1:], *grid, *corner, maps.shape[0], self._samples),
            *(self._coils.plan(side) for side in grid),
            self._coils.maps,
            *self._held(matrix),
            *self._held(transposed),
            int(complex_image),
        )

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), self.parts

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledGridding:
        return self  # immutable, and its description points into its own arrays

    def forward(self, x: Tensor) -> Tensor:
        """Return the samples (B, coils, samples) of images (B, 1, Y, X)."""
        y = x.new_empty(x.shape[0], self._coils.count, self._samples, dtype=self._coils.real.to_complex())
        return self._coils.run(self._scan, x, y, IMAGE_TO_SAMPLES, "gridding")

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the images (B, 1, Y, X) of samples (B, coils, samples)."""
        x = y.new_empty(y.shape[0], 1, *self.parts[0].shape[1:], dtype=self._coils.image)
        return self._coils.run(self._scan, y, x, SAMPLES_TO_IMAGE, "gridding")

    def _held(self, matrix: Tensor) -> tuple[int, int, int]:
        whole = (matrix.crow_indices().to(torch.int32), matrix.col_indices().to(torch.int32), matrix.values())
        first, columns, weights = (self._coils.hold(part) for part in whole)
        return first, columns, weights
