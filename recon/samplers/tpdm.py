"""TPDM: two priors of perpendicular slices in turn, the data guiding those of the primary plane.

    at each level, a turn of one plane, corrector first:
    primary    x <- corrector(x) - zeta g(x),   x <- predictor mean(x) - zeta g(x),   g = grad_x ||A x0hat(x) - y||
    auxiliary  x <- corrector(x),               x <- predictor mean(x),               on slices across another axis
    (corrector and predictor: `recon.samplers.slice_steps`; g: `recon.samplers.slice_gradient`)

Primary is every turn but each K-th for a whole K, and a share 1 - 1/K of them at random for another.

Source: Lee et al. 2023 (TPDM), algorithm 1, and the authors' code, which carries the noise-free mean of the predictor
from level to level, as here. Departures: for super-resolution along z the code starts from A^+ y and compares x0hat
with noisy data, here as for the other operators; the turns of a K that is not whole come from a fixed draw; where the
operator sees slices together the norm is over the volume, not over mini-batches. An image has one plane: all its turns
are primary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Literal, final

import numpy as np
import torch
from torch import Tensor

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.priors.base import Denoiser
from recon.priors.slices import AXES, Z_AXIS, Slices
from recon.samplers.base import NoiseSource, OnStep, Result, State, ignore_step
from recon.samplers.slice_gradient import evaluations, guided
from recon.samplers.slice_steps import corrector, predictor
from recon.samplers.start import first_state, levels_like
from recon.samplers.volume import Record, VolumeMethod


@final
@dataclass(frozen=True)
class TPDM(VolumeMethod):
    """Two perpendicular diffusion models; `prior.auxiliary` names the second prior, without it the first serves both.

    steps: noise levels.  grid: name in `recon.schedules.GRIDS`.  snr: of the corrector.  batch: slices of a group, over
    which it averages its norms and which share a misfit's norm.
    zeta: of the data; the authors' are 0.002, 0.007, 0.01 for MRI of 8, 24, 48 times, 0.025 for tomography of 36 views,
    4, 3, 2, 1 for super-resolution along z by 5, 4, 3, 2.  every: K, at least 1 (tomography 2.7).
    plane: axis that the auxiliary slices lie across.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"gradient"})
    through_prior: ClassVar[bool] = True
    two_planes: ClassVar[bool] = True
    citation: ClassVar[str] = (
        "@inproceedings{lee2023tpdm, title={Improving 3D Imaging with Pre-Trained Perpendicular 2D Diffusion Models}, "
        "author={Lee, Suhyeon and Chung, Hyungjin and Park, Minyoung and Park, Jonghyuk and Ryu, Wi-Sun and Ye, Jong "
        "Chul}, booktitle={ICCV}, year={2023}}"
    )

    steps: int = 2000
    grid: str = "ve"
    snr: float = 0.16
    batch: int = 6
    zeta: float = 0.01
    every: float = 2.0
    plane: Literal["y", "x"] = "y"

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1 or not self.snr > 0 or not self.zeta >= 0 or not self.every >= 1:
            raise ConfigError("tpdm needs steps, batch and every >= 1, snr > 0 and zeta >= 0")
        schedules.grid(self.grid, self.steps)

    @property
    def network_calls(self) -> int:
        return 2 * (len(schedules.grid(self.grid, self.steps)) - 1)

    def turns(self, steps: int) -> list[bool]:
        """Return whether each turn is of the primary plane."""
        if self.every == int(self.every):
            return [i % int(self.every) != int(self.every) - 1 or self.every == 1 for i in range(steps)]
        return [bool(v) for v in np.random.default_rng(0).random(steps) > 1 / self.every]

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
        """Return posterior samples; two evaluations of each slice per step, through the network in primary turns."""
        if prior is None:
            raise ConfigError("method 'tpdm' needs a prior", "name one with --prior")
        operator, count, volume = problem.operator, problem.operator.measured(), len(shape) == 5
        sigmas = schedules.grid(self.grid, self.steps).tolist()
        x = first_state(self.grid, sigmas[0], problem, x_init, noise, shape) if state is None else state["x"]
        levels, record = levels_like(sigmas, x), Record(x, len(sigmas) - 1, on_step, state, 2, 0)
        turns = self.turns(len(sigmas) - 1) if volume else [True] * (len(sigmas) - 1)
        axis = AXES[self.plane]
        other = prior.along(axis) if isinstance(prior, Slices) else prior
        for i, (sigma_t, sigma_s) in list(enumerate(pairwise(sigmas)))[record.done :]:
            for correct in (True, False):
                if turns[i]:
                    x0, pull = guided(prior, x, levels[i], problem, self.batch)
                else:
                    x0, pull = other(x, levels[i]).x0, None
                if correct:
                    n = noise.normal(x.shape, x.dtype)
                    x = corrector(x, x0, sigma_t, self.snr, n, self.batch, Z_AXIS if turns[i] else axis)
                else:
                    x = predictor(x, x0, sigma_t, sigma_s, None)
                if pull is not None:
                    x.sub_(pull, alpha=self.zeta)
            residual = problem.likelihood.residual(operator.forward(x), problem.y, count)
            if record.keep(sigma_s, x, residual, x=x):
                break
        result, primary = record.result(), sum(turns[: record.done])
        extra = 2 * primary * (evaluations(prior, problem) - 1)
        stats = replace(
            result.stats,
            nfe=result.stats.nfe + extra,
            backprops=2 * primary,
            operator_calls=4 * primary + record.done,
        )
        return replace(result, stats=stats)
