"""Non-Cartesian MRI: samples of k-space along a trajectory, seen by one coil or many.

    y_c(k_j) = 1/sqrt(N) sum_n S_c(n) x(n) exp(-2 pi i k_j (n - n0)),     n0 = size // 2,  N pixels

In the units of operator 'mri': a trajectory through its grid gives its samples. The transform is that of
`recon.operators.nufft`, interpolation by a stored sparse matrix or FINUFFT, error below 1e-4; the adjoint is the exact
transpose either way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.operators.base import LinearOperator, Shape
from recon.operators.checks import image_size, required
from recon.operators.coils import birdcage_maps, checked_maps
from recon.operators.family import Arrays, Family
from recon.operators.linear_map import linear_map
from recon.operators.nufft import Finufft, Gridding, Transform, gridding_bytes, transform, transform_back
from recon.operators.toeplitz import Toeplitz, toeplitz
from recon.operators.trajectories import checked_trajectory, pipe_density, radial, radial_density, spiral


@final
@dataclass(frozen=True)
class NUFFTParams:
    """Parameters of a scan off the Cartesian grid.

    trajectory: "radial", "spiral", or "given": the array `trajectory` must be there. A given one overrides the others.
    shots: spokes or spiral arms.  samples: on each; none for two per pixel of the longer side.
    turns: of a spiral arm; none for as many as `shots` arms need to sample k-space fully.
    golden: turn shots by golden angles.
    coils, maps, complex_image: as of operator 'mri'.
    toeplitz: apply A^H A by a convolution on twice the grid: faster, and the same up to the transform's error.
    backend: "gridding", "finufft" (pip install 'diffusion-recon[nufft]'; on a CUDA GPU with the package cufinufft), or
        "auto": gridding, and FINUFFT where its matrix would exceed `memory_gb`.  oversampling, width: of gridding; 1.5
        and 6 give errors of 5e-5, 2 and 6 of 7e-6.
    """

    trajectory: Literal["radial", "spiral", "given"] = "radial"
    shots: int = 64
    samples: int | None = None
    turns: float | None = None
    golden: bool = False
    coils: int | None = None
    maps: Literal["birdcage", "given"] = "birdcage"
    complex_image: bool = False
    toeplitz: bool = False
    backend: Literal["auto", "gridding", "finufft"] = "auto"
    oversampling: float = 1.5
    width: int = 6
    memory_gb: float = 2.0

    def __post_init__(self) -> None:
        counts = {"shots": self.shots, "samples": self.samples, "coils": self.coils}
        for name, count in counts.items():
            if count is not None and count < (2 if name == "samples" else 1):
                raise ConfigError(f"operator 'mri-nufft': {name} = {count} is too few")
        if not 1.2 <= self.oversampling <= 4 or not 3 <= self.width <= 16:
            raise ConfigError(
                f"operator 'mri-nufft': oversampling = {self.oversampling}, width = {self.width}",
                "give an oversampling from 1.2 to 4 and a width from 3 to 16",
            )
        for name, value in (("turns", self.turns), ("memory_gb", self.memory_gb)):
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"operator 'mri-nufft': {name} must be positive, got {value}")


@final
class NonCartesianMRI(LinearOperator):
    """y_c = F S_c x: (B, 1, [Z,] Y, X) -> (B, coils, *layout), complex.

    pinv(y) = sum_c conj(S_c) F^H (w y_c) / sum_c |S_c|^2 with the density weights w: the gridding reconstruction, an
    image and not the exact pseudo-inverse. With `gram`, A^H A is the Toeplitz convolution instead of both transforms.
    """

    def __init__(
        self,
        by: Transform,
        image: Shape,
        layout: Shape,
        density: Tensor,
        maps: Tensor | None = None,
        complex_image: bool = False,
        gram: Toeplitz | None = None,
    ) -> None:
        """Make the operator of images (*image) and samples (*layout).

        density: w (M,), float64.  maps: (coils, *image), complex, or None.  gram: F^H F, float64, or None.
        """
        real = by.weights.dtype
        self.by, self.layout, self.complex_image = by, layout, complex_image
        coils = 1 if maps is None else maps.shape[0]
        self.in_shape, self.out_shape = (1, *image), (coils, *layout)
        self.in_dtype, self.out_dtype = real.to_complex() if complex_image else real, real.to_complex()
        self.kept_density, self.kept_maps, self.kept_gram = density, maps, gram
        self.density = density.to(by.weights)
        self.maps = torch.ones((1,) * (1 + len(image))).to(by.weights) if maps is None else maps.to(by.weights.device)
        self.maps = self.maps.to(self.out_dtype)
        self.maps_conj = self.maps.conj().resolve_conj()
        self.factors = self.maps * by.weights / math.sqrt(math.prod(image))
        self.factors_conj = self.factors.conj().resolve_conj()
        self.gram = None if gram is None else gram.to(by.weights)
        self.kernel = None if self.gram is None else self.gram.compiled(self.maps, complex_image)
        self.scan = by.compiled(self.factors, complex_image) if isinstance(by, Gridding) else None

    def _forward(self, x: Tensor) -> Tensor:
        if self.scan is not None:
            return linear_map(x, self.scan.forward, self.scan.adjoint).reshape(-1, *self.out_shape)
        coils, image = self.out_shape[0], self.in_shape[1:]
        return transform(self.by, (x * self.factors).reshape(-1, *image)).reshape(-1, coils, *self.layout)

    def _adjoint(self, y: Tensor) -> Tensor:
        if self.scan is not None:
            return linear_map(y.reshape(-1, self.out_shape[0], len(self.density)), self.scan.adjoint, self.scan.forward)
        coils, image = self.out_shape[0], self.in_shape[1:]
        seen = transform_back(self.by, y.reshape(-1, math.prod(self.layout))).reshape(-1, coils, *image)
        return self._combined(seen, self.factors_conj)

    def normal(self, x: Tensor) -> Tensor:
        """Return A^H A x, by the Toeplitz convolution where there is one."""
        if self.gram is None:
            return self.adjoint(self.forward(x))
        if self.kernel is not None:
            return linear_map(x, self.kernel.apply, self.kernel.apply)
        found = self.gram.sandwiched(x, self.maps, self.maps_conj) / math.prod(self.in_shape)
        return found if self.complex_image else found.real.contiguous()

    def pinv(self, y: Tensor) -> Tensor:
        """Return the gridding reconstruction."""
        total = (self.maps * self.maps_conj).real.sum(0)
        weighted = self.adjoint(y * self.density.reshape(self.layout))
        return weighted * torch.where(total > 1e-6 * total.max(), 1 / total, 0.0)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> NonCartesianMRI:
        """Return a copy on another device and/or in float32 or float64, its weights exact to that precision."""
        by = self.by.to(device, dtype)
        kept = self.kept_density, self.kept_maps, self.complex_image, self.kept_gram
        return NonCartesianMRI(by, self.in_shape[1:], self.layout, *kept)

    def _combined(self, images: Tensor, factors: Tensor) -> Tensor:
        x = (images * factors).sum(1, keepdim=True)
        return x if self.complex_image else x.real.contiguous()


def draw(params: NUFFTParams, in_shape: Shape, rng: np.random.Generator, given: Arrays) -> Arrays:
    """Return the array "trajectory", and "maps" where there are several coils."""
    image = _image(in_shape)
    if "trajectory" in given:
        arrays = {"trajectory": given["trajectory"]}
        checked_trajectory(given["trajectory"], image)
    else:
        arrays = {"trajectory": _path(params, image).astype(np.float32)}
    if "maps" in given:
        arrays["maps"] = checked_maps("mri-nufft", given["maps"], image, params.coils)
    elif params.maps == "given":
        raise ConfigError(
            "operator 'mri-nufft' with maps = 'given' came without the array 'maps'",
            "name it in an operator file (--operator FILE), or use maps = 'birdcage'",
        )
    elif params.coils is not None and params.coils > 1:
        if len(image) != 2:
            raise ConfigError("birdcage maps are two-dimensional", "give the array 'maps' (coils, Z, Y, X)")
        arrays["maps"] = birdcage_maps(params.coils, (image[0], image[1]))
    return arrays


def build(params: NUFFTParams, in_shape: Shape, arrays: Arrays) -> NonCartesianMRI:
    """Return the operator of the arrays "trajectory" and, for several coils, "maps"."""
    image = _image(in_shape)
    path = checked_trajectory(required("mri-nufft", "trajectory", arrays), image)
    if "maps" not in arrays and (params.maps == "given" or (params.coils or 1) > 1):
        required("mri-nufft", "maps", arrays)
    maps = checked_maps("mri-nufft", arrays["maps"], image, params.coils) if "maps" in arrays else None
    samples = path.reshape(-1, len(image))
    even = params.trajectory == "radial" and path.ndim == 3 and _is_radial(params, path)
    density = radial_density(path, image) if even else pipe_density(path, image)
    coils = 1 if maps is None else len(maps)
    return NonCartesianMRI(
        _transform(params, samples, image, coils),
        image,
        path.shape[:-1],
        torch.from_numpy(density.reshape(-1)),
        None if maps is None else torch.from_numpy(maps),
        params.complex_image,
        toeplitz(samples, image) if params.toeplitz else None,
    )


def reads_shape(params: NUFFTParams, arrays: Arrays, y_shape: Shape) -> Shape | None:
    """Return None: samples along a path do not say how large the image is."""
    return None


def never_invented(params: NUFFTParams) -> frozenset[str]:
    """Return the arrays that the parameters do not determine."""
    maps = {"maps"} if params.maps == "given" or (params.coils or 1) > 1 else set()
    return frozenset(maps | ({"trajectory"} if params.trajectory == "given" else set()))


def _path(params: NUFFTParams, image: Shape) -> np.ndarray:
    if params.trajectory == "given":
        raise ConfigError(
            "operator 'mri-nufft' with trajectory = 'given' came without the array 'trajectory'",
            "name it in an operator file (--operator FILE), or choose 'radial' or 'spiral'",
        )
    if len(image) != 2:
        raise ConfigError(f"{params.trajectory} trajectories are two-dimensional", "give the array 'trajectory'")
    samples = params.samples or 2 * max(image)
    if params.trajectory == "radial":
        return radial(params.shots, samples, params.golden)
    turns = max(image) / (2 * params.shots) if params.turns is None else params.turns
    return spiral(params.shots, samples, turns, params.golden)


def _is_radial(params: NUFFTParams, path: np.ndarray) -> bool:
    """Return whether these are the spokes that the parameters describe, whose areas are known."""
    spokes = radial(path.shape[0], path.shape[1], params.golden)
    return bool(np.abs(path - spokes).max() < 1e-5)


def _transform(params: NUFFTParams, path: np.ndarray, image: Shape, coils: int) -> Transform:
    needed = gridding_bytes(len(path), len(image), params.width)
    if params.backend == "finufft" or (params.backend == "auto" and needed > params.memory_gb * 1e9):
        return Finufft(path, image, coils)
    return Gridding(path, image, params.oversampling, params.width)


def _image(in_shape: Shape) -> Shape:
    image_size("mri-nufft", in_shape)
    if len(in_shape) not in (3, 4) or in_shape[0] != 1:
        raise ConfigError(
            f"operator 'mri-nufft' expects an image of shape (1, Y, X) or (1, Z, Y, X), got {in_shape}",
            "choose one channel",
        )
    return tuple(in_shape[1:])


FAMILY = Family(
    kind="mri-nufft",
    params=NUFFTParams,
    draw=draw,
    build=build,
    arrays={
        "trajectory": "frequencies (..., 2 or 3) in cycles per pixel, within [-1/2, 1/2], in the order x, y[, z]",
        "maps": "coil sensitivities (coils, [Z,] Y, X), complex",
    },
    reads_shape=reads_shape,
    never_invented=never_invented,
)
