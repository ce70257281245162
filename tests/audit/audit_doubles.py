"""Methods for the audit's own tests: one that is exact, and ones that are wrong in a known way."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from recon.audit.cases import build_case
from recon.audit.noise import generator
from recon.samplers.base import Method, Result, Stats, Status, Step, ignore_step


@dataclass(frozen=True)
class Oracle(Method):
    """Draws of a case's exact posterior, moved by `shift` and stretched by `spread` posterior standard deviations."""

    case: str = "scalar-linear"
    shift: float = 0.0
    spread: float = 1.0
    delay: float = 0.0
    nan: bool = False

    def sample(self, prior, problem, x_init, noise, shape, on_step=ignore_step):
        exact = build_case(self.case).exact
        seed = int(noise.normal((1,), torch.float32).view(torch.int32).abs())
        rows = exact.draw(shape[0], generator(seed))
        rows = exact.mean + self.shift * exact.std + self.spread * (rows - exact.mean)
        kind = problem.operator.in_dtype
        if kind.is_complex:
            samples = torch.view_as_complex(rows.reshape(*shape, 2)).to(kind)
        else:
            samples = rows.reshape(shape).to(kind)
        for index in range(4):
            if self.delay:
                import time

                time.sleep(self.delay)
            on_step(Step(index, 4, 0.0, samples))
        if self.nan:
            samples[0] = torch.nan
        return Result(samples, Status.OK, Stats(nfe=4))
