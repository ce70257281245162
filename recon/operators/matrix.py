"""A dense or sparse matrix from a file, acting on the flattened image.

y = A vec(x),   vec: (C, [Z,] Y, X) in C order
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import torch
from scipy.sparse import csr_matrix, kron
from torch import Tensor

from recon.errors import ConfigError, InputError
from recon.kernels.sparse import sparse_product, to_csr
from recon.operators.base import LinearOperator, Shape
from recon.operators.checks import image_size, numeric, required
from recon.operators.family import Arrays, Family
from recon.operators.spectral import Spectrum, complete_svd

CSR = ("data", "indices", "indptr")
SVD_SIDE = 1600  # rows or columns; beyond, factorising takes more than seconds


@final
@dataclass(frozen=True)
class MatrixParams:
    """out_shape: of one measurement, with as many entries as the matrix has rows (default: one axis).

    complex_image: whether the image is complex (a complex matrix may act on a real image as well).
    """

    out_shape: tuple[int, ...] | None = None
    complex_image: bool = False

    def __post_init__(self) -> None:
        if self.out_shape is not None and (not self.out_shape or min(self.out_shape) < 1):
            raise ConfigError(
                f"operator 'matrix': out_shape = {self.out_shape}", "give positive sizes, such as [64, 64]"
            )


@final
class DenseMatrix(LinearOperator):
    """y = A vec(x) with a dense matrix A (M, N), real or complex; out_shape has M entries, in_shape has N.

    A complex matrix on a real image is held as the real matrix of its interleaved real and imaginary rows.
    """

    def __init__(self, in_shape: Shape, out_shape: Shape, matrix: Tensor, complex_image: bool) -> None:
        self.in_shape, self.out_shape = in_shape, out_shape
        self.split = matrix.is_complex() and not complex_image
        self.in_dtype = torch.complex64 if complex_image else torch.float32
        self.out_dtype = torch.complex64 if complex_image or matrix.is_complex() else torch.float32
        if self.split:
            matrix = torch.view_as_real(matrix).movedim(-1, 1).flatten(0, 1).contiguous()
        self.matrix = matrix.to(self.in_dtype)

    def _forward(self, x: Tensor) -> Tensor:
        y = x.flatten(1) @ self.matrix.T
        return (torch.view_as_complex(y.unflatten(1, (-1, 2))) if self.split else y).reshape(-1, *self.out_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        rows = torch.view_as_real(y).flatten(1) if self.split else y.flatten(1)
        return (rows @ self.matrix.conj()).reshape(-1, *self.in_shape)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> DenseMatrix:
        moved = super().to(device, dtype)
        assert isinstance(moved, DenseMatrix)
        moved.__dict__.pop("_spectrum", None)
        return moved

    def svd(self) -> Spectrum | None:
        """Return the factorised matrix, the work of the first call; None beyond 1600 rows or columns."""
        return self._spectrum

    def has_svd(self) -> bool:
        return max(self.matrix.shape) <= SVD_SIDE

    @cached_property
    def _spectrum(self) -> Spectrum | None:
        return _factorised(self, self.matrix)


@final
class SparseMatrix(LinearOperator):
    """y = A vec(x) with a sparse matrix A (M, N), real or complex, and its stored transpose.

    matrix: A in the real representation: complex entries a + ib are held as blocks [[a, -b], [b, a]] between the
    interleaved real and imaginary parts of complex vectors, so that the transpose is the adjoint under Re<., .>.
    """

    def __init__(
        self, in_shape: Shape, out_shape: Shape, matrix: csr_matrix, complex_image: bool, complex_data: bool
    ) -> None:
        self.in_shape, self.out_shape = in_shape, out_shape
        self.in_dtype = torch.complex64 if complex_image else torch.float32
        self.out_dtype = torch.complex64 if complex_data else torch.float32
        self.matrix, self.transposed = to_csr(matrix), to_csr(matrix.T.tocsr())

    def _forward(self, x: Tensor) -> Tensor:
        y = sparse_product(self.matrix, self.transposed, _as_real(x))
        return _as_declared(y, self.out_dtype).reshape(-1, *self.out_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        x = sparse_product(self.transposed, self.matrix, _as_real(y))
        return _as_declared(x, self.in_dtype).reshape(-1, *self.in_shape)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> SparseMatrix:
        moved = super().to(device, dtype)
        assert isinstance(moved, SparseMatrix)
        moved.__dict__.pop("_spectrum", None)
        return moved

    def svd(self) -> Spectrum | None:
        """Return the factorised real representation, the work of the first call; None beyond 1600 rows or columns."""
        return self._spectrum

    def has_svd(self) -> bool:
        return max(self.matrix.shape) <= SVD_SIDE

    @cached_property
    def _spectrum(self) -> Spectrum | None:
        return None if max(self.matrix.shape) > SVD_SIDE else _factorised(self, self.matrix.to_dense())


def draw(params: MatrixParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    """Return the given matrix, checked; nothing is random. Raises ConfigError without one, InputError on a bad one."""
    image_size("matrix", in_shape)
    if not given:
        raise ConfigError(
            "operator 'matrix' came without a matrix",
            "give an operator file (--operator FILE) with 'matrix', or 'data', 'indices' and 'indptr'",
        )
    _checked(params, in_shape, given)
    return dict(given)


def build(params: MatrixParams, in_shape: Shape, arrays: Arrays) -> LinearOperator:
    """Return the operator of a dense ("matrix") or sparse ("data", "indices", "indptr") matrix."""
    image_size("matrix", in_shape)
    matrix = _checked(params, in_shape, arrays)
    out_shape = params.out_shape or (matrix.shape[0],)
    is_complex = matrix.dtype.kind == "c"
    if isinstance(matrix, np.ndarray):
        exact = torch.from_numpy(np.ascontiguousarray(matrix, np.complex64 if is_complex else np.float32))
        return DenseMatrix(in_shape, out_shape, exact, params.complex_image)
    real = _real_representation(matrix, params.complex_image).astype(np.float32)
    # this build's MKL takes 64-bit indices; with others torch falls back to loops that are 8 times slower
    real.indptr, real.indices = real.indptr.astype(np.int64), real.indices.astype(np.int64)
    return SparseMatrix(in_shape, out_shape, real, params.complex_image, params.complex_image or is_complex)


def _checked(params: MatrixParams, in_shape: Shape, arrays: Arrays) -> np.ndarray | csr_matrix:
    """Return the matrix, refusing one that does not fit the shapes or whose indices point outside (InputError)."""
    sparse = [name for name in CSR if name in arrays]
    if "matrix" in arrays and sparse:
        raise InputError("operator 'matrix' got a dense and a sparse matrix", f"give 'matrix' or {', '.join(CSR)}")
    matrix = _checked_csr(arrays, math.prod(in_shape)) if sparse else _checked_dense(arrays)
    rows, columns = matrix.shape
    if columns != math.prod(in_shape):
        raise InputError(
            f"matrix of {rows} x {columns} does not act on images {in_shape} with {math.prod(in_shape)} entries",
            "set in_shape to the image that the matrix was made for",
        )
    if params.out_shape is not None and math.prod(params.out_shape) != rows:
        raise InputError(f"matrix of {rows} rows does not give measurements {params.out_shape}", "mend out_shape")
    return matrix


def _checked_dense(arrays: Arrays) -> np.ndarray:
    matrix = numeric("matrix", required("matrix", "matrix", arrays), real=False)
    if matrix.ndim != 2:
        raise InputError(f"matrix has shape {matrix.shape}, expected (rows, columns)")
    return matrix


def _checked_csr(arrays: Arrays, columns: int) -> csr_matrix:
    """Return the CSR matrix with sorted, distinct columns in each row; nothing is trusted before it is checked."""
    values = numeric("data", required("matrix", "data", arrays), real=False)
    indices, indptr = (numeric(name, required("matrix", name, arrays)) for name in CSR[1:])
    for name, array in zip(CSR, (values, indices, indptr), strict=True):
        if array.ndim != 1 or (name != "data" and array.dtype.kind not in "iu"):
            raise InputError(f"CSR array '{name}' has shape {array.shape} and type {array.dtype}, expected one axis of "
                             f"{'numbers' if name == 'data' else 'integers'}")  # fmt: skip
    count = len(values)
    if len(indices) != count or len(indptr) < 2 or indptr[0] != 0 or indptr[-1] != count:
        raise InputError(
            f"CSR arrays do not fit: {count} data, {len(indices)} indices, indptr of {len(indptr)} entries",
            "indptr runs from 0 to the number of data, which is also the number of indices",
        )
    if (indptr[1:] < indptr[:-1]).any():
        raise InputError("CSR array 'indptr' decreases")
    if indices.min() < 0 or indices.max() >= columns:
        raise InputError(
            f"CSR array 'indices' points outside the {columns} columns of the image",
            "set in_shape to the image that the matrix was made for; indices count from 0",
        )
    copied = (values.copy(), indices.astype(np.int64), indptr.astype(np.int64))
    matrix = csr_matrix(copied, shape=(len(indptr) - 1, columns))
    matrix.sum_duplicates()
    return matrix


def _real_representation(matrix: csr_matrix, complex_image: bool) -> csr_matrix:
    """Return the real matrix that acts on interleaved real and imaginary parts (see `SparseMatrix`)."""
    if matrix.dtype.kind != "c":
        return kron(matrix, np.eye(2), "csr") if complex_image else matrix
    real, imag = ([[1, 0], [0, 1]], [[0, -1], [1, 0]]) if complex_image else ([[1], [0]], [[0], [1]])
    return (kron(matrix.real, real, "csr") + kron(matrix.imag, imag, "csr")).tocsr()


def _factorised(operator: LinearOperator, matrix: Tensor) -> Spectrum | None:
    """Return the SVD of the dense matrix of an operator, which acts on complex vectors or on real representations."""
    if max(matrix.shape) > SVD_SIDE:
        return None
    u, s, v = complete_svd(matrix)

    def rows(vector: Tensor) -> Tensor:
        return vector.flatten(1) if matrix.is_complex() else _as_real(vector)

    def shaped(vector: Tensor, shape: Shape, dtype: torch.dtype) -> Tensor:
        return (vector if vector.is_complex() else _as_declared(vector, dtype)).reshape(-1, *shape)

    return Spectrum(
        s,
        lambda x: rows(x) @ v.conj(),
        lambda c: shaped(c @ v.T, operator.in_shape, operator.in_dtype),
        lambda y: rows(y) @ u.conj(),
        lambda c: shaped(c @ u.T, operator.out_shape, operator.out_dtype),
    )


def _as_real(v: Tensor) -> Tensor:
    return (torch.view_as_real(v.resolve_conj()) if v.is_complex() else v).flatten(1)


def _as_declared(v: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.view_as_complex(v.unflatten(1, (-1, 2))) if dtype.is_complex else v


FAMILY = Family(
    "matrix",
    MatrixParams,
    draw,
    build,
    {
        "matrix": "(M, N) dense, real or complex, N the number of entries of an image",
        "data": "(K,) values of a sparse matrix in CSR form, real or complex",
        "indices": "(K,) column of each value, from 0",
        "indptr": "(M + 1,) where each row starts in data",
    },
)
