"""Colour mixing: each pixel's channels are mixed by one matrix, such as RGB to grey."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from recon.errors import ConfigError, InputError
from recon.operators.base import LinearOperator, Shape
from recon.operators.checks import image_size, numeric, required
from recon.operators.family import Arrays, Family
from recon.operators.spectral import Spectrum, complete_svd

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@final
@dataclass(frozen=True)
class ColourParams:
    """The mixing matrix; an array "matrix" from a file overrides it.

    mix: "luma" (RGB to grey with the weights of BT.601), "mean" (grey as the mean of all channels), or "matrix".
    matrix: rows of numbers, (C_out, C_in), for mix = "matrix".
    """

    mix: Literal["luma", "mean", "matrix"] = "luma"
    matrix: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if len({len(row) for row in self.matrix}) > 1 or not np.isfinite(sum(self.matrix, ())).all():
            raise ConfigError(
                "operator 'colour-mix': the rows of 'matrix' differ in length or are not finite",
                "give one row of C_in numbers for each output channel",
            )
        if self.matrix and self.mix != "matrix":
            raise ConfigError(f"operator 'colour-mix' got a matrix and mix = '{self.mix}'", "set mix = 'matrix'")


@final
class ColourMix(LinearOperator):
    """y_o = sum_i M_oi x_i at every pixel: (B, C_in, [Z,] Y, X) -> (B, C_out, [Z,] Y, X).

    With M M^T = U diag(s^2) U^T (exact, per pixel):
        prox(z, rho, y) = z + M^T U (s^2 + rho)^-1 U^T (y - M z);  pinv(y) = M^T U (s^2)^+ U^T y
    """

    def __init__(self, in_shape: Shape, matrix: Tensor) -> None:
        self.in_shape = in_shape
        self.out_shape = (matrix.shape[0], *in_shape[1:])
        self.matrix = matrix
        self._factorise()

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> ColourMix:
        moved = super().to(device, dtype)
        assert isinstance(moved, ColourMix)
        if moved.matrix.dtype != self.matrix.dtype:
            moved._factorise()
        return moved

    def _factorise(self) -> None:
        exact = self.matrix.double()
        powers, basis = torch.linalg.eigh(exact @ exact.T)
        powers = powers.clamp_min(0)
        inverse = torch.where(powers > 1e-12 * powers.max(), 1 / powers, torch.zeros_like(powers))
        self.basis = basis.to(self.matrix)
        self.powers = powers.to(self.matrix)
        self.inverse_gram = (basis * inverse @ basis.T).to(self.matrix)

    def _forward(self, x: Tensor) -> Tensor:
        return _mix(self.matrix, x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return _mix(self.matrix.T, y)

    def svd(self) -> Spectrum:
        """Return the SVD of the mixing matrix, at every pixel."""
        u, s, v = complete_svd(self.matrix)
        values = s.reshape(-1, *(1 for _ in self.in_shape[1:]))
        return Spectrum(
            values, lambda x: _mix(v.T, x), lambda c: _mix(v, c), lambda y: _mix(u.T, y), lambda c: _mix(u, c)
        )

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(_mix(self.inverse_gram, y))

    def prox(self, z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor:
        misfit = _mix(self.basis.T, y - self.forward(z))
        powers = self.powers.reshape(-1, *(1 for _ in self.in_shape[1:]))
        return z + self.adjoint(_mix(self.basis, misfit / (powers + rho)))


def draw(params: ColourParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    """Return {"matrix": (C_out, C_in)}. Raises ConfigError or InputError where it does not fit the channels."""
    image_size("colour-mix", in_shape)
    if "matrix" in given:
        return {"matrix": _checked_matrix(given["matrix"], in_shape)}
    if params.mix == "matrix" and not params.matrix:
        raise ConfigError("operator 'colour-mix' with mix = 'matrix' came without one", "give operator.matrix")
    channels = in_shape[0]
    if params.mix == "luma" and channels != len(LUMA):
        raise ConfigError(f"mix = 'luma' needs 3 channels, the image has {channels}", "use mix = 'mean' or a matrix")
    rows = {"luma": [LUMA], "mean": [[1 / channels] * channels], "matrix": params.matrix}[params.mix]
    return {"matrix": _checked_matrix(np.array(rows, np.float64), in_shape)}


def build(params: ColourParams, in_shape: Shape, arrays: Arrays) -> ColourMix:
    """Return the mixing operator of the array "matrix"."""
    image_size("colour-mix", in_shape)
    matrix = _checked_matrix(required("colour-mix", "matrix", arrays), in_shape)
    return ColourMix(in_shape, torch.from_numpy(matrix.astype(np.float32)))


def reads_shape(params: ColourParams, arrays: Arrays, y_shape: Shape) -> Shape | None:
    """Return the image's shape where the number of input channels is known (not for "mean")."""
    if "matrix" in arrays:
        shape = np.shape(arrays["matrix"])
        return (shape[1], *y_shape[1:]) if len(shape) == 2 else None
    channels = {"luma": len(LUMA), "mean": 0, "matrix": len(params.matrix[0]) if params.matrix else 0}[params.mix]
    return (channels, *y_shape[1:]) if channels else None


def _checked_matrix(matrix: np.ndarray, in_shape: Shape) -> np.ndarray:
    matrix = numeric("matrix", matrix)
    if matrix.ndim != 2 or matrix.shape[1] != in_shape[0]:
        raise InputError(
            f"colour matrix has shape {matrix.shape}, expected (C_out, {in_shape[0]}) for an image {in_shape}",
            "one row for each output channel, one column for each channel of the image",
        )
    if not matrix.any():
        raise InputError("colour matrix is zero: nothing is measured")
    return matrix


def _mix(matrix: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("oi,bi...->bo...", matrix, x)


FAMILY = Family(
    "colour-mix", ColourParams, draw, build, {"matrix": "(C_out, C_in), mixes the channels of a pixel"}, reads_shape
)
