"""Separable operators: one small matrix per axis, exact prox and pseudo-inverse; and how such matrices are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import numpy as np
import torch
from torch import Tensor

from recon.operators.base import LinearOperator, Shape
from recon.operators.spectral import Spectrum, complete_svd

RANK_CUTOFF = 1e-10  # of the largest squared singular value: below it a direction counts as unmeasured


@final
class Separable(LinearOperator):
    """Y = W_y X W_x^T on every channel (and slice): (B, C, [Z,] Y, X) -> (B, C, [Z,] M_y, M_x).

    rows: W_y (M_y, Y).  columns: W_x (M_x, X).  damping: of the pseudo-inverse, relative to ||A||^2.
    With A = W_y (x) W_x, and U, s the left singular vectors and values of A (Kronecker products of those of the axes):
        prox(z, rho, y) = z + A^T U (s^2 + rho)^-1 U^T (y - A z)
        pinv(y)         = A^T U (s^2 + damping ||A||^2)^-1 U^T y      (exact on the measured directions for damping 0)
    """

    def __init__(self, in_shape: Shape, rows: Tensor, columns: Tensor, damping: float = 0.0) -> None:
        self.in_shape = in_shape
        self.out_shape = (*in_shape[:-2], rows.shape[0], columns.shape[0])
        self.rows, self.columns, self.damping = rows, columns, damping
        self._factorise()

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Separable:
        moved = super().to(device, dtype)
        assert isinstance(moved, Separable)
        if moved.rows.dtype != self.rows.dtype:
            moved._factorise()
        return moved

    def _factorise(self) -> None:
        """Set U and s^2 of both axes, computed in float64 from the matrices as they are stored."""
        row_powers, row_basis = _left_factors(self.rows)
        column_powers, column_basis = _left_factors(self.columns)
        powers = row_powers[:, None] * column_powers
        damped = powers + self.damping * powers.max()
        inverse = torch.where(damped > RANK_CUTOFF * powers.max(), 1 / damped, torch.zeros_like(damped))
        self.row_basis, self.column_basis = row_basis.to(self.rows), column_basis.to(self.columns)
        self.row_back = (self.rows.double().T @ row_basis).to(self.rows)  # A^T U of one axis
        self.column_back = (self.columns.double().T @ column_basis).to(self.columns)
        self.powers, self.inverse_powers = powers.to(self.rows), inverse.to(self.rows)

    def _forward(self, x: Tensor) -> Tensor:
        return self.rows @ (x @ self.columns.T)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.rows.T @ (y @ self.columns)

    def svd(self) -> Spectrum:
        """Return the products of the SVDs of both axes, factorised anew."""
        (row_u, row_s, row_v), (column_u, column_s, column_v) = complete_svd(self.rows), complete_svd(self.columns)
        return Spectrum(
            row_s[:, None] * column_s,
            lambda x: row_v.T @ (x @ column_v),
            lambda c: row_v @ (c @ column_v.T),
            lambda y: row_u.T @ (y @ column_u),
            lambda c: row_u @ (c @ column_u.T),
        )

    def has_svd(self) -> bool:
        return True

    def pinv(self, y: Tensor) -> Tensor:
        return self._synthesise(self._analyse(y) * self.inverse_powers)

    def prox(self, z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor:
        misfit = self._analyse(y) - self.row_back.T @ (z @ self.column_back)
        return z + self._synthesise(misfit / (self.powers + rho))

    def _analyse(self, y: Tensor) -> Tensor:
        """Return U^T y."""
        return self.row_basis.T @ (y @ self.column_basis)

    def _synthesise(self, c: Tensor) -> Tensor:
        """Return A^T U c."""
        return self.row_back @ (c @ self.column_back.T)


def _left_factors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return (s^2, U) of a matrix = U diag(s) V^T, in float64."""
    exact = matrix.double()
    powers, basis = torch.linalg.eigh(exact @ exact.T)
    return powers.clamp_min(0), basis


def cubic(t: np.ndarray) -> np.ndarray:
    """Return the cubic convolution kernel with a = -1/2 at t (Keys, IEEE Trans. ASSP 29, 1981, eq. 15)."""
    t = np.abs(t)
    inner = (1.5 * t - 2.5) * t**2 + 1
    outer = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return np.where(t <= 1, inner, np.where(t < 2, outer, 0.0))


def lanczos3(t: np.ndarray) -> np.ndarray:
    """Return the Lanczos kernel of three lobes at t."""
    return np.where(np.abs(t) < 3, np.sinc(t) * np.sinc(t / 3), 0.0)


def reduction_matrix(
    n: int, factor: int, kernel: Callable[[np.ndarray], np.ndarray], radius: int, mirrored: bool = True
) -> np.ndarray:
    """Return the antialiased reduction (ceil(n / factor), n) of a signal by an integer factor, in float64.

        W_ij = sum over the mirror images j' of j of k((u_i - j') / factor), rows scaled to sum 1

    kernel: k, zero beyond `radius`; it is stretched by the factor.  u_i: centres of the reduced samples, spaced by the
    factor and centred on the signal, so the margins are equal where the factor does not divide n.  mirrored: the border
    is, with the edge sample repeated (..., 1, 0, 0, 1, ...); else what lies beyond it has no weight.
    """
    count = -(-n // factor)
    centres = (np.arange(count) - (count - 1) / 2) * factor + (n - 1) / 2
    reach = radius * factor + 1
    taps = np.floor(centres)[:, None].astype(np.int64) + np.arange(-reach, reach + 1)
    weights = kernel((centres[:, None] - taps) / factor)
    if not mirrored:
        weights *= (taps >= 0) & (taps < n)
    weights /= weights.sum(1, keepdims=True)
    wrapped = np.mod(taps, 2 * n)
    matrix = np.zeros((count, n))
    rows = np.broadcast_to(np.arange(count)[:, None], taps.shape)
    np.add.at(matrix, (rows, np.minimum(wrapped, 2 * n - 1 - wrapped)), weights)
    return matrix


def convolution_matrix(n: int, kernel: np.ndarray, boundary: str) -> np.ndarray:
    """Return the true convolution y_i = sum_j h_j x_(i + c - j), c = k // 2, as a matrix in float64.

    kernel: h (k,), k <= n.  boundary: "reflect" (..., 2, 1, 0, 1, 2, ...; n rows), or "valid" (n - k + 1 rows, those
    where the kernel lies inside).
    """
    k = len(kernel)
    count, shift = (n, k // 2) if boundary == "reflect" else (n - k + 1, k - 1)
    rows, taps = np.meshgrid(np.arange(count), np.arange(k), indexing="ij")
    columns = np.abs(rows + shift - taps)
    columns = np.minimum(columns, 2 * (n - 1) - columns) if n > 1 else columns
    matrix = np.zeros((count, n))
    np.add.at(matrix, (rows, columns), np.broadcast_to(kernel, rows.shape))
    return matrix
