"""Forced two-dimensional Navier-Stokes in vorticity form on the torus [0, 2 pi)^2, by a pseudo-spectral method.

    w_t + u . grad w = (1/Re) lap w + f,     lap psi = -w,  u = (psi_y, -psi_x),     f = -A cos(m y)

One step of size d, with N(w) = -u . grad w + f and L = |k|^2 / (2 Re) in Fourier space:
    w*  = [(1 - d L) w + d N(w)] / (1 + d L)                        (Crank-Nicolson viscosity, Euler predictor)
    w'  = [(1 - d L) w + d/2 (N(w) + N(w*))] / (1 + d L)            (Heun corrector): second order in d
The advection is u . grad w = (d_xx - d_yy)(u v) + d_xy (v^2 - u^2), four transforms; products keep |k_x|, |k_y| < n/3,
so that no alias of a product reaches a kept mode. The mean of w is kept at zero. Fields are (..., Y, X).

The step. Heun's method alone amplifies a wave of phase z = k U d per step by 1 + z^4/8; viscosity damps it by
1 - d k^2/Re. Both balance at d^3 = 8 / (Re k^2 U^4), taken at the last kept k = n/3, with U = max(|u| + |v|).

Source: Li et al., Fourier neural operator, ICLR 2021 (equation and splitting); Zheng et al., InverseBench, ICLR 2025
(Re = 200, A = m = 4). Departures: the published step is 0.5 h/max|u| with h = 1/n on a torus of length 2 pi, so that
its Courant number is 0.08 (0.5 would be unstable); the published mask keeps a disc of radius 0.47 n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recon.errors import ConfigError, NumericalError

LENGTH = 2 * math.pi
COURANT = 0.5
MAX_DT = 0.05


@final
@dataclass(frozen=True)
class Flow:
    """Reynolds number, and amplitude A and wave number m of the forcing -A cos(m y)."""

    reynolds: float = 200.0
    amplitude: float = 4.0
    wavenumber: int = 4

    def __post_init__(self) -> None:
        if not self.reynolds > 0 or self.wavenumber < 1:
            raise ConfigError(f"a flow needs reynolds > 0 and wavenumber >= 1, got {self.reynolds}, {self.wavenumber}")


@final
class NavierStokes:
    """The solver of one flow on an n x n grid; it keeps tables alone and changes none of them."""

    def __init__(self, flow: Flow, n: int, dtype: torch.dtype = torch.float32) -> None:
        """Build the tables. Raises ConfigError if the grid cannot carry the forcing."""
        if n % 2 or not n / 3 > flow.wavenumber:
            raise ConfigError(
                f"a grid of {n} cannot carry forcing at wave number {flow.wavenumber}", "take a finer one"
            )
        self.flow, self.n, self.dtype = flow, n, dtype
        ky = torch.fft.fftfreq(n, 1 / n, dtype=dtype)[:, None]
        kx = torch.fft.rfftfreq(n, 1 / n, dtype=dtype)[None, :]
        square = kx**2 + ky**2
        kept = ((kx.abs() < n / 3) & (ky.abs() < n / 3)).to(dtype)
        kept[0, 0] = 0
        inverse = kept / square.clamp_min(1)
        self.kept, self.viscosity = kept, square / (2 * flow.reynolds)
        self.to_u, self.to_v = 1j * ky * inverse, -1j * kx * inverse
        self.from_uv, self.from_squares = (kx**2 - ky**2) * kept, kx * ky * kept
        y = torch.arange(n, dtype=dtype) * (LENGTH / n)
        forcing = (-flow.amplitude * torch.cos(flow.wavenumber * y))[:, None].expand(n, n)
        self.forcing = torch.fft.rfft2(forcing) * kept

    def transform(self, w: Tensor) -> Tensor:
        """Return the coefficients (..., n, n/2 + 1) of a field (..., n, n), restricted to the kept modes."""
        return torch.fft.rfft2(w) * self.kept

    def field(self, coefficients: Tensor) -> Tensor:
        """Return the field (..., n, n) of coefficients."""
        return torch.fft.irfft2(coefficients, s=(self.n, self.n))

    def velocity(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Return (u, v), each (..., n, n)."""
        return self.field(self.to_u * coefficients), self.field(self.to_v * coefficients)

    def tendency(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Return N(w) = -u . grad w + f in Fourier space, and the largest |u| + |v| of all fields."""
        u, v = self.velocity(coefficients)
        advection = self.from_uv * torch.fft.rfft2(u * v) + self.from_squares * torch.fft.rfft2(v * v - u * u)
        return advection + self.forcing, (u.detach().abs() + v.detach().abs()).amax()

    def step(self, coefficients: Tensor, tendency: Tensor, dt: float) -> Tensor:
        """Return the coefficients after dt, where `tendency` is N at the start of the step."""
        implicit = 1 / (1 + dt * self.viscosity)
        decayed = (1 - dt * self.viscosity) * coefficients
        predicted = implicit * (decayed + dt * tendency)
        return implicit * (decayed + dt / 2 * (tendency + self.tendency(predicted)[0]))

    def stable_dt(self, speed: float) -> float:
        """Return the largest stable step where max(|u| + |v|) = `speed`: see the head of this file; at most MAX_DT."""
        speed = max(speed, 1e-6)
        balance = (8 / (self.flow.reynolds * (self.n / 3) ** 2 * speed**4)) ** (1 / 3)
        return min(balance, COURANT * LENGTH / self.n / speed, MAX_DT)

    def advance(self, coefficients: Tensor, duration: float, dt: float | None = None) -> Tensor:
        """Return the coefficients (..., n, n/2 + 1) after `duration`, in steps that land on it exactly.

        dt: a fixed step; None takes `stable_dt` of the fastest field of the batch, before each step.
        Raises NumericalError if the fields stop being finite.
        """
        left = duration
        while left > 1e-12 * duration:
            tendency, speed = self.tendency(coefficients)
            fastest = float(speed)
            if not math.isfinite(fastest):
                raise NumericalError("the Navier-Stokes solution is not finite", "take a smaller step or a finer grid")
            limit = self.stable_dt(fastest) if dt is None else dt
            # equal steps to the end, once it is in sight, avoid a last tiny one
            size = left / math.ceil(left / limit) if left < 2 * limit else limit
            coefficients = self.step(coefficients, tendency, size)
            left -= size
        return coefficients


def gaussian_field(count: int, n: int, generator: torch.Generator, rms: float = 5.0) -> Tensor:
    """Return random fields (count, n, n), float64: E|w_k|^2 ~ (|k|^2 + 3^2)^-4, zero mean, expected rms `rms`.

    Source: the Gaussian field of InverseBench's ensemble methods (alpha 4, tau 3), scaled to a stated amplitude.
    """
    k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    power = (k[:, None] ** 2 + k[None, :] ** 2 + 9.0) ** -4.0
    power[0, 0] = 0
    white = torch.randn(count, n, n, generator=generator, dtype=torch.float64)
    power = power * (rms**2 * n * n / power.sum())
    return torch.fft.ifft2(power.sqrt() * torch.fft.fft2(white)).real


def resample(coefficients: Tensor, n: int, size: int) -> Tensor:
    """Return the field (..., size, size) of coefficients on an n x n grid, by truncation or padding of the spectrum.

    Exact where the kept modes |k| < n/3 fit below the new Nyquist wave number size/2.
    """
    half = min(n, size) // 2
    out = coefficients.new_zeros(*coefficients.shape[:-2], size, size // 2 + 1)
    out[..., :half, :half] = coefficients[..., :half, :half]
    out[..., size - half + 1 :, :half] = coefficients[..., n - half + 1 :, :half]
    return torch.fft.irfft2(out, s=(size, size)) * (size / n) ** 2
