"""The data step of DAPS and of PnP-DM: a draw from the likelihood times a Gaussian around an estimate.

    q(x) ~ exp(-w L(A x)) N(x; c, diag(r^2)),     L = -ln p(y | A x), with Gaussian noise ||y - A x||^2/(2 tau^2)

    exact       perturb and optimise: a draw from q itself (linear A, Gaussian noise)
    langevin    N steps x += h score + sqrt(2 h) z from c: biased by O(h), and by N
    hmc         N damped steps with momentum m, step sqrt(h): as in the DAPS code, biased likewise
    metropolis  N proposals x + sqrt(h) z;  mala  N Langevin proposals;  hmc-exact  N/leapfrog trajectories of leapfrog
                steps sqrt(h): each with its accept test, so that q is their stationary density whatever the step

The factor of two: w = 1 is the statistical convention, that of the DAPS paper's first code ("legacy") and InverseBench,
whose data gradient is grad ||y - A x||^2/(2 tau^2). The DAPS code ("main") takes grad ||y - A x||^2/tau^2 in Langevin
and HMC, w = 2, and in Metropolis w = 1; here w is the same for all kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, final, get_args

import torch
from torch import Tensor

from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian, Likelihood, per_item_norm
from recon.operators.base import LinearOperator
from recon.samplers.base import NoiseSource
from recon.samplers.gradient import least_variance, measured_data
from recon.solvers.gaussian_draw import draw_correlated, draw_diagonal, draw_isotropic
from recon.solvers.hmc import damped_hmc, hmc
from recon.solvers.langevin import adjusted_langevin, langevin
from recon.solvers.metropolis import random_walk
from recon.solvers.prox import proximal_map

Kind = Literal["auto", "exact", "langevin", "hmc", "metropolis", "mala", "hmc-exact"]
Convention = Literal["legacy", "main"]
Map = Callable[[Tensor], Tensor]
FLOOR = 1e-3  # noise level that stands in for exact data, relative to the root mean square of y


@final
@dataclass(frozen=True)
class DataSettings:
    """How the data step draws. Raises ConfigError on values that cannot work.

    kind: as above; "auto" is "exact" where that is possible, else "langevin", and
        "metropolis" where A has no gradient.  steps: N.  momentum: m of "hmc".
    leapfrog: of "hmc-exact".  cg_iterations: of "exact", where the operator has no closed form.
    tau: noise level that the step assumes; None takes the problem's likelihood.  convention: w = 1 or 2.
    gradient_limit: clamps each number of grad ||y - A x||^2 in "langevin" and "hmc", as latent DAPS does (1).
    """

    kind: Kind = "auto"
    steps: int = 100
    momentum: float = 0.9
    leapfrog: int = 10
    cg_iterations: int = 30
    tau: float | None = None
    convention: Convention = "legacy"
    gradient_limit: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind) or self.convention not in get_args(Convention):
            raise ConfigError(f"unknown inner sampler '{self.kind}' or convention '{self.convention}'")
        if self.steps < 1 or self.leapfrog < 1 or self.cg_iterations < 1:
            raise ConfigError("an inner sampler needs at least 1 step, leapfrog step and CG iteration")
        if not 0 <= self.momentum <= 1:
            raise ConfigError(f"momentum must be in 0..1, got {self.momentum}")
        if not (self.tau is None or self.tau > 0) or not (self.gradient_limit is None or self.gradient_limit > 0):
            raise ConfigError(f"tau and gradient_limit must be > 0, got {self.tau} and {self.gradient_limit}")


def data_settings(method: object) -> DataSettings:
    """Return the settings that a method's fields hold: `inner` and `inner_steps` are kind and steps."""
    named = {"kind": "inner", "steps": "inner_steps"}
    return DataSettings(**{f.name: getattr(method, named.get(f.name, f.name)) for f in fields(DataSettings)})


