"""Lensless imaging: a mask before the sensor casts its pattern of light for every point of the scene.

    y = C (h * x)

The scene has the size of the sensor and is dark around; the full convolution with the pattern h (the point-spread
function, which may be as large as the sensor) is cropped (C) to the sensor, h's centre k // 2 on the sensor's.
Source: Antipa et al., DiffuserCam, Optica 5, 2018, equation 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from scipy.fft import next_fast_len
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn.functional import pad

from recon.errors import ConfigError, InputError
from recon.operators.base import LinearOperator, Shape
from recon.operators.checks import image_size, numeric, required
from recon.operators.family import Arrays, Family
from recon.operators.groups import by_planes
from recon.operators.linear_map import linear_map


@final
@dataclass(frozen=True)
class LenslessParams:
    """The pattern of light of a point.

    psf: "points" (bright spots at random places, as of a random array of small lenses), "caustics" (the bright lines of
        a smooth random diffuser), or "array" (from a file).
    points: their number per 1000 pixels.  width: of spots, or of the diffuser's bumps, in pixels.
    normalise: scale a given pattern to sum 1; the others have it.
    """

    psf: Literal["points", "caustics", "array"] = "points"
    points: float = 2.0
    width: float = 0.8
    normalise: bool = False

    def __post_init__(self) -> None:
        for name, value in (("points", self.points), ("width", self.width)):
            if not 0 < value < math.inf:
                raise ConfigError(f"operator 'lensless': {name} = {value}", "give a positive number")


@final
class Lensless(LinearOperator):
    """y = C (h * x), dark beyond the scene: (B, C, [Z,] Y, X) -> the same shape.  psf: h (k_y, k_x)."""

    def __init__(self, in_shape: Shape, psf: Tensor) -> None:
        self.in_shape = self.out_shape = in_shape
        self.psf = psf
        rows, columns = in_shape[-2:]
        ky, kx = psf.shape
        self.grid = (int(next_fast_len(rows + ky - 1, real=True)), int(next_fast_len(columns + kx - 1, real=True)))
        self._transform()

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Lensless:
        moved = super().to(device, dtype)
        assert isinstance(moved, Lensless)
        moved._transform()
        return moved

    def _transform(self) -> None:
        self.transfer = torch.fft.rfft2(self.psf, s=self.grid)
        self.reverse = self.transfer.conj().resolve_conj()

    def _forward(self, x: Tensor) -> Tensor:
        return linear_map(x, self._cast, self._gathered)

    def _adjoint(self, y: Tensor) -> Tensor:
        return linear_map(y, self._gathered, self._cast)

    def _cast(self, x: Tensor) -> Tensor:
        (rows, columns), (top, left) = self._sides, self._centre

        def act(planes: Tensor) -> Tensor:
            full = torch.fft.irfft2(torch.fft.rfft2(planes, s=self.grid).mul_(self.transfer), s=self.grid)
            return full[..., top : top + rows, left : left + columns]

        return by_planes(x, act, self._sides, self.grid).contiguous()

    def _gathered(self, y: Tensor) -> Tensor:
        (rows, columns), (top, left) = self._sides, self._centre
        border = (left, self.grid[1] - left - columns, top, self.grid[0] - top - rows)

        def act(planes: Tensor) -> Tensor:
            spectrum = torch.fft.rfft2(pad(planes, border)).mul_(self.reverse)
            return torch.fft.irfft2(spectrum, s=self.grid)[..., :rows, :columns]

        return by_planes(y, act, self._sides, self.grid).contiguous()

    @property
    def _sides(self) -> tuple[int, int]:
        return self.in_shape[-2], self.in_shape[-1]

    @property
    def _centre(self) -> tuple[int, int]:
        return self.psf.shape[0] // 2, self.psf.shape[1] // 2


def draw(params: LenslessParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    """Return {"psf": (k_y, k_x)}, float64: one of the sensor's size unless it is given."""
    size = image_size("lensless", in_shape)
    if "psf" in given:
        psf = _checked_psf(given["psf"])
        if params.normalise and psf.sum() <= 0:
            raise InputError("the pattern has a sum that is not positive", "set normalise = false")
        return {"psf": psf / psf.sum() if params.normalise else psf}
    if params.psf == "array":
        raise ConfigError(
            "operator 'lensless' with psf = 'array' came without the array 'psf'",
            "name it in an operator file (--operator FILE), or choose 'points' or 'caustics'",
        )
    psf = _points(params, size, rng) if params.psf == "points" else _caustics(params, size, rng)
    return {"psf": psf / psf.sum()}


def build(params: LenslessParams, in_shape: Shape, arrays: Arrays) -> Lensless:
    """Return the operator of the array "psf"."""
    image_size("lensless", in_shape)
    psf = _checked_psf(required("lensless", "psf", arrays))
    return Lensless(in_shape, torch.from_numpy(psf.astype(np.float32)))


def reads_shape(params: LenslessParams, arrays: Arrays, y_shape: Shape) -> Shape:
    """Return the image's shape, which is the sensor's."""
    return y_shape


def never_invented(params: LenslessParams) -> frozenset[str]:
    """Return the pattern's name: it belongs to the instrument."""
    return frozenset({"psf"})


def _points(params: LenslessParams, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return spots of random brightness on the middle half of the sensor."""
    count = max(1, round(params.points * size[0] * size[1] / 1000))
    psf = np.zeros(size)
    rows, columns = (rng.integers(n // 4, n - n // 4, count) for n in size)
    np.add.at(psf, (rows, columns), rng.uniform(0.5, 1.0, count))
    return np.asarray(gaussian_filter(psf, params.width, mode="constant"))


def _caustics(params: LenslessParams, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return where rays through the middle half of the sensor land that a smooth random surface bends."""
    finer = 4
    surface = gaussian_filter(rng.standard_normal(size), 10 * params.width, mode="wrap")
    slopes = [np.kron(s, np.ones((finer, finer))) for s in np.gradient(surface)]
    reach = min(size) / 8
    bent = [reach * gaussian_filter(s, finer) / (np.std(s) or 1.0) for s in slopes]
    fine = [(np.arange(n * finer) + 0.5) / finer - 0.5 for n in size]
    landed = [p + b for p, b in zip(np.meshgrid(*fine, indexing="ij"), bent, strict=True)]
    middle = tuple(slice(n * finer // 4, n * finer - n * finer // 4) for n in size)
    cells = [np.clip(np.rint(p[middle]), 0, n - 1).astype(int) for p, n in zip(landed, size, strict=True)]
    psf = np.zeros(size)
    np.add.at(psf, (cells[0], cells[1]), 1.0)
    return psf


def _checked_psf(psf: np.ndarray) -> np.ndarray:
    psf = numeric("psf", psf).astype(np.float64)
    if psf.ndim != 2 or not psf.any():
        raise InputError(
            f"the pattern of shape {psf.shape} is no (k_y, k_x) array of light", "give one for all channels"
        )
    return psf


FAMILY = Family(
    "lensless",
    LenslessParams,
    draw,
    build,
    {"psf": "(k_y, k_x), light on the sensor of a point at the scene's centre, centred at k // 2"},
    reads_shape,
    never_invented,
)
