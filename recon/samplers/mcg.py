"""MCG: manifold constrained gradient, with projection on the data's subspace.

    x_s = x' + relax B (y_t - A x') - alpha_ts (I - share B A) grad_x n,   n = ||y - A x0hat(x)|| or ||B (y - A x0hat)||
    x'    the form's unconditional step           B = A^+, exact or approximate, see projection.py
    y_t   k (y + sigma A z), sigma = sigma_t ("now"), sigma_s ("next"), 0 ("none"); y in the step to sigma = 0
    alpha_ts, k   on VP grids alpha sqrt((1 + sigma_s^2)(1 + sigma_t^2)), and sqrt((1 + sigma_s^2)/(1 + sigma_t^2)) for
          "now", as the code has them in VP coordinates (it pastes data of time t into x_{t-1}); else alpha and 1

Source: Chung et al. 2022, and the authors' code. Departures: norms are per sample; colour's gradient is taken off in
image space and its misfit is of y (the code: mixes it once more; of y_t); CT's restriction to unmeasured views is
I - share A^+ A with filtered backprojection A^+, the code's where that of all 180 views inverts them; known pixels end
clean (the code: with noise 0.01). The data are taken as exact: noise in y stays in the image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import per_item_norm
from recon.priors.base import Denoiser
from recon.samplers.base import Method, NoiseSource, OnStep, Result, Stats, Status, Step, ignore_step
from recon.samplers.gradient import measured_data, require_linear, trace, within_range
from recon.samplers.guard import FiniteGuard
from recon.samplers.projection import measured_subspace
from recon.samplers.renoise import ancestral, langevin_corrector, reverse_diffusion
from recon.samplers.start import first_state, is_vp, levels_like


@final
@dataclass(frozen=True)
class MCG(Method):
    """Manifold constrained gradient. The authors' settings, though any linear operator goes with each form:

    inpainting  the defaults
    colour      form "corrector-predictor", steps 2000, grid "ve", alpha 0.1, clip false
    CT          form "predictor-corrector" (the predictor unguided), steps 2000, grid "ve", alpha 0.1, noised "none",
                norm "image", inverse "kaczmarz", relax (1, 0.6), share = views/180, clip false
    alpha: weight of the gradient of the misfit's norm ("data"; "rms": times sqrt(m) of m measured values, ours, so that
    alpha does not depend on the size of the image), or of the norm of B times it ("image").
    inverse: B: "auto" by SVD or `iterations` of CG, "pinv" the operator's own, "cg", or "kaczmarz" (then the gradient
    uses "pinv").  noised: fit data noised to the level left, the level reached, or not.  relax: of the fit, first and
    last.  share: of B A that the gradient loses.  snr: of the Langevin corrector.  clip: clamp x0hat of real images.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"linear", "adjoint", "gradient"})
    through_prior: ClassVar[bool] = True
    citation: ClassVar[str] = (
        "@inproceedings{chung2022mcg, title={Improving Diffusion Models for Inverse Problems using Manifold "
        "Constraints}, author={Chung, Hyungjin and Sim, Byeongsu and Ryu, Dohoon and Ye, Jong Chul}, "
        "booktitle={NeurIPS}, year={2022}}"
    )

    form: Literal["ancestral", "corrector-predictor", "predictor-corrector"] = "ancestral"
    steps: int = 1000
    grid: str = "vp"
    alpha: float = 1.0
    norm: Literal["data", "image", "rms"] = "data"
    inverse: Literal["auto", "pinv", "cg", "kaczmarz"] = "auto"
    iterations: int = 10
    noised: Literal["now", "next", "none"] = "now"
    relax: tuple[float, float] = (1.0, 1.0)
    share: float = 1.0
    snr: float = 0.16
    clip: bool = True

    def __post_init__(self) -> None:
        positive = min(self.steps, self.iterations) >= 1 and self.snr > 0
        if not (positive and self.alpha >= 0 and min(self.relax) >= 0 and 0 <= self.share <= 1):
            raise ConfigError("mcg needs steps and iterations >= 1, snr > 0, alpha and relax >= 0, and share in 0..1")
        schedules.grid(self.grid, self.steps)

    @property
    def network_calls(self) -> int:
        return len(self.form.split("-")) * (len(schedules.grid(self.grid, self.steps)) - 1)

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
        """Return samples; one evaluation for each stage of the form and step, guided ones with a backward pass."""
        if prior is None:
            raise ConfigError("method 'mcg' needs a prior", "name one with --prior")
        operator, y, (first, last) = require_linear("mcg", problem), measured_data(problem), self.relax
        sigmas = schedules.grid(self.grid, self.steps).tolist()
        x = first_state(self.grid, sigmas[0], problem, x_init, noise, shape)
        levels, guard, stats, count = levels_like(sigmas, x), FiniteGuard(x), Stats(), operator.measured()
        fitting = measured_subspace(operator, self.inverse, self.iterations, x)
        inner = measured_subspace(operator, "pinv", self.iterations, x) if self.inverse == "kaczmarz" else fitting
        if self.norm == "image" and not inner.differentiable:
            raise ConfigError(f"mcg with norm 'image' cannot use CG for {operator!r}", "use inverse=pinv or norm=data")
        scale = math.sqrt(count) if self.norm == "rms" else 1.0
        for i, (t, s) in enumerate(pairwise(sigmas)):
            for stage in self.form.split("-"):
                stats.nfe += 1
                if (self.form, stage) == ("predictor-corrector", "predictor"):  # the authors' CT leaves it unguided
                    x = self._moved(stage, x, prior(x, levels[i]).x0, None, t, s, noise)
                    continue
                traced = trace(prior, x, levels[i])
                with torch.enable_grad():
                    x0 = within_range(traced.seen.x0, prior) if self.clip else traced.seen.x0
                    z = operator.forward(x0)
                    loss = scale * per_item_norm(inner.back(y - z) if self.norm == "image" else y - z)
                x0, slope = x0.detach(), inner.unmeasured(traced.slope(loss), self.share)
                stats.residuals.append(problem.likelihood.residual(z.detach(), problem.y, count))
                k, level = self._dirt(stage, t, s)
                x = self._moved(stage, x, x0, traced.variance_mix, t, s, noise)
                dirt = level * noise.normal(x.shape, x.dtype) if level > 0 else None
                x = fitting.fit(x, k * y, first + (last - first) * i / (len(sigmas) - 1), dirt)
                x.add_(slope, alpha=-self.alpha * (math.sqrt((1 + s**2) * (1 + t**2)) if is_vp(self.grid) else 1.0))
                stats.backprops += 1
                stats.operator_calls += 4 + fitting.calls + inner.calls * (3 if self.norm == "image" else 1)
            guard.keep(x0, stats.residuals[-1])
            on_step(Step(i, len(sigmas) - 1, s, x0))
            if guard.diverged(i):
                return Result(guard.last, Status.DIVERGED, stats)
        guard.keep(x)
        return Result(guard.last, Status.DIVERGED if guard.broken() else Status.OK, stats)

    def _moved(
        self, stage: str, x: Tensor, x0: Tensor, mix: Tensor | None, t: float, s: float, noise: NoiseSource
    ) -> Tensor:
        """Return x', the unconditional step of a stage; the corrector stays at level t."""
        eps = (x - x0) / t
        if stage == "corrector":
            return langevin_corrector(x0, eps, t, self.snr, noise.normal(x.shape, x.dtype))
        z = noise.normal(x.shape, x.dtype) if s > 0 else None
        return ancestral(x0, eps, t, s, z, mix) if stage == "ancestral" else reverse_diffusion(x0, eps, t, s, z)

    def _dirt(self, stage: str, t: float, s: float) -> tuple[float, float]:
        """Return the scale k of the fitted data, and k sigma of their noise; the corrector's is that of its level."""
        if self.noised == "none" or (s == 0 and stage != "corrector"):
            return 1.0, 0.0
        now, pasted = self.noised == "now" or stage == "corrector", stage == "ancestral" and self.noised == "now"
        k = math.sqrt((1 + s**2) / (1 + t**2)) if pasted and is_vp(self.grid) else 1.0
        return k, k * (t if now else s)
