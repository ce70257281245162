"""Cartesian MRI: undersampled k-space of an image, seen by one coil or many.

    y_c = M F S_c x,    F = fftshift fft2 ifftshift, orthonormal ("centred": index n // 2 is the origin in both domains)

Published settings:
    fastMRI, InverseBench   mask="random", axis="x", acceleration=4, acs=0.08 (8: acs=0.04), complex_image=true
    DDS                     mask="dds-random", acceleration=4, acs=0.08, complex_image=true
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from recon.errors import ConfigError, InputError
from recon.operators.base import LinearOperator
from recon.operators.checks import image_size, numeric, required
from recon.operators.coils import birdcage_maps
from recon.operators.family import Arrays, Family
from recon.operators.masks import PLANES, line_mask, plane_mask
from recon.operators.spectral import Spectrum, hartley, inverse


@final
@dataclass(frozen=True)
class MRIParams:
    """Parameters of a Cartesian scan.

    acceleration: lines (or points) of full k-space for each measured one, at least 1.
    mask: of lines, "uniform", "random", "gaussian" or "dds-random"; of points, "gaussian2d" or "poisson"; "given": the
        array `mask` must be there. A given mask overrides the parameters mask, acceleration and acs.
    acs: fully sampled centre, as a number of lines (integer) or a fraction of them (0.08).
    axis: which axis of the image is undersampled by lines: "x" (whole columns of k-space are kept, as in fastMRI), "y".
    coils: their number (None: as many as the array `maps` has, or one without a map).
    maps: "birdcage" (synthetic, where there is more than one coil), or "given": the array `maps` must be there.
    complex_image: whether the image is complex; a real image's adjoint takes the real part.
    """

    acceleration: float = 4.0
    mask: Literal["uniform", "random", "gaussian", "dds-random", "gaussian2d", "poisson", "given"] = "random"
    acs: int | float = 0.08
    axis: Literal["x", "y"] = "x"
    coils: int | None = None
    maps: Literal["birdcage", "given"] = "birdcage"
    complex_image: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.acceleration < float("inf"):
            raise ConfigError(f"operator 'mri': acceleration must be at least 1, got {self.acceleration}")
        if self.acs < 0 or (isinstance(self.acs, float) and not self.acs <= 1):
            raise ConfigError(
                f"operator 'mri': acs = {self.acs} is no centre",
                "give a number of lines as an integer, or a fraction in 0..1",
            )
        if self.coils is not None and self.coils < 1:
            raise ConfigError(f"operator 'mri': coils must be at least 1, got {self.coils}")


@final
class CartesianMRI(LinearOperator):
    """y_c = M F S_c x: (B, 1, Y, X) -> (B, coils, Y, X), complex, zero where the mask M is; M is also the `support`.

    The centring of F is folded into phases of the image and of the mask, so that no call moves data; A^H A needs none,
    for it commutes with shifts, and transforms only the axes along which the mask varies. With one coil and no map,
    A^H A is a circular convolution (for a real image, with the mask's even part), so that prox and pinv are exact.
    """

    def __init__(self, mask: Tensor, maps: Tensor | None = None, complex_image: bool = False) -> None:
        """Make the operator of a mask (Y, X) of zeros and ones, float32 or float64, and maps (coils, Y, X), complex."""
        kind = mask.dtype.to_complex()
        self.mask = self.support = mask
        self.maps = None if maps is None else maps.to(kind)
        self.maps_conj = None if self.maps is None else self.maps.conj().resolve_conj()
        self.complex_image = complex_image
        self.in_shape, self.out_shape = (1, *mask.shape), (1 if maps is None else maps.shape[0], *mask.shape)
        self.in_dtype, self.out_dtype = kind if complex_image else mask.dtype, kind

        (image_y, k_y), (image_x, k_x) = (_centring(n) for n in mask.shape)
        phase, k_phase = image_y[:, None] * image_x, k_y[:, None] * k_x
        even = not complex_image and not np.any(phase.imag)  # a real image then stays real under the phase
        self.phase = torch.from_numpy(phase.real if even else phase).to(mask.device, mask.dtype if even else kind)
        self.phase_conj = self.phase.conj().resolve_conj()
        self.sampling = mask * torch.from_numpy(k_phase).to(mask.device, kind)
        self.sampling_conj = self.sampling.conj().resolve_conj()

        self.dims, self.gram = _gram(mask, half=maps is None and not complex_image)

    def _forward(self, x: Tensor) -> Tensor:
        x = x * self.phase
        if self.maps is not None:
            x = x * self.maps
        return torch.fft.fft2(x, norm="ortho").mul_(self.sampling)

    def _adjoint(self, y: Tensor) -> Tensor:
        x = self._combine(torch.fft.ifft2(y * self.sampling_conj, norm="ortho")) * self.phase_conj
        return x if self.complex_image else x.real.contiguous()

    def normal(self, x: Tensor) -> Tensor:
        """Return A^H A x, by transforms along the undersampled axes only."""
        if self.maps is None:
            return self._convolve(x, self.gram)
        k = torch.fft.fftn(x * self.maps, dim=self.dims).mul_(self.gram)
        x = self._combine(torch.fft.ifftn(k, dim=self.dims))
        return x if self.complex_image else x.real.contiguous()

    def svd(self) -> Spectrum | None:
        """Return, without maps, s = M and V = F^H for a complex image; for a real one s^2 = the mask's even part (0,
        1/2 where one of two conjugate samples is measured, 1) and V the Hartley basis. None with maps."""
        if self.maps is not None:
            return None
        if self.complex_image:
            return Spectrum(
                self.mask,
                lambda x: torch.fft.fft2(x * self.phase, norm="ortho"),
                lambda c: torch.fft.ifft2(c, norm="ortho") * self.phase_conj,
                lambda y: y * self.sampling_conj,
                lambda c: c * self.sampling,
            )
        mask = torch.fft.ifftshift(self.mask)
        values = ((mask + mask.flip((-2, -1)).roll((1, 1), (-2, -1))) / 2).sqrt()
        weights = inverse(values)
        return Spectrum(
            values,
            hartley,
            hartley,
            lambda y: weights * hartley(self._adjoint(y)),
            lambda c: self._forward(hartley(weights * c)),
        )

    def pinv(self, y: Tensor) -> Tensor | None:
        """Return the Moore-Penrose inverse applied to y, without maps: zero-filled for a complex image; for a real one
        each sample also fills in its missing conjugate partner. None with maps."""
        if self.maps is not None:
            return None
        x = self.adjoint(y)
        return x if self.complex_image else self._convolve(x, torch.where(self.gram == 0, 0, 1 / self.gram))

    def prox(self, z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor | None:
        """Return (A^H A + rho)^-1 (A^H y + rho z), exact without maps (rho > 0); None with maps."""
        if self.maps is not None:
            return None
        return self._convolve(self.adjoint(y) + rho * z, 1 / (self.gram + rho))

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> CartesianMRI:
        """Return a copy on another device and/or in float32 or float64, its phases exact to that precision."""
        maps = None if self.maps is None else self.maps.to(device)
        return CartesianMRI(self.mask.to(device, dtype), maps, self.complex_image)

    def _combine(self, images: Tensor) -> Tensor:
        """Return sum_c conj(S_c) images_c: (B, coils, Y, X) -> (B, 1, Y, X)."""
        return images if self.maps_conj is None else (images * self.maps_conj).sum(1, keepdim=True)

    def _convolve(self, x: Tensor, transfer: Tensor) -> Tensor:
        if self.complex_image:
            return torch.fft.ifftn(torch.fft.fftn(x, dim=self.dims) * transfer, dim=self.dims)
        sizes = [self.in_shape[d] for d in self.dims]
        return torch.fft.irfftn(torch.fft.rfftn(x, dim=self.dims) * transfer, s=sizes, dim=self.dims)


def _centring(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return phases p, q with fftshift(fft(ifftshift(x))) = q fft(p x), each (n,), exact signs for even n."""
    centre, index = n // 2, np.arange(n)
    turns = centre * index % n, centre * (index - centre) % n
    image, k = (np.exp(2j * np.pi * t / n) if n % 2 else (1.0 - 4.0 * t / n).astype(complex) for t in turns)
    return image, k


