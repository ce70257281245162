"""Reconstructions in one step.

Adjoint         x = s A^H y,   s = <y, A A^H y>/||A A^H y||^2      zero-filled MRI, unfiltered backprojection
PseudoInverse   x = A^+ y, as the operator offers it               filtered backprojection, zero-filled MRI
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from recon.baselines.common import finish, linear_operator, scaled_adjoint
from recon.data import Problem
from recon.errors import ConfigError
from recon.priors.base import Denoiser
from recon.samplers.base import Method, NoiseSource, OnStep, Result, ignore_step


@final
@dataclass(frozen=True)
class Adjoint(Method):
    """The adjoint of the data, scaled to fit them best in least squares; it has no settings."""

    needs: ClassVar[frozenset[str]] = frozenset({"linear", "adjoint"})
    uses_prior: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False

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
        """Return s A^H y; x_init, prior and noise are not used. Raises ConfigError for a non-linear operator."""
        return finish(scaled_adjoint(linear_operator(problem, "adjoint"), problem.y), problem, shape, 2)


@final
@dataclass(frozen=True)
class PseudoInverse(Method):
    """The operator's own pseudo-inverse of the data; it has no settings."""

    needs: ClassVar[frozenset[str]] = frozenset({"linear", "pinv"})
    uses_prior: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False

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
        """Return A^+ y; x_init, prior and noise are not used. Raises ConfigError where the operator has none."""
        x = linear_operator(problem, "fbp").pinv(problem.y)
        if x is None:
            raise ConfigError(
                f"method 'fbp' needs a pseudo-inverse, and {type(problem.operator).__name__} has none",
                "use --method cg (least squares), tikhonov or tv, or adjoint",
            )
        return finish(x, problem, shape, 1)