@final
class DataStep:
    """The data step of one problem: `draw` for diagonal Gaussians, `draw_correlated` for any.

    kind: what "auto" became.  calls: applications of A and of A^H in a draw.
    Raises ConfigError where "exact" cannot be, or nothing but "metropolis" can.
    """

    def __init__(self, problem: Problem, settings: DataSettings, noise: NoiseSource) -> None:
        self.operator, self.settings, self.noise = problem.operator, settings, noise
        self.y = measured_data(problem)
        self.weight = 2.0 if settings.convention == "main" else 1.0
        self.likelihood: Likelihood = problem.likelihood if settings.tau is None else Gaussian(settings.tau)
        self.sigma: float | None = None  # of the Gaussian that w L is
        if isinstance(self.likelihood, Gaussian):
            level = self.likelihood.sigma
            if level == 0:
                level = float(least_variance(self.y, self.operator.measured(), FLOOR).mean().sqrt()) or FLOOR
                self.likelihood = Gaussian(level)
            self.sigma = level / self.weight**0.5
        able = isinstance(self.operator, LinearOperator) and self.sigma is not None
        smooth = able or self.operator.differentiable
        best = "exact" if able else "langevin" if smooth else "metropolis"
        self.kind: str = best if settings.kind == "auto" else settings.kind
        if self.kind == "exact":
            self.linear()
            self.prox = proximal_map(self.linear(), settings.cg_iterations)
        elif self.kind != "metropolis" and not smooth:
            raise ConfigError(f"{self.operator!r} has no gradient", "use method.inner=metropolis")
        self.calls = self._calls()

    def linear(self) -> LinearOperator:
        """Return the operator. Raises ConfigError unless exact draws are possible."""
        if not isinstance(self.operator, LinearOperator) or self.sigma is None:
            raise ConfigError(
                f"exact draws need a linear operator and Gaussian noise, got {self.operator!r} and "
                f"{type(self.likelihood).__name__} noise",
                "use method.inner=langevin",
            )
        return self.operator

    def draw(self, centre: Tensor, std: float | Tensor, lr: float) -> Tensor:
        """Return a draw near the centre c (B, *in_shape) with spread r: a number, (B, 1, ...) or like c; lr: h."""
        chosen, normal = self.settings, self.noise.normal
        if self.kind == "exact":
            operator, sigma = self.linear(), self.sigma or 0.0
            if isinstance(std, Tensor) and std[0].numel() > 1:
                return draw_diagonal(operator, self.y, sigma, centre, std, normal, chosen.cg_iterations)
            return draw_isotropic(operator, self.prox, self.y, sigma, centre, std, normal)

        def density(x: Tensor) -> Tensor:
            return -self.weight * self.likelihood.loss(self.operator.forward(x), self.y) - _distance(x, centre, std)

        def score(x: Tensor) -> Tensor:
            return (centre - x) / std**2 - self._limited(self.gradient(x)[1])

        def target(x: Tensor) -> tuple[Tensor, Tensor]:
            loss, slope = self.gradient(x)
            return -loss - _distance(x, centre, std), (centre - x) / std**2 - slope

        if self.kind == "langevin":
            return langevin(score, centre, lr, chosen.steps, normal)
        if self.kind == "hmc":
            return damped_hmc(score, centre, lr, chosen.momentum, chosen.steps, normal)
        if self.kind == "mala":
            return adjusted_langevin(target, centre, lr, chosen.steps, normal).x
        if self.kind == "hmc-exact":
            return hmc(target, centre, lr**0.5, chosen.leapfrog, self._trajectories(), normal).x
        return random_walk(density, centre, lr**0.5, chosen.steps, normal).x

    def gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return w L(A x), (B,), and its gradient, like x."""
        if isinstance(self.operator, LinearOperator) and self.sigma is not None:
            r = self.operator.forward(x) - self.y
            return per_item_norm(r) ** 2 / (2 * self.sigma**2), self.operator.adjoint(r) / self.sigma**2
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            loss = self.weight * self.likelihood.loss(self.operator.forward(leaf), self.y)
            (slope,) = torch.autograd.grad(loss.sum(), leaf)
        return loss.detach(), slope

    def draw_correlated(self, drawn: Tensor, covariance: Map, iterations: int) -> Tensor:
        """Return a draw from a draw of the prior N(c, V) and the map u -> V u, taken `iterations` times."""
        return draw_correlated(
            self.linear(), self.y, self.sigma or 0.0, drawn, covariance, self.noise.normal, iterations
        )

    def _limited(self, slope: Tensor) -> Tensor:
        """Return the data gradient with each number of grad ||y - A x||^2 clamped, where that is asked for."""
        limit = self.settings.gradient_limit
        if limit is None:
            return slope
        bound = limit * (self.weight if self.sigma is None else 1 / (2 * self.sigma**2))
        if slope.is_complex():
            return torch.view_as_complex(torch.view_as_real(slope).clamp(-bound, bound))
        return slope.clamp(-bound, bound)

    def _trajectories(self) -> int:
        return max(1, self.settings.steps // self.settings.leapfrog)

    def _calls(self) -> int:
        chosen = self.settings
        if self.kind == "exact":
            return 2 if self.linear().has_svd() else 2 * (1 + chosen.cg_iterations)
        if self.kind == "metropolis":
            return 1 + chosen.steps
        if self.kind == "hmc-exact":
            return 2 * (1 + chosen.leapfrog * self._trajectories())
        return 2 * (chosen.steps + (self.kind == "mala"))


def _distance(x: Tensor, centre: Tensor, std: float | Tensor) -> Tensor:
    """Return ||(x - c)/r||^2/2 of each item, (B,)."""
    return per_item_norm((x - centre) / std) ** 2 / 2
