"""Small operators, networks and noise that the sampler tests share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from recon.data import Problem
from recon.likelihoods import Gaussian
from recon.operators.base import LinearOperator, Operator
from recon.priors.base import Denoiser, Prediction, PriorInfo
from recon.schedules import vp_alpha_bars


class Dense(LinearOperator):
    """A dense real matrix (M, D) on flattened images."""

    def __init__(self, matrix: Tensor, in_shape: tuple[int, ...]) -> None:
        self.matrix, self.in_shape, self.out_shape = matrix, in_shape, (len(matrix),)
        self.in_dtype = self.out_dtype = matrix.dtype

    def _forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.T

    def _adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix).reshape(-1, *self.in_shape)


class MaskedFourier(LinearOperator):
    """Single-coil MRI: y = mask F x, orthonormal F; complex or real images."""

    def __init__(self, mask: Tensor, in_dtype: torch.dtype) -> None:
        self.mask, self.in_shape, self.out_shape = mask, (1, *mask.shape), (1, *mask.shape)
        self.in_dtype = in_dtype
        self.out_dtype = in_dtype if in_dtype.is_complex else in_dtype.to_complex()
        self.support = mask

    def _forward(self, x: Tensor) -> Tensor:
        return self.mask * torch.fft.fft2(x, norm="ortho")

    def _adjoint(self, y: Tensor) -> Tensor:
        image = torch.fft.ifft2(self.mask * y, norm="ortho")
        return image if self.in_dtype.is_complex else image.real

    def pinv(self, y: Tensor) -> Tensor:
        return self._adjoint(y)


class MultiCoil(LinearOperator):
    """Multi-coil MRI: y_c = mask F (s_c x), complex images."""

    def __init__(self, mask: Tensor, coils: Tensor) -> None:
        self.mask, self.coils = mask, coils
        self.in_shape, self.out_shape = (1, *mask.shape), tuple(coils.shape)
        self.in_dtype = self.out_dtype = coils.dtype
        self.support = mask

    def _forward(self, x: Tensor) -> Tensor:
        return self.mask * torch.fft.fft2(self.coils * x, norm="ortho")

    def _adjoint(self, y: Tensor) -> Tensor:
        return (self.coils.conj() * torch.fft.ifft2(self.mask * y, norm="ortho")).sum(1, keepdim=True)


class Saturating(Operator):
    """A non-linear operator: tanh of a dense matrix product."""

    def __init__(self, matrix: Tensor, in_shape: tuple[int, ...]) -> None:
        self.matrix, self.in_shape, self.out_shape = matrix, in_shape, (len(matrix),)
        self.in_dtype = self.out_dtype = matrix.dtype

    def _forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x.flatten(1) @ self.matrix.T)


class EpsNet(nn.Module):
    """A small VP network: net(x_vp, t) -> eps, or eps and v stacked over channels; float64."""

    def __init__(self, channels: int, learned: bool, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        out = channels * (2 if learned else 1)
        self.channels, self.alpha_bars = channels, torch.from_numpy(vp_alpha_bars())
        self.first = nn.Parameter(0.5 * torch.randn(4, channels, 3, 3, generator=g, dtype=torch.float64))
        self.last = nn.Parameter(0.3 * torch.randn(out, 4, 3, 3, generator=g, dtype=torch.float64))
        self.requires_grad_(False)

    def forward(self, x: Tensor, t: int) -> Tensor:
        """x: (B, C, Y, X) in VP coordinates.  t: 0..999."""
        hidden = torch.tanh(torch.conv2d(x, self.first.to(x.dtype), padding=1) + t / 500)
        out = torch.conv2d(hidden, self.last.to(x.dtype), padding=1)
        # the best linear guess for unit-variance images, plus a bounded change of the denoised image
        ab = float(self.alpha_bars[t])
        eps = (1 - ab) ** 0.5 * x + 0.5 * ab**0.5 * out[:, : self.channels]
        return torch.cat([eps, out[:, self.channels :]], dim=1)


class VPDenoiser(Denoiser):
    """An `EpsNet` as a denoiser in sigma-space."""

    def __init__(self, network: EpsNet) -> None:
        self.network = network
        self.info = PriorInfo(name="vp-test", channels=network.channels, value_range=(-1.0, 1.0))
        ab = network.alpha_bars
        self.levels = ((1 - ab) / ab).sqrt()

    def _denoise(self, x: Tensor, sigma: Tensor, cond: Tensor | None) -> Prediction:
        s = float(sigma[0])
        t = int((self.levels.log() - np.log(s)).abs().argmin())
        out = self.network(x / (1 + s**2) ** 0.5, t)
        c = self.network.channels
        mix = (out[:, c:] + 1) / 2 if out.shape[1] > c else None
        return Prediction(x - s * out[:, :c], mix)


class BatchNoise:
    """Noise from one generator for the whole batch: fast, for statistics over many samples."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if dtype.is_complex:
            return torch.view_as_complex(torch.randn(*shape, 2, generator=self.generator, dtype=dtype.to_real()))
        return torch.randn(tuple(shape), generator=self.generator, dtype=dtype)


