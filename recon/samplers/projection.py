"""The measured subspace of a linear operator: fitting the data in it, leaving it alone, weighing it with the noise.

    fit(x, y)        x + relax B (y - A x)           B = A^+: the closest image with A x = y, for y in A's range
    unmeasured(v)    v - share B A v                 B = A^+: the part of v that the data say nothing of
    isotropic_gain   r^2 A^H (r^2 A A^H + S)^-1 m    the Kalman gain of a covariance r^2 I; A^+ m for exact data

B is the pseudo-inverse A^+, exact or approximate (filtered backprojection), or Kaczmarz's normalised A^H/(A^H A 1).
Used by MCG, PiGDM. Per item; nothing waits for a device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian, per_item_norm
from recon.operators.base import LinearOperator
from recon.samplers.gradient import noise_variance
from recon.solvers.cg import conjugate_gradients
from recon.solvers.gain import kalman_gain
from recon.solvers.prox import Prox, data_prox

Inverse = Literal["auto", "pinv", "cg", "kaczmarz"]
Gain = Callable[[Tensor, Tensor, float], Tensor]
LEAST_SIGMA = 1e-4  # InverseBench's, for exact data that are taken as noisy


@final
@dataclass(frozen=True)
class MeasuredSubspace:
    """An operator and its B.

    back: B, (B, *out_shape) -> (B, *in_shape).  calls: of A and A^H in one B.  differentiable: B, by autograd.
    """

    operator: LinearOperator
    back: Callable[[Tensor], Tensor]
    calls: int = 1
    differentiable: bool = True

    def fit(self, x: Tensor, y: Tensor, relax: float = 1.0, dirt: Tensor | None = None) -> Tensor:
        """Return x + relax B (y + A dirt - A x) for x and dirt (B, *in_shape) and y (1 or B, *out_shape)."""
        clean = x if dirt is None else x - dirt
        return x.add(self.back(y - self.operator.forward(clean)), alpha=relax)

    def unmeasured(self, v: Tensor, share: float = 1.0) -> Tensor:
        """Return v - share B A v for v (B, *in_shape)."""
        return v if share == 0 else v.sub(self.back(self.operator.forward(v)), alpha=share)


def measured_subspace(operator: LinearOperator, inverse: Inverse, iterations: int, like: Tensor) -> MeasuredSubspace:
    """Return the measured subspace of an operator with B chosen by name.

    inverse: "auto" the SVD where the operator has one (taken once), else "cg": `iterations` of conjugate gradients on
        A^H A x = A^H r from 0, which tend to A^+ r.  "pinv": the operator's own, which need not be exact (filtered
        backprojection: repeated fits may then diverge).  "kaczmarz": A^H r/(A^H A 1), real images.
    like: a tensor of images, for its type and device.
    Raises ConfigError where the operator has no pseudo-inverse, or "kaczmarz" meets complex images.
    """
    if inverse == "kaczmarz":
        return MeasuredSubspace(operator, _kaczmarz(operator, like))
    spectrum = operator.svd() if inverse != "cg" else None
    if spectrum is not None:
        return MeasuredSubspace(operator, spectrum.pinv)
    if inverse == "pinv":
        if not operator.has_pinv():
            raise ConfigError(f"{operator!r} has no pseudo-inverse", "use method.inverse=cg")
        return MeasuredSubspace(operator, lambda r: _never_none(operator.pinv(r)))

    def back(r: Tensor) -> Tensor:
        return conjugate_gradients(operator.normal, operator.adjoint(r), iterations=iterations).x

    return MeasuredSubspace(operator, back, 1 + 2 * iterations, differentiable=False)


def isotropic_gain(
    problem: Problem, operator: LinearOperator, exact: bool, iterations: int, like: Tensor
) -> tuple[Gain, int]:
    """Return (m, z, r^2) -> r^2 A^H (r^2 A A^H + S)^-1 m, and the calls of A and A^H that it takes.

    m: misfit y - z (B, *out_shape).  z: A x0 (B, *out_shape), where Poisson data take their variance S.  r^2: a number.
    exact: take the data as exact, A^+ m; else Gaussian noise is at least `LEAST_SIGMA`.
    iterations: of CG, where the operator has neither SVD nor closed form.  like: images (B, *in_shape).
    """
    likelihood, count = problem.likelihood, operator.measured()
    if exact:
        subspace = measured_subspace(operator, "auto", iterations, like)
        return lambda misfit, z, square: subspace.back(misfit), subspace.calls
    if isinstance(likelihood, Gaussian):
        zero, power = torch.zeros_like(like), max(likelihood.sigma, LEAST_SIGMA) ** 2
        prox, calls = _prox(operator, zero, iterations)
        return lambda misfit, z, square: prox(zero, power / square, misfit), calls

    def weighted(misfit: Tensor, z: Tensor, square: float) -> Tensor:
        def spread(u: Tensor) -> Tensor:
            return square * operator.adjoint(u)

        variance = noise_variance(likelihood, z, count)
        return kalman_gain(operator.forward, spread, variance, misfit, iterations).change

    return weighted, 2 * iterations


def rms_gain(back: Callable[[Tensor], Tensor], operator: LinearOperator, like: Tensor) -> float:
    """Return the root mean square of B n for unit noise n of the data, B = `back`, from one draw of a fixed seed."""
    n = torch.randn(1, *operator.out_shape, dtype=operator.out_dtype, generator=torch.Generator().manual_seed(0))
    image = back((2**0.5 * n if n.is_complex() else n).to(like.device))
    count = image.numel() * (2 if image.is_complex() else 1)
    return float(per_item_norm(image)[0]) / count**0.5


def _prox(operator: LinearOperator, zero: Tensor, iterations: int) -> tuple[Prox, int]:
    """Return the proximal map of the data, and the calls of A and A^H that it takes."""
    spectrum = operator.svd()
    if spectrum is not None:
        return spectrum.prox, 2
    unseen = zero.new_zeros((1, *operator.out_shape), dtype=operator.out_dtype)
    calls = 2 if operator.prox(zero[:1], 1.0, unseen) is not None else 2 * (iterations + 1)
    return lambda z, rho, y: data_prox(operator, z, rho, y, iterations), calls


def _kaczmarz(operator: LinearOperator, like: Tensor) -> Callable[[Tensor], Tensor]:
    if like.is_complex():
        raise ConfigError("inverse 'kaczmarz' needs real images", "use method.inverse=cg")
    total = operator.normal(like.new_ones((1, *operator.in_shape)))
    seen = total > 1e-6 * total.amax()
    weight = torch.where(seen, 1 / torch.where(seen, total, 1.0), 0.0)
    return lambda r: weight * operator.adjoint(r)


def _never_none(image: Tensor | None) -> Tensor:
    assert image is not None
    return image
