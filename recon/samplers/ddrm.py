"""DDRM: denoising diffusion restoration, each singular direction of the operator by its own signal-to-noise ratio.

    c = V^H x0hat,  e = V^H eps,  m = U^H (y - A x0hat),  z = V^H n,     A = U diag(s) V^H,  eps = (x - x0hat)/sigma_t
    s sigma_s > sigma_y     c + eta_b m/s + sqrt(sigma_s^2 - eta_b^2 sigma_y^2/s^2) z
    s sigma_s < sigma_y     c + sqrt(1 - eta^2) sigma_s m/sigma_y + eta sigma_s z
    else                    c + sqrt(1 - eta^2) sigma_s e + eta sigma_s z

    first state             y/s + sqrt(sigma_T^2 - sigma_y^2/s^2) z   where s sigma_T > sigma_y, else sigma_T z

The authors write (1 - eta_b) c + eta_b U^H y/s, which is the first row. In sigma-space their division by sqrt(ab)
vanishes. The update is `recon.samplers.spectral`'s.

Source: Kawar, Elad, Ermon, Song 2022 (DDRM), eqs. 7 and 8, the authors' code. Departures: noise is drawn in image space
and transformed, so that samples do not depend on the choice of basis; `cutoff` is relative to the largest singular
value and holds for every operator (the code: 0.03 absolute for blurs and bicubic reduction, none for the others, whose
values are all above it); images are not clipped, as in the code; complex images are native.
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
from recon.samplers.base import Method, NoiseSource, OnStep, Result, Stats, Status, Step, ignore_step
from recon.samplers.guard import FiniteGuard
from recon.samplers.spectral import spectral_data
from recon.samplers.start import first_state, levels_like

UNIT = "edm"  # a grid without VP scaling: the first state is sigma n


@final
@dataclass(frozen=True)
class DDRM(Method):
    """Denoising diffusion restoration models.

    steps: noise levels.  grid: name in `recon.schedules.GRIDS`.
    eta: share of fresh noise where the data are noisier than the level or say nothing, 0 to 1.
    eta_b: how far the less noisy data replace the denoised image, 0 to 1.
    cutoff: singular values below this share of the largest count as unmeasured; 0 keeps all.
    """

    cfg_plus_plus: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"linear", "svd"})
    citation: ClassVar[str] = (
        "@inproceedings{kawar2022ddrm, title={Denoising Diffusion Restoration Models}, author={Kawar, Bahjat and Elad, "
        "Michael and Ermon, Stefano and Song, Jiaming}, booktitle={NeurIPS}, year={2022}}"
    )

    steps: int = 20
    grid: str = "vp"
    eta: float = 0.85
    eta_b: float = 1.0
    cutoff: float = 0.03

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.cutoff < 1:
            raise ConfigError(f"ddrm needs steps >= 1 and 0 <= cutoff < 1, got {self.steps} and {self.cutoff}")
        if not (0 <= self.eta <= 1 and 0 <= self.eta_b <= 1):
            raise ConfigError(f"ddrm needs eta and eta_b in 0..1, got {self.eta} and {self.eta_b}")
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
        """Return posterior samples; one network evaluation, one A and the changes of basis per step."""
        if prior is None:
            raise ConfigError("method 'ddrm' needs a prior", "name one with --prior")
        data, operator = spectral_data("ddrm", problem, self.cutoff), problem.operator
        sigmas = schedules.grid(self.grid, self.steps).tolist()
        x = first_state(UNIT, sigmas[0], problem, x_init, noise, shape)
        if x_init is None:
            x = data.start(x / sigmas[0], sigmas[0])
        levels, guard, stats, count = levels_like(sigmas, x), FiniteGuard(x), Stats(), operator.measured()
        total = len(sigmas) - 1
        for i, (sigma_t, sigma_s) in enumerate(pairwise(sigmas)):
            seen = prior(x, levels[i])
            x0 = seen.x0
            stats.residuals.append(problem.likelihood.residual(operator.forward(x0), problem.y, count))
            guard.keep(x0, stats.residuals[-1])
            fresh = noise.normal(x.shape, x.dtype) if sigma_s > 0 else None
            x = data.step(x0, seen.eps(x, sigma_t), fresh, sigma_s, self.eta, self.eta_b)
            stats.nfe = stats.operator_calls = i + 1
            on_step(Step(i, total, sigma_s, x0))
            if guard.diverged(i):
                break
        return Result(guard.last, Status.DIVERGED if guard.broken() else Status.OK, stats)
