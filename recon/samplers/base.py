"""What every method shares: the contract, the noise source, the result and its statistics.

All samplers live in sigma-space: x = x0 + sigma n.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from recon.data import Problem
from recon.priors.base import Denoiser


class Status(enum.Enum):
    """How a reconstruction ended; `message` is the remedy."""

    OK = "ok"
    DIVERGED = "diverged"

    @property
    def message(self) -> str:
        """What to do about it."""
        return {
            Status.OK: "finished",
            Status.DIVERGED: "values became non-finite or moved far off the data; lower the step size (method.zeta, "
            "method.gamma, method.lr) or check the noise level and scaling of the measurement",
        }[self]


@dataclass
class EnsembleStats:
    """How an ensemble fared, per step.

    spreads: standard deviation of the members' denoised images, root mean square over the image, (); last the result's.
    effective: effective number of the weighted members before resampling, ().  log_evidence: ln of the estimate of
    E[exp(-loss)] under the prior, ().  The last two are of particle methods.
    """

    spreads: list[Tensor] = field(default_factory=list)
    effective: list[Tensor] = field(default_factory=list)
    log_evidence: Tensor | None = None


@dataclass
class Stats:
    """Counts of a run: network evaluations per sample, backward passes, operator calls, residual per step.

    Of an ensemble, counts are per member; of a volume, evaluations are per slice.
    shared: evaluations of one slice, each with its backward pass, that all slices of a sample share.
    """

    nfe: int = 0
    backprops: int = 0
    operator_calls: int = 0
    residuals: list[Tensor] = field(default_factory=list)
    ensemble: EnsembleStats | None = None
    shared: int = 0


@dataclass(frozen=True)
class Result:
    """Samples (B, C, Y, X) in the prior's units, how the run ended, and its statistics."""

    samples: Tensor
    status: Status
    stats: Stats


State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Step:
    """What a sampler reports after each step: index, number of steps, noise level reached, current x0 estimate.

    state: of methods that can be taken up again after the step, all that they need for it but the noise source; tensors
    that the method will not change in place.
    """

    index: int
    count: int
    sigma: float
    x0: Tensor
    state: State | None = None


OnStep = Callable[[Step], None]


def ignore_step(step: Step) -> None:
    """Report nothing."""


class NoiseSource(Protocol):
    """Standard normal noise whose sample i does not depend on the batch that sample i is drawn in."""

    def normal(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return noise (B, ...); complex dtypes have unit variance in each of the real and imaginary parts."""
        ...


class SeededNoise:
    """One CPU generator per sample: the noise of sample k is the same whatever the batch, chunk, worker or device."""

    def __init__(self, seed: int, indices: Sequence[int], device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.generators = []
        for index in indices:
            # a hash of the pair keeps neighbouring seeds and indices apart
            mixed = int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> np.uint64(1))
            self.generators.append(torch.Generator().manual_seed(mixed))

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return noise of `shape` (B, ...) with B = number of indices."""
        if shape[0] != len(self.generators):
            raise ValueError(f"noise for {shape[0]} samples asked from {len(self.generators)} generators")
        item = tuple(shape[1:])
        if dtype.is_complex:
            real = torch.float64 if dtype == torch.complex128 else torch.float32
            drawn = [torch.view_as_complex(torch.randn(*item, 2, generator=g, dtype=real)) for g in self.generators]
        else:
            drawn = [torch.randn(item, generator=g, dtype=dtype) for g in self.generators]
        return torch.stack(drawn).to(self.device, non_blocking=True)

    def state(self) -> Tensor:
        """Return the generators' states, uint8 (indices, bytes)."""
        return torch.stack([g.get_state() for g in self.generators])

    def restore(self, state: Tensor) -> None:
        """Go on from a state."""
        for generator, each in zip(self.generators, state, strict=True):
            generator.set_state(each.clone())  # set_state takes no view


class Method(ABC):
    """A reconstruction method: a frozen dataclass of hyper-parameters with one function.

    needs: what the operator must offer: a subset of {"forward", "gradient", "adjoint", "pinv", "svd", "linear",
    "slices"}; the last is that slices of a volume are measured by themselves.
    uses_prior: False for classical baselines.  citation: BibTeX-ready reference.
    stochastic: whether samples differ (a deterministic method gives one).
    cfg_plus_plus: whether its steps add the unconditional noise again where a prior gives it (CFG++).
    ensemble: whether the samples of one call are members of one ensemble, which must not be split.
    through_prior: whether its gradients go through the prior.
    trains_prior: whether it trains a copy of the prior's network, so that a prior without one cannot serve.
    volume: whether the slices of a volume are one sample (B, C, Z, Y, X) to it; images stay images.
    two_planes: whether it can take a second prior, for slices across another axis.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    uses_prior: ClassVar[bool] = True
    stochastic: ClassVar[bool] = True
    cfg_plus_plus: ClassVar[bool] = False
    ensemble: ClassVar[bool] = False
    through_prior: ClassVar[bool] = False
    trains_prior: ClassVar[bool] = False
    volume: ClassVar[bool] = False
    two_planes: ClassVar[bool] = False
    citation: ClassVar[str] = ""

    @abstractmethod
    def sample(
        self,
        prior: Denoiser | None,
        problem: Problem,
        x_init: Tensor | None,
        noise: NoiseSource,
        shape: tuple[int, ...],
        on_step: OnStep = ignore_step,
    ) -> Result:
        """Return samples of `shape` (B, C, Y, X) in the prior's units.

        x_init: an x0 estimate to start from, or None.  Never reads files, logs, or touches the global generator.
        """

    @property
    def network_calls(self) -> int:
        """Number of network evaluations per sample, for estimates of time."""
        return 0

    def evaluations(self, images: int) -> int:
        """Return the number of network evaluations of a sample of so many images, or of a volume of so many slices."""
        return self.network_calls * images

    @property
    def differentiates_prior(self) -> bool:
        """Whether it differentiates the prior with these settings; backends without autograd cannot serve it then."""
        return self.through_prior

    @property
    def joint(self) -> bool:
        """Whether the slices of a volume are one sample with these settings."""
        return self.volume

    def members(self, samples: int) -> int:
        """Return how many samples are drawn to return `samples`: an ensemble may need more."""
        return samples
