"""Likelihoods of a measurement y given the noise-free z = A u, both in the prior's units.

    Gaussian   y = z + sigma n                              loss = ||y - z||^2 / (2 sigma^2)
    Poisson    k ~ Poisson(lam), lam = gain (scale z + offset),  k = gain (scale y + offset)
               loss = sum(lam - k ln lam)
    Transmission  k ~ Poisson(lam), lam = gain exp(-(scale z + offset)),  k = gain exp(-(scale y + offset))
               loss = sum(lam + k (scale z + offset))

`scale` and `offset` undo the map to the prior's units, so the Poisson rate is that of the measured data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor


class Likelihood(ABC):
    """Abstract likelihood; all values are per sample, never summed over the batch."""

    @abstractmethod
    def loss(self, z: Tensor, y: Tensor) -> Tensor:
        """Return -log p(y | z) up to a constant, shape (B,), for z (B, *out_shape) and y (1 or B, *out_shape)."""

    @abstractmethod
    def noise_level(self, z: Tensor, count: int) -> Tensor:
        """Return the expected root mean square of y - z over the `count` measured real numbers, shape (B,)."""

    @abstractmethod
    def to(self, device: str | torch.device) -> Likelihood:
        """Return the same likelihood on another device."""

    def residual(self, z: Tensor, y: Tensor, count: int) -> Tensor:
        """Return ||y - z|| / (noise level sqrt(count)) per sample, 1 where data are fitted to the noise; shape (B,).

        Exact data (noise level 0) give ||y - z|| / ||y||.
        """
        r = per_item_norm(y - z)
        level = self.noise_level(z, count)
        scale = torch.where(level > 0, level * count**0.5, per_item_norm(y).clamp_min(1e-30).expand_as(level))
        return r / scale


@final
@dataclass(frozen=True)
class Gaussian(Likelihood):
    """Additive Gaussian noise; sigma is the standard deviation of each real number (0: exact data)."""

    sigma: float

    def loss(self, z: Tensor, y: Tensor) -> Tensor:
        return per_item_norm(y - z) ** 2 / (2 * max(self.sigma, 1e-12) ** 2)

    def noise_level(self, z: Tensor, count: int) -> Tensor:
        return torch.full((z.shape[0],), self.sigma, dtype=z.real.dtype, device=z.device)

    def to(self, device: str | torch.device) -> Gaussian:
        return self


@final
@dataclass(frozen=True)
class Poisson(Likelihood):
    """Counting noise; gain in counts per unit of the measured data, offset (1, *out_shape) in that unit.

    Rates are floored at `floor` counts, so that the loss stays finite where the model predicts none.
    """

    gain: float
    scale: float
    offset: Tensor
    floor: float = 1e-3

    def loss(self, z: Tensor, y: Tensor) -> Tensor:
        rate = self.rate(z)
        counts = self.gain * (self.scale * y + self.offset)
        return (rate - counts * rate.log()).flatten(1).sum(1)

    def rate(self, z: Tensor) -> Tensor:
        """Return the expected counts gain (scale z + offset), at least `floor`."""
        return (self.gain * (self.scale * z + self.offset)).clamp_min(self.floor)

    def noise_level(self, z: Tensor, count: int) -> Tensor:
        variance = self.rate(z) / (self.gain * self.scale) ** 2
        return (variance.flatten(1).sum(1) / count).sqrt()

    def to(self, device: str | torch.device) -> Poisson:
        return replace(self, offset=self.offset.to(device))


@final
@dataclass(frozen=True)
class Transmission(Likelihood):
    """Counts of what an object lets through; gain in counts of a ray that it does not meet.

    scale z + offset, with offset (1, *out_shape), is the attenuation in nepers: a line integral of tomography. y is
    the logarithm of the counts, in z's units.
    Source: H. Erdogan, J. A. Fessler, Phys. Med. Biol. 44, 1999, eq. 2, without background counts.
    """

    gain: float
    scale: float
    offset: Tensor

    def loss(self, z: Tensor, y: Tensor) -> Tensor:
        return (self.rate(z) + self.rate(y) * (self.scale * z + self.offset)).flatten(1).sum(1)

    def rate(self, z: Tensor) -> Tensor:
        """Return the expected counts gain exp(-(scale z + offset))."""
        return self.gain * (-(self.scale * z + self.offset)).exp()

    def noise_level(self, z: Tensor, count: int) -> Tensor:
        variance = 1 / (self.rate(z) * self.scale**2)
        return (variance.flatten(1).sum(1) / count).sqrt()

    def to(self, device: str | torch.device) -> Transmission:
        return replace(self, offset=self.offset.to(device))


def per_item_norm(r: Tensor) -> Tensor:
    """Return the Euclidean norm of each item of r (B, ...), real, shape (B,)."""
    if r.is_complex():  # the same number, a hundred times faster than the norm of complex entries
        r = torch.view_as_real(r.resolve_conj())
    return torch.linalg.vector_norm(r.flatten(1), dim=1)


def per_item_dot(a: Tensor, b: Tensor) -> Tensor:
    """Return Re<a, b> of each item, with a conjugated: (B, ...), (B, ...) -> (B,), real."""
    a, b = a.flatten(1), b.flatten(1)
    if a.is_complex():
        a, b = (torch.view_as_real(v.resolve_conj()).flatten(1) for v in (a, b))
    return torch.linalg.vecdot(a, b, dim=1)