def _gram(mask: Tensor, half: bool) -> tuple[tuple[int, ...], Tensor]:
    """Return the axes along which the mask varies and A^H A's symbol there, with the origin first.

    half: return the even part, on the half-plane of a real transform.
    """
    varies = [bool((mask != mask.narrow(d, 0, 1)).any()) for d in (-2, -1)]
    dims = tuple(d for d, needed in zip((-2, -1), varies, strict=True) if needed) or (-1,)
    gram = torch.fft.ifftshift(mask)
    for d in {-2, -1} - set(dims):
        gram = gram.narrow(d, 0, 1)
    if half:
        gram = (gram + gram.flip((-2, -1)).roll((1, 1), (-2, -1))) / 2
        gram = gram.narrow(dims[-1], 0, gram.shape[dims[-1]] // 2 + 1)
    return dims, gram.contiguous()


def _draw(params: MRIParams, in_shape: tuple[int, ...], rng: np.random.Generator, given: Arrays) -> Arrays:
    size = _size(in_shape)
    arrays = {"mask": _checked_mask(given["mask"], size, params.axis) if "mask" in given else _mask(params, size, rng)}
    if "maps" in given:
        arrays["maps"] = _checked_maps(given["maps"], size, params.coils)
    elif params.maps == "given":
        raise ConfigError(
            "operator 'mri' with maps = 'given' came without the array 'maps'",
            "name it in an operator file (--operator FILE), or use maps = 'birdcage'",
        )
    elif params.coils is not None and params.coils > 1:
        arrays["maps"] = birdcage_maps(params.coils, size)
    return arrays


def _mask(params: MRIParams, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    if params.mask == "given":
        raise ConfigError(
            "operator 'mri' with mask = 'given' came without the array 'mask'",
            "name it in an operator file (--operator FILE), or choose another mask",
        )
    if params.mask in PLANES:
        mask = plane_mask(params.mask, size, params.acceleration, params.acs, rng)
    else:
        mask = line_mask(params.mask, size["yx".index(params.axis)], params.acceleration, params.acs, rng)
    return mask.astype(np.uint8)


def _build(params: MRIParams, in_shape: tuple[int, ...], arrays: Arrays) -> CartesianMRI:
    size = _size(in_shape)
    mask = _checked_mask(required("mri", "mask", arrays), size, params.axis)
    if mask.ndim == 1 and params.axis == "y":
        mask = mask[:, None]
    mask = np.broadcast_to(mask, size).astype(np.float32)
    if "maps" not in arrays and (params.maps == "given" or (params.coils or 1) > 1):
        required("mri", "maps", arrays)
    maps = _checked_maps(arrays["maps"], size, params.coils) if "maps" in arrays else None
    return CartesianMRI(torch.from_numpy(mask), None if maps is None else torch.from_numpy(maps), params.complex_image)


def _size(in_shape: tuple[int, ...]) -> tuple[int, int]:
    size = image_size("mri", in_shape)
    if len(in_shape) != 3 or in_shape[0] != 1:
        raise ConfigError(f"operator 'mri' expects an image of shape (1, Y, X), got {in_shape}", "choose one channel")
    return size


def _checked_mask(mask: np.ndarray, size: tuple[int, int], axis: str) -> np.ndarray:
    """Return a mask, (X,) or (Y,) of lines along `axis`, or (Y, X) or broadcastable to it, as uint8 0 and 1."""
    mask = numeric("mask", mask)
    lines = size["yx".index(axis)]
    fits = mask.shape == (lines,) or (
        mask.ndim == 2 and all(m in (1, n) for m, n in zip(mask.shape, size, strict=True))
    )
    if not fits:
        raise InputError(
            f"mask has shape {mask.shape}, expected ({lines},) of lines along {axis}, or {size}",
            "set the operator's axis to the axis that is undersampled, or crop the mask",
        )
    values = np.unique(mask)
    if values[-1] == 0 or values[0] < 0 or len(values) > 2 or (len(values) == 2 and values[0] != 0):
        raise InputError(
            f"mask has the {len(values)} values {values[0]:g} to {values[-1]:g}, expected 0 (missing) and 1 (measured)"
        )
    return (mask != 0).astype(np.uint8)


def _checked_maps(maps: np.ndarray, size: tuple[int, int], coils: int | None) -> np.ndarray:
    maps = numeric("maps", maps, real=False)
    if maps.ndim != 3 or maps.shape[1:] != size:
        raise InputError(f"maps have shape {maps.shape}, expected (coils, {size[0]}, {size[1]})")
    if coils not in (None, maps.shape[0]):
        raise ConfigError(
            f"operator 'mri': coils = {coils}, but the array 'maps' has {maps.shape[0]}",
            "leave out the parameter coils: the maps decide",
        )
    return maps.astype(np.complex64)


def _reads_shape(params: MRIParams, arrays: Arrays, y_shape: tuple[int, ...]) -> tuple[int, ...] | None:
    return (1, *y_shape[1:]) if len(y_shape) == 3 else None


def _never_invented(params: MRIParams) -> frozenset[str]:
    return frozenset({"mask", "maps"} if params.maps == "given" or (params.coils or 1) > 1 else {"mask"})


FAMILY = Family(
    kind="mri",
    params=MRIParams,
    draw=_draw,
    build=_build,
    arrays={
        "mask": "sampled lines (X,) or (Y,), or samples (Y, X), of centred k-space: 1 measured, 0 not",
        "maps": "coil sensitivities (coils, Y, X), complex",
    },
    reads_shape=_reads_shape,
    never_invented=_never_invented,
)
