"""DDIP: DDS with a prior that is fitted to the data at each noise level, for images that it has not seen.

    fit     AdamW on ||A x0' - y||^2 over adapters of a copy of D, x0' = the step below from D(x), `adapt_cg` iterations
    x0'     ~ argmin gamma ||A x - y||^2 + ||x - x0hat||^2 by conjugate gradients from x0hat = D(x)
    x_s     = x0' + sigma_s (sqrt(1 - eta^2) eps + eta z),     eps = (x - x0hat)/sigma_t

It is `d3ip` for a volume of one slice. The slices of a volume are fitted and reconstructed one by one.

Source: Chung and Ye 2024 (DDIP), the authors' code for single slices (gamma 5). Departures: those of `d3ip`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Literal, final

from torch import Tensor

from recon.data import Problem
from recon.errors import ConfigError
from recon.priors.base import Denoiser
from recon.samplers.base import NoiseSource, OnStep, Result, State, ignore_step
from recon.samplers.d3ip import D3IP
from recon.samplers.joint_step import Correction, Weighting
from recon.samplers.volume import VolumeMethod


@final
@dataclass(frozen=True)
class DDIP(VolumeMethod):
    """Deep diffusion image prior; the defaults are the authors' for single slices of tomography (MRI: adapt_steps 5).

    steps: noise levels.  grid: name in `recon.schedules.GRIDS`.  eta: share of fresh noise, 0 to 1.  start: from noise,
    or from the operator's pseudo-inverse with noise, where it has one.  weighting, gamma, cg_iterations, correction: of
    the data step, as in dds.
    adapt_steps: of AdamW at a level.  adapt_cg: iterations of conjugate gradients in the fit.  lr: step size.
    rank, dropout, layers: of the adapters, and the pattern of the layers' names that get them.
    lowest, highest: noise levels between which the prior is fitted.
    """

    volume: ClassVar[bool] = False
    cfg_plus_plus: ClassVar[bool] = True
    through_prior: ClassVar[bool] = True
    trains_prior: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = D3IP.needs
    citation: ClassVar[str] = D3IP.citation

    steps: int = 50
    grid: str = "vp"
    eta: float = 0.85
    start: Literal["noise", "pinv"] = "noise"
    weighting: Weighting = "constant"
    gamma: float = 5.0
    cg_iterations: int = 5
    correction: Correction = "cg"
    adapt_steps: int = 10
    adapt_cg: int = 1
    lr: float = 1e-3
    rank: int = 4
    dropout: float = 0.1
    layers: str = ""
    lowest: float = 0.079
    highest: float = 131.0

    def __post_init__(self) -> None:
        _ = self.as_volume

    @property
    def as_volume(self) -> D3IP:
        """The method for a volume of one slice."""
        return D3IP(slices=1, rho=0.0, **{field.name: getattr(self, field.name) for field in fields(self)})

    @property
    def network_calls(self) -> int:
        return self.as_volume.network_calls

    def sample(
        self,
        prior: Denoiser | None,
        problem: Problem,
        x_init: Tensor | None,
        noise: NoiseSource,
        shape: tuple[int, ...],
        on_step: OnStep = ignore_step,
        state: State | None = None,
    ) -> Result:
        """Return posterior samples; 1 + `adapt_steps` evaluations a step, the latter with gradients."""
        if prior is None:
            raise ConfigError("method 'ddip' needs a prior", "name one with --prior")
        return self.as_volume.sample(prior, problem, x_init, noise, shape, on_step, state)
