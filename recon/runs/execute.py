"""Run a plan: every item, every sample, in chunks; images come back in the file's units."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from recon.data import Problem
from recon.errors import NumericalError
from recon.io.disk import let_go
from recon.priors.backends import with_backend
from recon.priors.base import Denoiser
from recon.runs.allocator import keep_freed_memory
from recon.runs.collected import Collected, Shelf, means, spreads
from recon.runs.plan import Plan
from recon.runs.problem import Scaled, on_device, scale_problem
from recon.runs.saved import Keeper
from recon.runs.saved import on_device as state_on_device
from recon.runs.volumes import as_slices, count_parts, parts
from recon.samplers.base import OnStep, Result, SeededNoise, Status, Step
from recon.samplers.misfit import misfit_of
from recon.samplers.volume import SliceNoise, VolumeMethod

Noise = SeededNoise | SliceNoise


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps done and in all, and the noise level reached."""

    done: int
    total: int
    sigma: float


@dataclass(frozen=True)
class Outcome:
    """What a run made: samples (S, N, C, Y, X) in image units, and its statistics.

    nfe, backprops, operator_calls: in all, over every sample, or every member of an ensemble.
    ensemble_spread: of each item, standard deviation of all members in image units, root mean square over the image.
    residual_curve: at each step ||y - A x0|| of the denoised image over its expected value, mean over all samples.
    """

    samples: np.ndarray
    residual: list[float]
    residual_of_mean: list[float]
    nfe: int
    backprops: int
    operator_calls: int
    seconds: float
    peak_memory_mb: float
    ensemble_spread: list[float] = field(default_factory=list)
    residual_curve: list[float] = field(default_factory=list)

    @property
    def mean(self) -> np.ndarray:
        """Mean over samples (N, C, Y, X)."""
        return means(self.samples)

    @property
    def std(self) -> np.ndarray:
        """Standard deviation over samples (N, C, Y, X), with S - 1."""
        return spreads(self.samples)


Accelerate = Callable[[Denoiser, str, int], Denoiser]


class Diverged(NumericalError):
    """A method diverged.

    last: of each item until then its mean, and of the one that diverged the mean of the samples' last good states,
    as one sample; None where there is none.
    """

    def __init__(self, message: str, hint: str, last: Outcome | None) -> None:
        super().__init__(message, hint)
        self.last = last


