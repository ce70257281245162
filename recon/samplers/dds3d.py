"""DDS-3D: decomposed diffusion sampling of a volume, slices denoised as images and coupled by TV along z.

    x0hat = D(x), slice by slice
    x0'   one sweep of ADMM from x0hat, conjugate gradients over the whole volume as one system, d and u kept:
          "none"      min 1/2 ||A x - y||^2 + lambda ||Dz x||_1                          (x0hat is the start alone)
          "constant"  min 1/2 ||x - x0hat||^2 + gamma (1/2 ||A x - y||^2 + lambda ||Dz x||_1)
          "matched"   min 1/2 ||x - x0hat||^2/r_t^2 + gamma/2 ||A x - y||^2/sigma_y^2 + lambda ||Dz x||_1
    x_s   = x0' + sigma_s (sqrt(1 - eta^2) eps + eta z),     eps = (x - x0hat)/sigma_t, the network's own

"matched" is ours, as in `dds`: r_t^2 = sigma_t^2/(1 + 4 sigma_t^2), the variance given x_t of white images of std 1/2.
The data then count by their noise at each level, and lambda is that of a prior exp(-lambda ||Dz x||_1) between the
slices, in units of the range 2; rho, of ADMM, is in 1/units^2. At rho = 0 the slices are those of `dds`, one by one.

Source: Chung et al. 2024 (DDS), section 4.3 and the authors' code (`solver_3d.py`). Departures: "circular" differences
let the first slice meet the last, which ours do not by default; A^H is the exact adjoint, where theirs is a
backprojection times pi/(2 views), to which their rho and lambda are tied; CG freezes at a relative residual; the step
to time 0 is renoised (the code hands the clean x0' to the last network call).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.priors.base import Denoiser
from recon.samplers.base import NoiseSource, OnStep, Result, State, ignore_step
from recon.samplers.dds import SPREAD
from recon.samplers.renoise import ddim_b
from recon.samplers.start import first_state, levels_like
from recon.samplers.volume import Record, VolumeMethod, linear_operator, matched_gamma
from recon.solvers.admm_tv import Boundary, Duals, SliceDifference, admm_sweep


@final
@dataclass(frozen=True)
class DDS3D(VolumeMethod):
    """Decomposed diffusion sampling of a volume.

    steps: noise levels.  grid: name in `recon.schedules.GRIDS`.  eta: share of fresh noise, 0 to 1.
    rho: of ADMM.  weight: lambda, of total variation along z.  cg_iterations: per step.
    weighting: of data and denoised image, "none" as published, "constant" or "matched" as above.  gamma: the weight of
    the data there.  boundary: of the differences along z, "neumann" or as published "circular".
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
    weighting: Literal["none", "constant", "matched"] = "none"
    gamma: float = 1.0
    boundary: Boundary = "neumann"

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
        calls = 2 + 2 * self.cg_iterations
        levels, record = levels_like(sigmas, x), Record(x, len(sigmas) - 1, on_step, state, 1, calls)
        for i, (sigma_t, sigma_s) in list(enumerate(pairwise(sigmas)))[record.done :]:
            seen = prior(x, levels[i])
            z = operator.forward(seen.x0)
            residual = problem.likelihood.residual(z, problem.y, count)
            spread = SPREAD**2 * sigma_t**2 / (SPREAD**2 + sigma_t**2)
            gamma, scale = self._weights(problem, z, count, spread)
            keep = 0.0 if self.weighting == "none" else 1.0

            def data(v: Tensor, gamma: Tensor | float = gamma, keep: float = keep) -> Tensor:
                return (operator.normal(v) * gamma).add_(v, alpha=keep)

            difference, threshold = SliceDifference(self.boundary), self.weight / max(self.rho, 1e-30)
            misfit = [operator.adjoint(problem.y - z) * gamma]  # handed over, so that the sweep can let go of it
            del z
            x0, duals = admm_sweep(
                seen.x0, duals, data, misfit.pop(), difference, self.rho, threshold, self.cg_iterations, scale
            )
            eps = seen.eps(x, sigma_t)
            fresh = noise.normal(x.shape, x.dtype) if sigma_s > 0 and self.eta > 0 else None
            x = ddim_b(x0, eps, sigma_t, sigma_s, self.eta, fresh)
            del seen, eps, fresh
            if record.keep(sigma_s, x0, residual, x=x, split=duals.split, dual=duals.dual):
                break
            del x0
        return record.result()

    def _weights(self, problem: Problem, z: Tensor, count: int, spread: float) -> tuple[Tensor | float, float]:
        """Return the weight of the data, a number or (B, 1, ...), and that of total variation along z."""
        if self.weighting == "none":
            return 1.0, 1.0
        if self.weighting == "constant":
            return self.gamma, self.gamma
        return self.gamma * matched_gamma(problem, z, count, spread), spread
