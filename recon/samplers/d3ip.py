"""D3IP: DDS-3D with a prior that is fitted to the data at each noise level, for objects that it has not seen.

    fit     AdamW on mean |A_k x0'_k - y_k|^2 over adapters of a copy of D, for a few slices k picked at random,
            x0'_k = the step below from D(x_k), `adapt_cg` iterations (`recon.samplers.adaptation`, `slice_misfit`)
    x0hat   = D(x), all slices, with the prior as it now is
    x0'     sweeps of ADMM, as in `dds3d` (`recon.samplers.joint_step`); at rho = 0 conjugate gradients alone
    x_s     = x0' + sigma_s (sqrt(1 - eta^2) eps + eta z),     eps = (x - x0hat)/sigma_t

    published for            weighting   gamma  start  adapt_steps  adapt_cg  rho  weight  sweeps  contiguous
    tomography (defaults)    none               pinv   10           1         0
    MRI                      constant    5      noise  5            1         0
    with total variation     none                                   5         .5   .01     5       true

Source: Chung and Ye 2024 (DDIP; D3IP is its form for volumes), the authors' code. Departures: those of `dds3d` and of
`recon.priors.adapters`; the total variation of the fit is along z of neighbouring slices (the code's duals broadcast to
every pair of them); "matched" and "exact" are ours. Samples of a batch are fitted one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.priors.base import Denoiser
from recon.samplers.adaptation import Adaptation, Fitted, drawn_seeds
from recon.samplers.base import NoiseSource, OnStep, Result, State, ignore_step
from recon.samplers.joint_step import Correction, JointStep, Weighting
from recon.samplers.renoise import ddim_b
from recon.samplers.slice_misfit import misfit_of_slices
from recon.samplers.start import first_state, levels_like
from recon.samplers.volume import Record, VolumeMethod, linear_operator
from recon.solvers.admm_tv import Boundary, Duals


@final
@dataclass(frozen=True)
class D3IP(VolumeMethod):
    """Deep diffusion image prior for volumes; the defaults are the authors' for tomography.

    steps: noise levels.  grid: in `schedules.GRIDS`.  eta: share of fresh noise, 0 to 1.  start: from noise, or from
    the pseudo-inverse with noise, where there is one.  weighting, gamma, rho, weight, cg_iterations, boundary,
    correction: of the data step, as in dds-3d.  sweeps: of ADMM.  adapt_steps: of AdamW at a level.  slices: for each.
    contiguous: whether they are neighbours, to which rho then applies.  adapt_cg: CG iterations in the fit.  lr: step
    size.  rank, dropout, layers: of the adapters, and a pattern of their layers.  lowest, highest: levels of the fits.
    """

    cfg_plus_plus: ClassVar[bool] = True
    through_prior: ClassVar[bool] = True
    trains_prior: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"linear", "adjoint", "gradient", "slices"})
    citation: ClassVar[str] = (
        "@inproceedings{chung2024ddip, title={Deep Diffusion Image Prior for Efficient OOD Adaptation in 3D Inverse "
        "Problems}, author={Chung, Hyungjin and Ye, Jong Chul}, booktitle={ECCV}, year={2024}}"
    )

    steps: int = 50
    grid: str = "vp"
    eta: float = 0.85
    start: Literal["noise", "pinv"] = "pinv"
    weighting: Weighting = "none"
    gamma: float = 5.0
    rho: float = 0.0
    weight: float = 0.01
    cg_iterations: int = 5
    sweeps: int = 1
    boundary: Boundary = "neumann"
    correction: Correction = "cg"
    adapt_steps: int = 10
    slices: int = 3
    contiguous: bool = False
    adapt_cg: int = 1
    lr: float = 1e-3
    rank: int = 4
    dropout: float = 0.1
    layers: str = ""
    lowest: float = 0.079
    highest: float = 131.0

    def __post_init__(self) -> None:
        own = (self.cg_iterations, self.adapt_cg, self.gamma, self.rho, self.weight)
        if min(self.steps, self.sweeps) < 1 or not all(value >= 0 for value in own) or not 0 <= self.eta <= 1:
            raise ConfigError("ddip and d3ip need steps, sweeps >= 1, 0 <= eta <= 1 and data steps' settings >= 0")
        _ = schedules.grid(self.grid, self.steps), self.adaptation

    @property
    def adaptation(self) -> Adaptation:
        """How the prior is fitted."""
        return Adaptation(**{field.name: getattr(self, field.name) for field in fields(Adaptation)})

    @property
    def network_calls(self) -> int:
        return self.evaluations(1)

    def evaluations(self, images: int) -> int:
        sigmas = schedules.grid(self.grid, self.steps).tolist()
        return (len(sigmas) - 1) * images + self.adaptation.evaluations(sum(self.adaptation.levels(sigmas)), images)

    @torch.no_grad()
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
        """Return posterior samples; one evaluation of each slice a step, and of `slices` for each step of the fit."""
        if prior is None:
            raise ConfigError("method 'd3ip' needs a prior", "name one with --prior")
        operator, count = linear_operator(problem, "d3ip"), problem.operator.measured()
        sigmas = schedules.grid(self.grid, self.steps).tolist()
        if state is None:
            x_init = operator.pinv(problem.y) if x_init is None and self.start == "pinv" else x_init
            x = first_state(self.grid, sigmas[0], problem, x_init, noise, shape)
            duals, seeds = Duals.zero(x), drawn_seeds(noise, shape)
        else:
            x, duals, seeds = state["x"], Duals(state["split"], state["dual"]), state["seeds"]
        priors = Fitted(prior, self.adaptation, seeds, None if state is None else state["adapters"])
        own = (self.weighting, self.gamma, self.rho, self.weight, self.cg_iterations, self.boundary, self.sweeps)
        step = JointStep(*own).corrected_by(self.correction, operator)
        levels, fits = levels_like(sigmas, x), self.adaptation.levels(sigmas)
        record = Record(x, len(sigmas) - 1, on_step, state, 1, step.calls)
        for i, (sigma_t, sigma_s) in list(enumerate(pairwise(sigmas)))[record.done :]:
            priors.begin(i)
            if fits[i]:
                loss = misfit_of_slices(step, problem, operator, count, sigma_t, self.adapt_cg, self.contiguous)
                priors.fit(i, x, levels[i], loss)
            seen = priors(x, levels[i])
            x0, duals, residual = step.corrected(operator, problem, seen.x0, duals, sigma_t, count)
            fresh = noise.normal(x.shape, x.dtype) if sigma_s > 0 and self.eta > 0 else None
            x = ddim_b(x0, seen.eps(x, sigma_t), sigma_t, sigma_s, self.eta, fresh)
            del seen, fresh
            made = {"x": x, "split": duals.split, "dual": duals.dual, "adapters": priors.values(), "seeds": seeds}
            if record.keep(sigma_s, x0, residual, **made):
                break
            del x0
        stats, depth = (result := record.result()).stats, shape[2] if len(shape) == 5 else 1
        shared = self.adaptation.evaluations(sum(fits[: record.done]), depth)
        # A and A^H, there and back, of the picked slices: as calls for the whole volume
        calls = stats.operator_calls + -(-shared * 2 * (3 + 2 * self.adapt_cg) // depth)
        return replace(result, stats=replace(stats, shared=shared, operator_calls=calls))
