"""The centred Fourier transform of an image on a mask, as seen by one coil or many: the operator of family 'mri'.

y_c = M F S_c x,    F = fftshift fft2 ifftshift, orthonormal
"""

from __future__ import annotations

import math
from typing import final

import numpy as np
import torch
from torch import Tensor

from recon.kernels import fused
from recon.kernels.sense import CompiledSense, fits
from recon.operators.base import LinearOperator
from recon.operators.groups import add_combined, coil_groups
from recon.operators.linear_map import linear_map
from recon.operators.spectral import Spectrum, hartley, inverse

FEW_LINES = 0.6  # of all: what is saved in transforms outweighs what moving the lines costs


@final
class CartesianMRI(LinearOperator):
    """y_c = M F S_c x: (B, 1, Y, X) -> (B, coils, Y, X), complex, zero where the mask M is; M is also the `support`.

    The centring of F is folded into phases of the image and of the mask, so that no call moves data; A^H A needs none,
    for it commutes with shifts, and transforms only the axes along which the mask varies. With one coil and no map,
    A^H A is a circular convolution (for a real image, with the mask's even part), so that prox and pinv are exact.
    Several coils go through the transforms row by row in compiled kernels, else in groups that fit the cache.
    """

    def __init__(self, mask: Tensor, maps: Tensor | None = None, complex_image: bool = False) -> None:
        """Make the operator of a mask (Y, X) of zeros and ones, float32 or float64, and maps (coils, Y, X), complex."""
        kind = mask.dtype.to_complex()
        self.mask = self.support = mask
        self.maps = None if maps is None else maps.to(kind)
        self.complex_image = complex_image
        self.in_shape, self.out_shape = (1, *mask.shape), (1 if maps is None else maps.shape[0], *mask.shape)
        self.in_dtype, self.out_dtype = kind if complex_image else mask.dtype, kind

        (image_y, k_y), (image_x, k_x) = (_centring(n) for n in mask.shape)
        phase, k_phase = image_y[:, None] * image_x, k_y[:, None] * k_x
        even = not complex_image and not np.any(phase.imag)  # a real image then stays real under the phase
        self.phase = torch.from_numpy(phase.real if even else phase).to(mask.device, mask.dtype if even else kind)
        self.phase_conj = self.phase.conj().resolve_conj()
        self.sampling = (mask * torch.from_numpy(k_phase).to(mask.device, kind)).contiguous()
        self.sampling_conj = self.sampling.conj().resolve_conj()

        self.dims, self.gram = _gram(mask, half=maps is None and not complex_image)
        self.kernel = None if self.maps is None else self._compiled(self.maps)
        if self.maps is not None and self.kernel is None:
            # all that happens to the image of a coil before the transform, and its adjoint
            seen = self.maps * self.phase / math.sqrt(mask.numel())
            self.seen, self.seen_conj = seen, seen.conj().resolve_conj()
            self.plain, self.maps_conj = self.maps, self.maps.conj().resolve_conj()
            self.gram = self.gram.to(kind)  # in place, complex by complex is several times faster than by real
            # where few lines are measured, only those are transformed along their length; kept as (lines, length)
            self.line_axis, self.lines = _lines(mask)
            kept = self.sampling if self.line_axis == -2 else self.sampling.mT
            self.on_lines = kept.index_select(0, self.lines)
            self.on_lines_conj = self.on_lines.conj().resolve_conj()

    def _forward(self, x: Tensor) -> Tensor:
        if self.kernel is not None:
            return linear_map(x, self.kernel.forward, self.kernel.adjoint)
        if self.maps is not None:
            return linear_map(x, self._sense, self._combined)
        return torch.fft.fft2(x * self.phase, norm="ortho").mul_(self.sampling)

    def _adjoint(self, y: Tensor) -> Tensor:
        if self.kernel is not None:
            return linear_map(y, self.kernel.adjoint, self.kernel.forward)
        if self.maps is not None:
            return linear_map(y, self._combined, self._sense)
        x = torch.fft.ifft2(y * self.sampling_conj, norm="ortho") * self.phase_conj
        return x if self.complex_image else x.real.contiguous()

    def normal(self, x: Tensor) -> Tensor:
        """Return A^H A x, by transforms along the undersampled axes only."""
        if self.maps is None:
            return self._convolve(x, self.gram)
        if self.kernel is not None:
            return linear_map(x, self.kernel.normal, self.kernel.normal)
        return linear_map(x, self._sense_normal, self._sense_normal)

    def _sense(self, x: Tensor) -> Tensor:
        y = x.new_zeros(x.shape[0], *self.out_shape, dtype=self.out_dtype)
        for first, last in coil_groups(self.out_shape[0], x):
            if not len(self.lines):
                torch.mul(torch.fft.fft2(fused.spread(x, self.seen[first:last])), self.sampling, out=y[:, first:last])
                continue
            k = self._turned(torch.fft.fft(fused.spread(x, self.seen[first:last]), dim=self.line_axis))
            k = torch.fft.fft(k.index_select(-2, self.lines)).mul_(self.on_lines)
            y[:, first:last].index_copy_(self.line_axis, self.lines, self._turned(k))
        return y

    def _combined(self, y: Tensor) -> Tensor:
        x = y.new_zeros(y.shape[0], *self.in_shape)
        for first, last in coil_groups(self.out_shape[0], x):
            if not len(self.lines):
                images = torch.fft.ifft2(y[:, first:last] * self.sampling_conj, norm="forward")
            else:
                k = self._turned(y[:, first:last]).index_select(-2, self.lines).mul_(self.on_lines_conj)
                images = torch.zeros_like(y[:, first:last])
                images.index_copy_(self.line_axis, self.lines, self._turned(torch.fft.ifft(k, norm="forward")))
                images = torch.fft.ifft(images, dim=self.line_axis, norm="forward")
            add_combined(x, images, self.seen_conj[first:last])
        return x if self.complex_image else x.real.contiguous()

    def _turned(self, k: Tensor) -> Tensor:
        """Return k-space with its lines as rows, and back."""
        return k if self.line_axis == -2 else k.mT

    def _sense_normal(self, x: Tensor) -> Tensor:
        total = x.new_zeros(x.shape, dtype=self.out_dtype)
        for first, last in coil_groups(self.out_shape[0], x):
            k = torch.fft.fftn(fused.spread(x, self.plain[first:last]), dim=self.dims).mul_(self.gram)
            add_combined(total, torch.fft.ifftn(k, dim=self.dims), self.maps_conj[first:last])
        return total if self.complex_image else total.real.contiguous()

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

    def has_pinv(self) -> bool:
        return self.maps is None

    def prox(self, z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor | None:
        """Return (A^H A + rho)^-1 (A^H y + rho z), exact without maps (rho > 0); None with maps."""
        if self.maps is not None:
            return None
        return self._convolve(self.adjoint(y) + rho * z, 1 / (self.gram + rho))

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> CartesianMRI:
        """Return a copy on another device and/or in float32 or float64, its phases exact to that precision."""
        maps = None if self.maps is None else self.maps.to(device)
        return CartesianMRI(self.mask.to(device, dtype), maps, self.complex_image)

    def _compiled(self, maps: Tensor) -> CompiledSense | None:
        """Return the compiled kernel, where it is chosen for this device and serves the size."""
        device, size = self.mask.device, self.mask.shape
        if fused.backend(device) != "compiled" or not fits(maps.shape[0], tuple(size), self.mask.dtype):
            return None
        points = math.prod(size[d] for d in self.dims)
        phase = (self.phase / math.sqrt(self.mask.numel())).to(self.out_dtype)
        gram = torch.fft.ifftshift(self.mask) / points
        return CompiledSense(maps, phase, self.sampling, gram, self.complex_image)

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


def _lines(mask: Tensor) -> tuple[int, Tensor]:
    """Return the axis along which the fewest lines hold all samples, and those lines; none where they are many."""
    measured = {axis: mask.any(-3 - axis).nonzero().flatten() for axis in (-2, -1)}
    axis = min(measured, key=lambda a: len(measured[a]) / mask.shape[a])
    few = len(measured[axis]) <= FEW_LINES * mask.shape[axis]
    return axis, measured[axis] if few else measured[axis][:0]
