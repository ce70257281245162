"""DDS-3D: decomposed diffusion sampling of a volume, slices denoised as images and coupled by TV along z.

    x0hat = D(x), slice by slice
    x0'   one sweep of ADMM from x0hat, weighted as published ("none") or by the noise: `recon.samplers.joint_step`
    x_s   = x0' + sigma_s (sqrt(1 - eta^2) eps + eta z),     eps = (x - x0hat)/sigma_t, the network's own

At rho = 0 the slices are those of `dds`, but for one system of conjugate gradients for all of them.

Source: Chung et al. 2024 (DDS), section 4.3 and the authors' code (`solver_3d.py`). Departures: "circular" differences
let the first slice meet the last, which ours do not by default; A^H is the exact adjoint, where theirs is a
backprojection times pi/(2 views), to which their rho and lambda are tied; CG freezes at a relative residual; the step
to time 0 is renoised (the code hands the clean x0' to the last network call).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, final

import torch
from torch import Tensor

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.priors.base import Denoiser
from recon.samplers.base import NoiseSource, OnStep, Result, State, ignore_step
from recon.samplers.joint_step import Correction, JointStep, Weighting
from recon.samplers.renoise import ddim_b
from recon.samplers.start import first_state, levels_like
from recon.samplers.volume import Record, VolumeMethod, linear_operator
from recon.solvers.admm_tv import Boundary, Duals


@final
@dataclass(frozen=True)
class DDS3D(VolumeMethod):
    """Decomposed diffusion sampling of a volume.

    steps: noise levels.  grid: name in `recon.schedules.GRIDS`.  eta: share of fresh noise, 0 to 1.
    rho: of ADMM.  weight: lambda, of total variation along z.  cg_iterations: per step.
    weighting: of data and denoised image, "none" as published, "constant" or "matched".  gamma: the weight of the data
    there.  boundary: of the differences along z, "neumann" or as published "circular".
    correction: "cg" as published, or "exact", the closed form of slices that have one, with rho = 0.
    """

    cfg_plus_plus: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"linear", "adjoint"})
    citation: ClassVar[str] = (
        "@inproceedings{chung2024dds, title={Decomposed Diffusion Sampler for Accelerating Large-Scale Inverse "
        "Problems}, author={Chung, Hyungjin and Lee, Suhyeon and Ye, Jong Chul}, booktitle={ICLR}, year={2024}}"
    )

    steps: int = 50
    grid: str = "vp"
    eta: float = 0.85
    rho: float = 10.0
    weight: float = 0.04
    cg_iterations: int = 5
    weighting: Weighting = "none"
    gamma: float = 1.0
    boundary: Boundary = "neumann"
    correction: Correction = "cg"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.cg_iterations < 0:
            raise ConfigError(f"dds-3d needs steps >= 1 and cg_iterations >= 0: {self.steps}, {self.cg_iterations}")
        if not 0 <= self.eta <= 1 or not all(v >= 0 for v in (self.gamma, self.rho, self.weight)):
            raise ConfigError(
                f"dds-3d needs 0 <= eta <= 1, and gamma, rho and weight of at least 0: "
                f"{self.eta}, {self.gamma}, {self.rho}, {self.weight}"
            )
        schedules.grid(self.grid, self.steps)

    @property
    def _step(self) -> JointStep:
        return JointStep(self.weighting, self.gamma, self.rho, self.weight, self.cg_iterations, self.boundary)

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
        state: State | None = None,
    ) -> Result:
        """Return posterior samples; one evaluation of each slice and 1 + cg_iterations of A and of A^H per step."""
        if prior is None:
            raise ConfigError("method 'dds-3d' needs a prior", "name one with --prior")
        operator, count = linear_operator(problem, "dds-3d"), problem.operator.measured()
        sigmas = schedules.grid(self.grid, self.steps).tolist()
        if state is None:
            x = first_state(self.grid, sigmas[0], problem, x_init, noise, shape)
            duals = Duals.zero(x)
        else:
            x, duals = state["x"], Duals(state["split"], state["dual"])
        step = self._step.corrected_by(self.correction, operator)
        levels, record = levels_like(sigmas, x), Record(x, len(sigmas) - 1, on_step, state, 1, step.calls)
        for i, (sigma_t, sigma_s) in list(enumerate(pairwise(sigmas)))[record.done :]:
            seen = prior(x, levels[i])
            x0, duals, residual = step.corrected(operator, problem, seen.x0, duals, sigma_t, count)
            eps = seen.eps(x, sigma_t)
            fresh = noise.normal(x.shape, x.dtype) if sigma_s > 0 and self.eta > 0 else None
            x = ddim_b(x0, eps, sigma_t, sigma_s, self.eta, fresh)
            del seen, eps, fresh
            if record.keep(sigma_s, x0, residual, x=x, split=duals.split, dual=duals.dual):
                break
            del x0
        return record.result()
