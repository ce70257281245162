"""What methods share to which a volume is one sample (B, C, Z, Y, X): how they are taken up again after a step, and
noise that does not depend on which slices are drawn together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor

from recon.data import Problem
from recon.errors import ConfigError
from recon.operators.base import LinearOperator
from recon.priors.base import Denoiser
from recon.samplers.base import (
    Method,
    NoiseSource,
    OnStep,
    Result,
    SeededNoise,
    State,
    Stats,
    Status,
    Step,
    ignore_step,
)
from recon.samplers.guard import FiniteGuard


class VolumeMethod(Method):
    """A method that reconstructs the slices of a volume together; an image is a volume of one slice."""

    volume: ClassVar[bool] = True

    @abstractmethod
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
        """Return samples of `shape` (B, C, Z, Y, X) in the prior's units, as `Method.sample`.

        state: of a step that was reported, to go on after it; the noise source is then as it was.
        """


@final
class Record:
    """The last good estimates, the statistics and the reports of a run's steps; and their state."""

    def __init__(self, x: Tensor, steps: int, on_step: OnStep, state: State | None, nfe: int, calls: int) -> None:
        """x: like the estimates.  nfe, calls: network evaluations and operator calls of a step."""
        self.steps, self.on_step, self.nfe, self.calls = steps, on_step, nfe, calls
        self.guard, self.stats, self.done = FiniteGuard(x), Stats(), 0
        if state is not None:
            self.guard.last, self.guard.alive, self.guard.most = state["last"], state["alive"], state["most"]
            self.stats.residuals = list(state["residuals"])
            self.done = len(self.stats.residuals)

    def keep(self, sigma: float, x0: Tensor, residual: Tensor, **own: Tensor) -> bool:
        """Note a finished step and report it; return whether a sample diverged.

        sigma: level reached.  x0, residual: the estimate and its data residual (B,).  own: the method's own state.
        """
        self.stats.residuals.append(residual)
        self.stats.nfe += self.nfe
        self.stats.operator_calls += self.calls
        self.guard.keep(x0, residual)
        assert self.guard.most is not None
        shared = {"last": self.guard.last, "alive": self.guard.alive, "most": self.guard.most}
        state = own | shared | {"residuals": torch.stack(self.stats.residuals)}
        self.on_step(Step(self.done, self.steps, sigma, x0, state))
        self.done += 1
        return self.guard.diverged(self.done - 1)

    def result(self) -> Result:
        """Return the last good estimates."""
        self.stats.nfe, self.stats.operator_calls = self.nfe * self.done, self.calls * self.done
        return Result(self.guard.last, Status.DIVERGED if self.guard.broken() else Status.OK, self.stats)


@final
class SliceNoise:
    """Noise of volumes drawn slice by slice, each slice's from a source of its own: that of the slice as an image."""

    def __init__(self, sources: Sequence[SeededNoise]) -> None:
        self.sources = tuple(sources)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return noise of `shape` (B, C, Z, Y, X) with Z = number of sources."""
        batch, channels, slices, *plane = shape
        if slices != len(self.sources):
            raise ValueError(f"noise for {slices} slices asked from {len(self.sources)} sources")
        drawn = torch.empty(tuple(shape), dtype=dtype, device=self.sources[0].device)
        for z, source in enumerate(self.sources):
            drawn[:, :, z] = source.normal((batch, channels, *plane), dtype)
        return drawn

    def state(self) -> Tensor:
        """Return the generators' states, uint8 (slices, indices, bytes)."""
        return torch.stack([source.state() for source in self.sources])

    def restore(self, state: Tensor) -> None:
        """Go on from a state."""
        for source, each in zip(self.sources, state, strict=True):
            source.restore(each)


def linear_operator(problem: Problem, name: str) -> LinearOperator:
    """Return the problem's operator. Raises ConfigError if it is not linear."""
    if not isinstance(problem.operator, LinearOperator):
        raise ConfigError(f"method '{name}' needs a linear operator, got {problem.operator!r}", "use method dps")
    return problem.operator