def generator(seed: int) -> torch.Generator:
    """Return a CPU generator."""
    return torch.Generator().manual_seed(seed)


def dense_problem(
    rows: int, in_shape: tuple[int, ...], dtype: torch.dtype, sigma: float = 0.05, linear: bool = True
) -> Problem:
    """Return a problem with a random dense matrix and random measurements."""
    size = int(np.prod(in_shape))
    matrix = torch.randn(rows, size, generator=generator(1), dtype=torch.float64).to(dtype) / size**0.5
    y = torch.randn(1, rows, generator=generator(2), dtype=torch.float64).to(dtype)
    operator = Dense(matrix, in_shape) if linear else Saturating(matrix, in_shape)
    return Problem(operator, y, Gaussian(sigma))


def relative(a: Tensor, b: Tensor) -> float:
    """Return ||a - b||/||b||."""
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


class ConvNet(nn.Module):
    """Two convolutions, of x_vp and t to eps, as `EpsNet`; adapters fit beside its layers."""

    def __init__(self, channels: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.channels, self.alpha_bars = channels, torch.from_numpy(vp_alpha_bars())
        self.each = self.alpha_bars.tolist()
        self.first, self.last = (nn.Conv2d(a, b, 3, padding=1) for a, b in ((channels, 4), (4, channels)))
        self.to(dtype).requires_grad_(False)
        for p in self.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=g, dtype=torch.float64))

    def forward(self, x: Tensor, t: int) -> Tensor:
        """x: (B, C, Y, X) in VP coordinates.  t: 0..999."""
        out = self.last(torch.tanh(self.first(x) + t / 500))
        ab = self.each[t]
        return (1 - ab) ** 0.5 * x + 0.5 * ab**0.5 * out


class Convolutional(Denoiser):
    """The denoiser of N(0, I) plus a small network's change, for real or complex images; notes what it is asked."""

    def __init__(self, channels: int, is_complex: bool = False, dtype: torch.dtype = torch.float32) -> None:
        self.network: nn.Module = ConvNet(channels * (2 if is_complex else 1), dtype)
        self.info = PriorInfo(name="convolutional", channels=channels, complex_channels=is_complex)
        self.asked: list[tuple[Tensor, Tensor]] = []
        self.graphs: list[bool] = []

    def _denoise(self, x: Tensor, sigma: Tensor, cond: Tensor | None) -> Prediction:
        self.asked.append((x.detach().clone(), sigma.clone()))
        s2 = sigma.reshape(-1, *(1,) * (x.ndim - 1)) ** 2
        shrunk = x / (1 + s2)
        real = torch.view_as_real(shrunk).movedim(-1, 2).flatten(1, 2) if x.is_complex() else shrunk
        change = self.network(real, 0)
        if x.is_complex():
            change = torch.view_as_complex(change.unflatten(1, (-1, 2)).movedim(2, -1).contiguous())
        found = shrunk + s2 / (1 + s2) * 0.1 * change
        self.graphs.append(found.requires_grad)
        return Prediction(found)
