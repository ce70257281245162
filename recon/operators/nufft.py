"""The Fourier transform at frequencies off the grid, by interpolation in an oversampled one.

    y_j = sum_n x_n exp(-2 pi i k_j (n - N // 2))        ~ P fft(zero-padded c x)

P holds Kaiser-Bessel weights, W points along each axis, as a sparse matrix (CSR); c is the inverse of the kernel's
transform. The image lies in the middle of the padded grid, whose phase is then (-1)^m: signs of P, which stays real.
With W = 6 on a grid 1.5 times as fine the error is below 1e-4. The adjoint has the same weights: it is the
exact transpose, whatever the error of the transform itself.

Sources: Jackson et al., IEEE Trans. Med. Imaging 10, 1991 (kernel); Beatty et al., ibid. 24, 2005 (its shape for
coarse grids); Fessler and Sutton, IEEE Trans. Signal Process. 51, 2003 (the matrix form).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, final

import numpy as np
import scipy.sparse
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from recon.errors import ResourceError
from recon.kernels import fused
from recon.kernels.gridding import CompiledGridding
from recon.kernels.sense import fits
from recon.kernels.sparse import to_csr
from recon.operators.linear_map import linear_map

Place = str | torch.device | None

TOGETHER = 4  # images in one product with the matrix: the product gains from more, their grids leave the cache


class Transform(ABC):
    """The Fourier transform of images to M frequencies. Immutable.

    weights: (*shape), real, which images are multiplied by before `forward` and after `adjoint`, so that callers can
    merge them with factors of their own.
    """

    weights: Tensor

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Return samples (B, M) of weighted images (B, *shape), complex, without gradient."""

    @abstractmethod
    def adjoint(self, samples: Tensor) -> Tensor:
        """Return the images (B, *shape) of samples (B, M), complex, still to be weighted, without gradient."""

    @abstractmethod
    def to(self, device: Place, dtype: torch.dtype | None) -> Transform:
        """Return the transform on another device and/or in float32 or float64."""


def transform(by: Transform, images: Tensor) -> Tensor:
    """Return samples (B, M) of weighted images (B, *shape); differentiable any number of times by the adjoint."""
    return linear_map(images, by.forward, by.adjoint)


def transform_back(by: Transform, samples: Tensor) -> Tensor:
    """Return images (B, *shape), still to be weighted, of samples (B, M); differentiable by `transform`."""
    return linear_map(samples, by.adjoint, by.forward)