def execute(
    plan: Plan,
    on_progress: Callable[[Progress], None] | None = None,
    keeper: Keeper | None = None,
    accelerate: Accelerate = with_backend,
) -> Outcome:
    """Return the outcome of a plan. Raises Diverged if a method did.

    keeper: takes in what is done, and knows what was done before the run was interrupted.  accelerate: gives a prior
    the plan's backend.
    """
    start = time.monotonic()
    if plan.device.type == "cpu" and not plan.is_volume:
        keep_freed_memory()
    prior = plan.prior.to(plan.device) if plan.prior is not None else None
    prior = accelerate(prior, plan.backend, plan.threads) if prior is not None else None
    a, b = plan.window.affine(plan.value_range)
    counts = {"nfe": 0, "backprops": 0, "operator_calls": 0}
    residuals, mean_residuals, spread, sound = [], [], [], True
    collected = Collected(plan.input.image_shape[0])
    curves: list[torch.Tensor] = []
    together = 1 if plan.is_volume else plan.chunk  # of a volume, chunks are of slices
    chunks = [range(i, min(i + together, plan.members)) for i in range(0, plan.members, together)]
    rounds = count_parts(plan.input, plan.method) * len(chunks)
    shelf = Shelf(rounds, together)
    for item, part in enumerate(parts(plan.input, plan.method)):
        scaled = scale_problem(part.operator, torch.from_numpy(part.y), plan.input.noise, a, b, norm=plan.norm)
        problem = on_device(scaled.problem, plan.device)
        let_go(plan.input.measurement.y)
        drawn = []
        for number, indices in enumerate(chunks):
            round_index = item * len(chunks) + number
            noise = part.noise(plan.config.run.seed, list(indices), plan.device)

            def report(step: Step, round_index: int = round_index, noise: Noise = noise) -> None:
                if keeper is not None:
                    keeper.reached(step, noise)
                if on_progress is not None:
                    done = round_index * step.count + step.index + 1
                    on_progress(Progress(done, rounds * step.count, step.sigma))

            shape = (len(indices), *part.operator.in_shape)
            known = keeper.known(round_index) if keeper is not None else None
            result = known or _sample(plan, prior, problem, noise, shape, report, keeper)
            result = replace(result, samples=result.samples.to(plan.device))
            drawn.append(result.samples)
            if result.stats.ensemble is not None:
                spread.append(scaled.a * float(result.stats.ensemble.spreads[-1]))
            if result.stats.residuals:
                curves.append(torch.stack(result.stats.residuals).mean(1).cpu())
            for key in counts:
                # the network sees the slices of a volume as images, the operator the volume
                images = 1 if key == "operator_calls" else part.images
                counts[key] += getattr(result.stats, key) * len(indices) * images
            for key in ("nfe", "backprops"):
                counts[key] += result.stats.shared * len(indices)
            sound = result.status is Status.OK and bool(torch.isfinite(result.samples.abs()).all())
            if not sound:
                break
            if keeper is not None and known is None:
                keeper.finish(replace(result, samples=shelf.put(round_index, result.samples)))
        samples = torch.cat(drawn)[: plan.samples]
        residuals.append(_residual(problem, samples))
        mean_residuals.append(_residual(problem, samples.mean(0, keepdim=True)))
        made = plan.input.shown(_image_units(as_slices(samples), scaled))
        if not sound:
            # the item that diverged may have fewer samples than those before
            collected.end_with(made)
            break
        collected.add(made)
    outcome = Outcome(
        samples=collected.all(),
        residual=[float(np.mean(r)) for r in residuals],
        residual_of_mean=[float(r[0]) for r in mean_residuals],
        seconds=time.monotonic() - start if keeper is None else keeper.seconds,
        peak_memory_mb=_peak_memory_mb(plan.device),
        ensemble_spread=spread,
        residual_curve=_mean_curve(curves),
        **counts,
    )
    if sound:
        return outcome
    last = outcome if all(np.isfinite(image).all() for image in outcome.samples[0]) else None
    raise Diverged(f"method '{plan.config.method.name}' diverged", Status.DIVERGED.message, last)


def _mean_curve(curves: list[torch.Tensor]) -> list[float]:
    """Return the mean of curves over their common steps: one that diverged is shorter."""
    steps = min((len(curve) for curve in curves), default=0)
    return [float(v) for v in torch.stack([curve[:steps] for curve in curves]).mean(0)] if steps else []


def _sample(
    plan: Plan,
    prior: Denoiser | None,
    problem: Problem,
    noise: Noise,
    shape: tuple[int, ...],
    report: OnStep,
    keeper: Keeper | None,
) -> Result:
    """Return the method's result, going on from the step that the keeper knows of."""
    if keeper is None or keeper.state is None or not isinstance(plan.method, VolumeMethod):
        return plan.method.sample(prior, problem, None, noise, shape, report)
    assert keeper.noise is not None
    noise.restore(keeper.noise)
    state = state_on_device(keeper.state, plan.device)
    return plan.method.sample(prior, problem, None, noise, shape, report, state=state)


def _residual(problem: Problem, samples: torch.Tensor) -> list[float]:
    """Return ||y - A u|| over its expected norm, per sample."""
    with torch.no_grad():
        found = misfit_of(problem.operator, problem, samples, problem.operator.measured())
        return [float(r) for r in found.residual]


def _image_units(samples: torch.Tensor, scaled: Scaled) -> np.ndarray:
    return np.asarray((scaled.a * samples + scaled.b).cpu().numpy())


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
