"""RED-diff: one image fitted to the data by Adam, regularised by the denoiser at falling noise levels.

    u = mu + sigma_x0 n0,   x = u + sigma n,   eps = (x - D(x, sigma))/sigma
    g = weight grad ||y - A u||^2/(2 M) + lam w(sigma) (eps - n)/N,        mu <- Adam(mu, g)

M, N: real numbers measured and in the image, for the authors take means of both terms; eps - n is not differentiated.
w(sigma): linear sigma, sqrt sigma^(1/2), square sigma^2, two-thirds sigma^(2/3), log ln(1 + sigma), clip min(sigma, 1),
const 1.

It seeks a mode: the regulariser fades with sigma, so that in the end the data are met, and what they do not see goes to
its mode given them. Samples differ by the path of the noise alone.

Source: Mardani, Song, Kautz, Vahdat 2024 (RED-diff), algorithm 1, the authors' code. Departures: non-Gaussian data take
-ln p(y | A u), in units of their noise variance, in the place of the squares; without a pseudo-inverse mu starts at the
scaled adjoint, and at unit noise for a non-linear A, whose gradient may vanish at 0. The network sees x at its own
scaling (InverseBench's port hands it the VP state without undoing that state's factor).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from recon import schedules
from recon.baselines.common import scaled_adjoint
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian
from recon.operators.base import LinearOperator
from recon.priors.base import Denoiser
from recon.samplers.base import Method, NoiseSource, OnStep, Result, Stats, Status, Step, ignore_step
from recon.samplers.gradient import measured_data
from recon.samplers.guard import FiniteGuard
from recon.samplers.spectral import truncated_pinv
from recon.samplers.start import first_state, levels_like
from recon.solvers.adam import Adam

WEIGHTS: dict[str, Callable[[float], float]] = {
    "linear": lambda sigma: sigma,
    "sqrt": math.sqrt,
    "square": lambda sigma: sigma**2,
    "two-thirds": lambda sigma: sigma ** (2 / 3),
    "log": math.log1p,
    "clip": lambda sigma: min(sigma, 1.0),
    "const": lambda sigma: 1.0,
}
BETAS = (0.9, 0.99)
CUTOFF = 0.03  # of the first image's pseudo-inverse, relative to the largest singular value


@final
@dataclass(frozen=True)
class REDDiff(Method):
    """Regularisation by denoising diffusion.

    steps: noise levels, each one step of Adam.  grid: name in `recon.schedules.GRIDS`.  learning_rate: of Adam.
    lam: weight of the regulariser.  weighting: w(sigma).  data_weight: of the data term.
    sigma_x0: spread of the image that is fitted, 0 for a single one.
    start: of mu without an estimate: "pinv" (the scaled adjoint where there is none), "adjoint", "zero", "noise".
    fresh_noise: draw n at each step, else once.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"forward", "gradient"})
    citation: ClassVar[str] = (
        "@inproceedings{mardani2024reddiff, title={A Variational Perspective on Solving Inverse Problems with "
        "Diffusion Models}, author={Mardani, Morteza and Song, Jiaming and Kautz, Jan and Vahdat, Arash}, "
        "booktitle={ICLR}, year={2024}}"
    )

    steps: int = 100
    grid: str = "vp"
    learning_rate: float = 0.1
    lam: float = 0.25
    weighting: Literal["linear", "sqrt", "square", "two-thirds", "log", "clip", "const"] = "linear"
    data_weight: float = 1.0
    sigma_x0: float = 0.0
    start: Literal["pinv", "adjoint", "zero", "noise"] = "pinv"
    fresh_noise: bool = True

    def __post_init__(self) -> None:
        positive = all(v >= 0 for v in (self.lam, self.data_weight, self.sigma_x0))
        if self.steps < 1 or not (self.learning_rate > 0 and positive):
            raise ConfigError("reddiff needs steps >= 1, learning_rate > 0, and lam, data_weight and sigma_x0 >= 0")
        schedules.grid(self.grid, self.steps)

    @property
    def network_calls(self) -> int:
        return len(schedules.grid(self.grid, self.steps)) - 1

    @torch.no_grad()
    def sample(
        self,
        prior: Denoiser | None,
        problem: Problem,
        x_init: Tensor | None,
        noise: NoiseSource,
        shape: tuple[int, ...],
        on_step: OnStep = ignore_step,
    ) -> Result:
        """Return the fitted images; one network evaluation, one A and one A^H (or its derivative's) per step."""
        if prior is None:
            raise ConfigError("method 'reddiff' needs a prior", "name one with --prior")
        sigmas = schedules.grid(self.grid, self.steps).tolist()[:-1]
        n = first_state("edm", 1.0, problem, None, noise, shape)  # unit noise, after a check of the shape
        mu, adam = self._first(problem, x_init, n), Adam(self.learning_rate, BETAS)
        problem = replace(problem, y=measured_data(problem))
        levels, guard, stats, count = levels_like(sigmas, n), FiniteGuard(n), Stats(), problem.operator.measured()
        size = n[0].numel() * (2 if n.is_complex() else 1)
        for i, sigma in enumerate(sigmas):
            u = mu if self.sigma_x0 == 0 else mu.add(noise.normal(n.shape, n.dtype), alpha=self.sigma_x0)
            n = noise.normal(n.shape, n.dtype) if self.fresh_noise else n
            x = u.add(n, alpha=sigma)
            eps = x.sub(prior(x, levels[i]).x0).div_(sigma)
            gradient, residual = self._data_gradient(problem, u, count)
            adam.step(mu, gradient.add_(eps.sub_(n), alpha=self.lam * WEIGHTS[self.weighting](sigma) / size))
            stats.residuals.append(residual)
            stats.nfe, stats.operator_calls = i + 1, 2 * (i + 1)
            guard.keep(mu, residual)
            on_step(Step(i, len(sigmas), sigmas[i + 1] if i + 1 < len(sigmas) else 0.0, guard.last))
            if guard.diverged(i):
                break
        return Result(guard.last, Status.DIVERGED if guard.broken() else Status.OK, stats)

    def _data_gradient(self, problem: Problem, u: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return the weighted gradient of the data term at u (B, *in_shape), and the residual of u."""
        y, given = problem.y, problem.likelihood
        unit = Gaussian(1.0) if isinstance(given, Gaussian) else given
        with torch.enable_grad():
            leaf = u.clone().requires_grad_()
            z = problem.operator.forward(leaf)
            loss = unit.loss(z, y) * unit.noise_level(z.detach(), count) ** 2
            (gradient,) = torch.autograd.grad(loss.sum() * (self.data_weight / count), leaf)
        return gradient, given.residual(z.detach(), y, count)

    def _first(self, problem: Problem, x_init: Tensor | None, n: Tensor) -> Tensor:
        """Return the first mu (B, *in_shape), memory of its own."""
        operator, y = problem.operator, problem.y
        if x_init is not None:
            return x_init.to(n).expand_as(n).clone()
        if self.start in ("zero", "noise") or not isinstance(operator, LinearOperator):
            return torch.zeros_like(n) if self.start == "zero" else n.clone()
        back = truncated_pinv(operator, CUTOFF) if self.start == "pinv" else None
        return (scaled_adjoint(operator, y) if back is None else back(y)).to(n).expand_as(n).clone()