@final
class Gridding(Transform):
    """The transform by a stored matrix of Kaiser-Bessel weights."""

    def __init__(
        self,
        path: np.ndarray,
        shape: tuple[int, ...],
        oversampling: float = 1.5,
        width: int = 6,
        device: Place = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Make the matrix of frequencies (M, d), cycles per pixel in the order x, y[, z], for images of `shape`."""
        self.path, self.shape, self.oversampling, self.width = path, shape, oversampling, width
        self.grid = tuple(_side(n, oversampling, width) for n in shape)
        kind = np.float64 if dtype == torch.float64 else np.float32
        matrix, weights = _matrix(path, shape, self.grid, width)
        single = matrix.astype(kind)
        self.matrix = to_csr(single).to(device)
        self.transposed = to_csr(single.T.tocsr()).to(device)
        self.weights = torch.from_numpy(weights.astype(kind)).to(device)
        before = [g // 2 - n // 2 for g, n in zip(self.grid, shape, strict=True)]
        self.inside = tuple(slice(b, b + n) for b, n in zip(before, shape, strict=True))

    def forward(self, images: Tensor) -> Tensor:
        found = images.new_empty(images.shape[0], self.matrix.shape[0])
        frame = images.new_zeros(self.grid)
        for first in range(0, images.shape[0], TOGETHER):
            group = images[first : first + TOGETHER]
            columns = images.new_empty(self.matrix.shape[1], group.shape[0])
            for column, image in zip(columns.unbind(1), group, strict=True):
                frame[self.inside] = image
                column.copy_(torch.fft.fftn(frame).flatten())
            found[first : first + TOGETHER] = _applied(self.matrix, columns).t()
        return found

    def adjoint(self, samples: Tensor) -> Tensor:
        found = samples.new_empty(samples.shape[0], *self.shape)
        for first in range(0, samples.shape[0], TOGETHER):
            columns = _applied(self.transposed, samples[first : first + TOGETHER].t().contiguous())
            for image, k in zip(found[first : first + TOGETHER], columns.unbind(1), strict=True):
                # the adjoint of the transform is not divided by its size
                image.copy_(torch.fft.ifftn(k.reshape(self.grid), norm="forward")[self.inside])
        return found

    def compiled(self, factors: Tensor, complex_image: bool) -> CompiledGridding | None:
        """Return the compiled kernel of samples of images times factors (coils, *shape), or None where none serves."""
        small, real = self.matrix.crow_indices().dtype == torch.int32, self.weights.dtype
        if len(self.grid) != 2 or not small or fused.backend(factors.device) != "compiled":
            return None
        if not fits(factors.shape[0], self.grid, real):
            return None
        corner = (self.inside[0].start, self.inside[1].start)
        return CompiledGridding(
            factors, self.matrix, self.transposed, (self.grid[0], self.grid[1]), corner, complex_image
        )

    def to(self, device: Place, dtype: torch.dtype | None) -> Gridding:
        kind = self.weights.dtype if dtype is None else dtype
        place = self.weights.device if device is None else device
        return Gridding(self.path, self.shape, self.oversampling, self.width, place, kind)


def gridding_bytes(samples: int, dimensions: int, width: int) -> int:
    """Return the memory of the matrix and its transpose, in single precision."""
    return 16 * samples * width**dimensions


@final
class Finufft(Transform):
    """The transform by FINUFFT, matrix-free: for volumes and long scans, on the CPU; `to` a GPU gives cuFINUFFT.

    Source: Barnett, Magland, af Klinteberg, SIAM J. Sci. Comput. 41, 2019.
    """

    def __init__(
        self,
        path: np.ndarray,
        shape: tuple[int, ...],
        together: int = 1,
        accuracy: float = 1e-5,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Plan transforms of frequencies (M, d); `together`: images that one call takes, such as the coils."""
        try:
            import finufft
        except ImportError as err:
            raise ResourceError(
                "the package finufft is not installed", "pip install 'diffusion-recon[nufft]', or backend = 'gridding'"
            ) from err
        self.path, self.shape, self.together, self.accuracy = path, shape, together, accuracy
        self.weights = torch.ones((1,) * len(shape), dtype=dtype)
        self.kind = dtype.to_complex()
        real, kind = (np.float64, "complex128") if dtype == torch.float64 else (np.float32, "complex64")
        # FINUFFT's angles run along the axes of the array: slowest first
        angles = [np.ascontiguousarray(2 * math.pi * path[:, d], real) for d in reversed(range(len(shape)))]
        settings: dict[str, Any] = {"eps": accuracy, "dtype": kind, "modeord": 0}
        self.plans = tuple(
            finufft.Plan(which, shape, together, isign=sign, **settings) for which, sign in ((2, -1), (1, 1))
        )
        for plan in self.plans:
            plan.setpts(*angles)

    def forward(self, images: Tensor) -> Tensor:
        return self._executed(0, images, self.shape)

    def adjoint(self, samples: Tensor) -> Tensor:
        return self._executed(1, samples, (len(self.path),)).reshape(-1, *self.shape)

    def to(self, device: Place, dtype: torch.dtype | None) -> Transform:
        """Return the transform there, by cuFINUFFT on a CUDA GPU. Raises ResourceError where neither works."""
        place = torch.device("cpu" if device is None else device)
        kind = self.weights.dtype if dtype is None else dtype
        accuracy = self.accuracy if kind == torch.float32 else min(self.accuracy, 1e-13)
        if place.type == "cpu":
            return Finufft(self.path, self.shape, self.together, accuracy, kind)
        if place.type != "cuda":
            raise ResourceError(
                f"FINUFFT works on the CPU and on CUDA GPUs, not on {place.type}",
                "use backend = 'gridding', or --device cpu",
            )
        from recon.operators.nufft_gpu import Cufinufft

        return Cufinufft(self.path, self.shape, self.together, accuracy, kind, place)

    def _executed(self, which: int, values: Tensor, shape: tuple[int, ...]) -> Tensor:
        groups = values.detach().to(self.kind).reshape(-1, self.together, *shape).contiguous().numpy()
        found = [self.plans[which].execute(g if self.together > 1 else g[0]) for g in groups]
        return torch.from_numpy(np.stack(found)).reshape(values.shape[0], -1)


def _applied(matrix: Tensor, columns: Tensor) -> Tensor:
    """Return A V for a real sparse A (m, n) and complex V (n, B): (m, B)."""
    found = matrix @ torch.view_as_real(columns).flatten(1)
    return torch.view_as_complex(found.unflatten(1, (-1, 2)))


def _side(n: int, oversampling: float, width: int) -> int:
    """Return an even side of the padded grid, quick to transform."""
    return 2 * int(next_fast_len(math.ceil(max(oversampling * n, 2 * width) / 2)))


def _matrix(
    path: np.ndarray, shape: tuple[int, ...], grid: tuple[int, ...], width: int
) -> tuple[scipy.sparse.csr_matrix, np.ndarray]:
    """Return the signed interpolation weights (M, prod(grid)) and the images' weights (*shape), in float64."""
    count = len(path)
    columns, values = np.zeros((count, 1), np.int64), np.ones((count, 1))
    weights = np.ones(())
    for n, side, k in zip(shape, grid, path.T[::-1], strict=True):
        beta = _beta(width, side / n)
        first = np.floor(k * side - width / 2).astype(np.int64)[:, None] + 1
        near = first + np.arange(width)
        kernel = _kaiser_bessel(k[:, None] * side - near, width, beta) * (1 - 2 * (near % 2))
        columns = (columns[:, :, None] * side + (near % side)[:, None]).reshape(count, -1)
        values = (values[:, :, None] * kernel[:, None]).reshape(count, -1)
        weights = np.multiply.outer(weights, 1 / _its_transform((np.arange(n) - n // 2) / side, width, beta))
    small = np.int32 if max(values.size, math.prod(grid)) < 2**31 else np.int64
    rows = np.arange(0, values.size + 1, values.shape[1], dtype=small)
    matrix = scipy.sparse.csr_matrix((values.ravel(), columns.ravel().astype(small), rows), (count, math.prod(grid)))
    matrix.sum_duplicates()
    return matrix, weights


def _beta(width: int, finer: float) -> float:
    """Return the shape of the kernel for a grid `finer` times as fine as the image's (Beatty et al., equation 5)."""
    return math.pi * math.sqrt((width / finer) ** 2 * (finer - 0.5) ** 2 - 0.8)


def _kaiser_bessel(distance: np.ndarray, width: int, beta: float) -> np.ndarray:
    inside = np.maximum(1 - (2 * distance / width) ** 2, 0)
    return np.asarray(np.i0(beta * np.sqrt(inside)) / np.i0(beta))


def _its_transform(frequency: np.ndarray, width: int, beta: float) -> np.ndarray:
    """Return the Fourier transform of the kernel at cycles per cell, for frequencies below its first zero."""
    root = np.sqrt(beta**2 - (math.pi * width * frequency) ** 2 + 0j)
    return np.asarray((width * np.sinh(root) / root / np.i0(beta)).real)
