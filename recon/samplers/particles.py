"""Weighted particles under a twist: what a twisted particle sampler is made of.

Log weights and twists are float64: weights are differences of large losses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recon.data import Problem
from recon.likelihoods import Gaussian, Likelihood, per_item_dot
from recon.priors.base import Denoiser
from recon.samplers.base import NoiseSource
from recon.samplers.gradient import least_variance, measured_data, noise_variance, trace
from recon.solvers.resampling import effective, systematic

FLOOR = 1e-3  # noise level that stands in for exact data, relative to the root mean square of y


@final
@dataclass(frozen=True)
class Twisted:
    """A twist at particles x: its value (K,), its slope like x, the denoised images, and their residuals (K,)."""

    value: Tensor
    slope: Tensor
    x0: Tensor
    residual: Tensor


@final
class Twist:
    """lam(x) = -w L(A D(x, sigma)), w = s_y^2/(s_y^2 + r^2), and its slope in x through the network.

    batch: particles that are differentiated at once.
    """

    def __init__(self, prior: Denoiser, problem: Problem, batch: int) -> None:
        self.prior, self.operator, self.y, self.batch = prior, problem.operator, measured_data(problem), batch
        self.count, self.given = problem.operator.measured(), problem.likelihood
        self.likelihood = _inexact(problem.likelihood, self.y, self.count)
        self.noise = noise_variance(self.likelihood, self.y, self.count).double().mean()

    def at(self, x: Tensor, sigma: Tensor, variance: float) -> Twisted:
        """Return the twist at particles x (K, ...) of noise level sigma; variance: r^2 of an image given x."""
        parts = [self._part(v, sigma, self.noise / (self.noise + variance)) for v in x.split(self.batch)]
        return Twisted(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def final(self, x: Tensor) -> Tensor:
        """Return ln p(y | x) of images x (K, ...), up to a constant."""
        return torch.cat([-self._loss(self.operator.forward(v)) for v in x.split(self.batch)])

    def _part(self, x: Tensor, sigma: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        traced = trace(self.prior, x, sigma)
        with torch.enable_grad():
            z = self.operator.forward(traced.seen.x0)
            value = -weight * self._loss(z)
            slope = traced.slope(value)
        return value.detach(), slope, traced.x0, self.given.residual(z.detach(), self.y, self.count)

    def _loss(self, z: Tensor) -> Tensor:
        exact = torch.complex128 if z.is_complex() else torch.float64
        return self.likelihood.loss(z.to(exact), self.y.to(exact))


@final
class Particles:
    """The log weights of K particles, their resampling, and the evidence that they estimate.

    threshold: share of K below which the effective number asks for resampling.
    """

    def __init__(self, count: int, device: torch.device, threshold: float, noise: NoiseSource) -> None:
        self.count, self.threshold, self.noise = count, threshold, noise
        self.log_weights = torch.zeros(count, dtype=torch.float64, device=device)
        self.log_evidence = torch.zeros((), dtype=torch.float64, device=device)
        self.twist = torch.zeros_like(self.log_weights)
        self.effective = torch.full((), float(count), dtype=torch.float64, device=device)

    def reweigh(self, twist: Tensor) -> None:
        """Take in the twist (K,) at where the particles are now, in place of the one at where they were."""
        self.log_weights = self.log_weights + twist - self.twist
        self.twist = twist

    def ancestors(self) -> Tensor:
        """Resample if the effective number is low; return the ancestor of each particle, itself if it is not."""
        self.effective = effective(self.log_weights)
        due = self.effective < self.threshold * self.count
        children = systematic(self.log_weights, self._uniform())
        chosen = torch.where(due, children, torch.arange(self.count, device=children.device))
        self.log_evidence = self.log_evidence + torch.where(due, self._log_mean(), 0.0)
        self.log_weights = torch.where(due, 0.0, self.log_weights)
        self.twist = self.twist.index_select(0, chosen)
        return chosen

    def moved(self, shift: Tensor, z: Tensor, variance: float) -> None:
        """Weigh a draw m + shift + sqrt(v) z (K, ...) as one of N(m, v): ln of the ratio of the densities."""
        if variance > 0:
            exact = torch.complex128 if z.is_complex() else torch.float64
            shift, z = shift.to(exact), z.to(exact)
            across = 2 * math.sqrt(variance) * per_item_dot(shift, z)
            self.log_weights = self.log_weights - (per_item_dot(shift, shift) + across) / (2 * variance)

    def drawn(self) -> Tensor:
        """Return the ancestors of an equally weighted set in random order, and add its weights to the evidence."""
        self.log_evidence = self.log_evidence + self._log_mean()
        children = systematic(self.log_weights, self._uniform())
        return children[self.noise.normal((self.count,), torch.float64).to(children.device).argsort()]

    def _log_mean(self) -> Tensor:
        return self.log_weights.logsumexp(0) - math.log(self.count)

    def _uniform(self) -> Tensor:
        """Return one uniform number for the ensemble, that of the first particle."""
        return torch.special.ndtr(self.noise.normal((self.count,), torch.float64)[0])


def _inexact(likelihood: Likelihood, y: Tensor, count: int) -> Likelihood:
    """Return the likelihood, with a little noise where the data are exact: no particle would meet them."""
    if not isinstance(likelihood, Gaussian) or likelihood.sigma > 0:
        return likelihood
    return Gaussian(float(least_variance(y, count, FLOOR).mean().sqrt()) or FLOOR)
