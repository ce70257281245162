"""Power spectra of periodic fields: shells, samples compared with data, and the Gaussian prior of the same spectrum.

    P(k) = mean over fields and over the modes with round(|k|) = k of |w_k|^2,   w_k = (1/N) sum_x w(x) exp(-i k x)
for k = 1 .. n/2 - 1, the shells that a field of n x n pixels holds entirely (power per mode, not summed over a shell).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from recon.errors import ConfigError
from recon.priors.gaussian import GaussianPrior
from recon.training.report import Oracle


@dataclass(frozen=True)
class Shell:
    """Power per mode of one shell in the data and in the samples; `counted` where the data's is above the floor."""

    wavenumber: int
    data: float
    samples: float
    counted: bool

    @property
    def deviation(self) -> float:
        """Samples' power over the data's, less one."""
        return self.samples / self.data - 1


def shell_spectrum(fields: np.ndarray) -> np.ndarray:
    """Return the power per mode of the shells 1 .. n/2 - 1 of fields (N, n, n), in squared units of the field.

    Raises ConfigError unless the fields are square.
    """
    if fields.ndim != 3 or fields.shape[1] != fields.shape[2]:
        raise ConfigError(f"spectra need square fields (N, n, n), got {fields.shape}")
    n = fields.shape[-1]
    power = np.zeros((n, n))
    for part in np.array_split(fields, max(1, len(fields) // 64)):
        power += (np.abs(np.fft.fft2(part.astype(np.float64)) / n**2) ** 2).sum(axis=0)
    k = np.fft.fftfreq(n, 1 / n)
    shell = np.rint(np.hypot(k[:, None], k[None, :])).astype(int).ravel()
    return (np.bincount(shell, power.ravel()) / np.bincount(shell))[1 : n // 2] / len(fields)


def compare_spectra(samples: np.ndarray, data: np.ndarray, floor: float = 1e-4) -> list[Shell]:
    """Return every shell of samples (N, n, n) beside data (M, n, n); those below floor * peak are not counted."""
    found, wanted = shell_spectrum(samples), shell_spectrum(data)
    least = floor * wanted.max()
    return [
        Shell(k, float(d), float(s), bool(d > least))
        for k, (d, s) in enumerate(zip(wanted, found, strict=True), start=1)
    ]


def largest_deviation(shells: Sequence[Shell]) -> float:
    """Return the largest |deviation| of the shells that count."""
    return max(abs(shell.deviation) for shell in shells if shell.counted)


def stationary_gaussian(fields: np.ndarray, value_range: tuple[float, float]) -> GaussianPrior:
    """Return the Gaussian prior with the mean field and the two-dimensional power spectrum of fields (N, n, n).

    Its denoiser is the best linear shift-invariant one for these fields: what a network must beat.
    """
    mean = fields.mean(axis=0, dtype=np.float64)
    power = np.zeros(mean.shape)
    for part in np.array_split(fields, max(1, len(fields) // 64)):
        power += (np.abs(np.fft.fft2(part - mean, norm="ortho")) ** 2).sum(axis=0)
    return GaussianPrior(
        torch.from_numpy(power / len(fields))[None], torch.from_numpy(mean)[None], value_range=value_range
    )


def linear_oracle(prior: GaussianPrior) -> Oracle:
    """Return the Gaussian prior's denoiser as a baseline of a report: (noisy, sigma) -> its one estimate."""
    return lambda noisy, sigma: [prior(torch.from_numpy(noisy)[None], sigma).x0[0].numpy()]
