"""Draw the audit's samples with a method, in batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.audit.cases import Case
from recon.audit.noise import BatchNoise
from recon.samplers.base import Method, Status, Step
from recon.solvers.dense import real_rows

OnShare = Callable[[float, float], None]
MOST_ITEMS, MOST_NUMBERS = 2000, 1 << 23


@dataclass(frozen=True)
class Trial:
    """Samples as real rows (N, D), how the method ended, its counts per sample, and seconds."""

    rows: Tensor
    status: Status
    nfe: int
    backprops: int
    operator_calls: int
    seconds: float


def run_trial(
    method: Method, case: Case, samples: int, seed: int, on_share: OnShare = lambda share, sigma: None
) -> Trial:
    """Return `samples` samples of a case; the same seed gives the same samples.

    on_share: told the share (0 to 1) that is done, and the noise level, after each step; what it raises ends the trial.
    Raises ConfigError where the method refuses the problem.
    """
    problem = case.problem
    shape = problem.operator.in_shape
    batch = max(1, min(MOST_ITEMS, MOST_NUMBERS // math.prod(shape), samples))
    if method.ensemble:
        batch = method.members(1)
    count = math.ceil(samples / batch)
    parts, started = [], time.monotonic()
    for index in range(count):
        # whole ensembles, else batches of about equal size
        size = batch if method.ensemble else samples * (index + 1) // count - samples * index // count

        def report(step: Step, index: int = index) -> None:
            on_share((index + (step.index + 1) / step.count) / count, step.sigma)

        noise = BatchNoise(seed, case.info.name, index)
        result = method.sample(case.prior, problem, None, noise, (size, *shape), report)
        parts.append(result.samples)
        stats = result.stats
        if result.status is not Status.OK:
            break
    rows = real_rows(torch.cat(parts))[:samples]
    finite = bool(rows.isfinite().all())
    status = result.status if finite else Status.DIVERGED
    seconds = time.monotonic() - started
    return Trial(rows, status, stats.nfe, stats.backprops, stats.operator_calls, seconds)
