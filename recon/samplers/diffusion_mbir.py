"""DiffusionMBIR: predictor and corrector on each slice, and one sweep of ADMM for TV along z, at each noise level.

    x  <- predictor from sigma_t to sigma_s, slice by slice
    x  <- corrector with the score at sigma_t again (both: `recon.samplers.slice_steps`)
    x  <- one sweep of ADMM on the noisy x, with d and u kept from level to level (`recon.solvers.admm_tv`):
          min 1/2 ||A x - y||^2 + lambda ||Dz x||_1,    one iteration of conjugate gradients over the whole volume
    at the end, for tomography:  x <- x + A^H (y - A x)/(A^H A 1)

Source: Chung et al. 2023 (DiffusionMBIR), algorithm 1, and the authors' code. Departures: A^H is the exact adjoint,
where theirs is a backprojection times pi/(2 views), to which their rho and lambda are tied; the predictor adds no noise
in its step to 0; "circular" differences let the first slice meet the last, which ours do not by default; inner products
are per sample; the noise levels are those of the grid, where the code takes its times in single precision.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, final

import torch
from torch import Tensor

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.operators.base import LinearOperator
from recon.priors.base import Denoiser
from recon.samplers.base import NoiseSource, OnStep, Result, State, ignore_step
from recon.samplers.slice_steps import corrector, predictor
from recon.samplers.start import first_state, levels_like
from recon.samplers.volume import Record, VolumeMethod, linear_operator
from recon.solvers.admm_tv import Z_AXIS, Boundary, Duals, SliceDifference, admm_sweep


@final
@dataclass(frozen=True)
class DiffusionMBIR(VolumeMethod):
    """Diffusion model-based iterative reconstruction; the defaults are the authors' for tomography of 8 views.

    steps: noise levels.  grid: name in `recon.schedules.GRIDS`.  snr: of the corrector.  batch: slices over which it
    averages its norms.  rho: of ADMM.  weight: lambda, of total variation along z (MRI: rho 0.01, weight 0.005).
    cg_iterations: per step.  final_step: the last line above, for operators whose A^H A 1 has no zeros.
    boundary: of the differences along z, "neumann" or as published "circular".
    """

    needs: ClassVar[frozenset[str]] = frozenset({"linear", "adjoint"})
    citation: ClassVar[str] = (
        "@inproceedings{chung2023mbir, title={Solving 3D Inverse Problems using Pre-trained 2D Diffusion Models}, "
        "author={Chung, Hyungjin and Ryu, Dohoon and McCann, Michael T. and Klasky, Marc L. and Ye, Jong Chul}, "
        "booktitle={CVPR}, year={2023}}"
    )

    steps: int = 2000
    grid: str = "ve"
    snr: float = 0.16
    batch: int = 12
    rho: float = 10.0
    weight: float = 0.04
    cg_iterations: int = 1
    final_step: bool = False
    boundary: Boundary = "neumann"

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1 or self.cg_iterations < 0 or not self.snr > 0:
            raise ConfigError("diffusion-mbir needs steps, batch >= 1, cg_iterations >= 0 and snr > 0")
        if not (self.rho >= 0 and self.weight >= 0):
            raise ConfigError(f"diffusion-mbir needs rho and weight of at least 0, got {self.rho} and {self.weight}")
        schedules.grid(self.grid, self.steps)

    @property
    def network_calls(self) -> int:
        return 2 * (len(schedules.grid(self.grid, self.steps)) - 1)

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
        """Return posterior samples; two evaluations of each slice, 1 + cg_iterations of A and of A^H per step."""
        if prior is None:
            raise ConfigError("method 'diffusion-mbir' needs a prior", "name one with --prior")
        operator, count = linear_operator(problem, "diffusion-mbir"), problem.operator.measured()
        sigmas = schedules.grid(self.grid, self.steps).tolist()
        if state is None:
            x = first_state(self.grid, sigmas[0], problem, x_init, noise, shape)
            duals = Duals.zero(x)
        else:
            x, duals = state["x"], Duals(state["split"], state["dual"])
        levels = levels_like(sigmas, x)
        record = Record(x, len(sigmas) - 1, on_step, state, 2, 2 + 2 * self.cg_iterations)
        threshold, difference = self.weight / max(self.rho, 1e-30), SliceDifference(self.boundary)
        for i, (sigma_t, sigma_s) in list(enumerate(pairwise(sigmas)))[record.done :]:
            fresh = noise.normal(x.shape, x.dtype) if sigma_s > 0 else None
            x = predictor(x, prior(x, levels[i]).x0, sigma_t, sigma_s, fresh)
            fresh = noise.normal(x.shape, x.dtype)
            x = corrector(x, prior(x, levels[i]).x0, sigma_t, self.snr, fresh, self.batch, Z_AXIS)
            del fresh
            z = operator.forward(x)
            residual = problem.likelihood.residual(z, problem.y, count)
            misfit = [operator.adjoint(problem.y - z)]  # handed over, so that the sweep can let go of it
            del z
            x, duals = admm_sweep(
                x, duals, operator.normal, misfit.pop(), difference, self.rho, threshold, self.cg_iterations
            )
            if record.keep(sigma_s, x, residual, x=x, split=duals.split, dual=duals.dual):
                break
        result = record.result()
        return replace(result, samples=_fitted(result.samples, operator, problem.y)) if self.final_step else result


def _fitted(x: Tensor, operator: LinearOperator, y: Tensor) -> Tensor:
    """Return x + A^H (y - A x)/(A^H A 1), and x where nothing is measured."""
    weight = operator.normal(torch.ones_like(x[:1])).real
    seen = weight > 1e-6 * weight.amax()
    return x + torch.where(seen, operator.adjoint(y - operator.forward(x)) / torch.where(seen, weight, 1.0), 0.0)
