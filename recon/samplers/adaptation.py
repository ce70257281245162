"""A prior that is fitted to the data on the way, by adapters on a copy of it: one set for each sample.

    repeat at a noise level:   pick slices k of x
                               x0'_k    the method's data step from D(x_k), a few iterations of conjugate gradients
                               AdamW    on mean |A_k x0'_k - y_k|^2, through both; moments are zero at each level

The prior itself is never changed (`recon.priors.lora`). What is random, the first adapters, the picks and the dropout,
follows from a seed of each sample and the number of the step, so that a run is taken up again with the adapters alone.

Source: Chung and Ye 2024 (DDIP), and the authors' code: LoRA of rank 4 with dropout 0.1, and biases. Departures: those
of `recon.priors.adapters`; without dropout, sampling uses the adapters merged into the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.priors.adapters import AdapterSettings
from recon.priors.base import Denoiser, Prediction
from recon.priors.lora import LoRA
from recon.samplers.base import NoiseSource
from recon.solvers.adam import Adam

DECAY = 0.01  # AdamW's own default, in torch as in the authors' code

# (x0 of the picked slices with its graph, number of the sample, numbers of the slices) -> scalar
Loss = Callable[[Tensor, int, list[int]], Tensor]


@final
@dataclass(frozen=True)
class Adaptation:
    """How a prior is fitted.

    adapt_steps: of AdamW at a level.  slices: picked in each.  contiguous: whether they are neighbours.  lr: step size.
    rank, dropout, layers: of the adapters.  lowest, highest: noise levels between which the prior is fitted.
    """

    adapt_steps: int
    slices: int
    contiguous: bool
    lr: float
    rank: int
    dropout: float
    layers: str
    lowest: float
    highest: float

    def __post_init__(self) -> None:
        if self.adapt_steps < 0 or self.slices < 1 or not self.lr > 0 or not 0 <= self.lowest <= self.highest:
            raise ConfigError(
                "fitting a prior needs adapt_steps >= 0, slices >= 1, lr > 0 and 0 <= lowest <= highest: "
                f"{self.adapt_steps}, {self.slices}, {self.lr}, {self.lowest}, {self.highest}"
            )
        _ = self.adapters

    @property
    def adapters(self) -> AdapterSettings:
        """What is trained."""
        return AdapterSettings(rank=self.rank, dropout=self.dropout, layers=self.layers, biases=True)

    def levels(self, sigmas: Sequence[float]) -> list[bool]:
        """Return at which of the levels that are denoised the prior is fitted."""
        return [self.adapt_steps > 0 and self.lowest <= sigma <= self.highest for sigma in sigmas[:-1]]

    def evaluations(self, levels: int, slices: int) -> int:
        """Return the evaluations of single slices at so many levels, for a volume of so many slices."""
        return levels * self.adapt_steps * min(self.slices, slices)


@final
class Fitted:
    """The priors of the samples of a batch, each with adapters of its own."""

    def __init__(self, prior: Denoiser, settings: Adaptation, seeds: Tensor, known: Tensor | None = None) -> None:
        """prior: of what is sampled; not changed.  seeds: (B,).  known: the adapters' values (B, n) to go on from."""
        self.settings, self.seeds = settings, [int(seed) for seed in seeds.tolist()]
        self.each = [LoRA(prior, settings.adapters, _generator(seed, 0)) for seed in self.seeds]
        if known is not None:
            self.each = [lora.with_state(_named(lora, values)) for lora, values in zip(self.each, known, strict=True)]
        self.noise = [_generator(seed, 0) for seed in self.seeds]
        self.dropping = [
            lora.with_dropout(noise) if settings.dropout else lora
            for lora, noise in zip(self.each, self.noise, strict=True)
        ]
        self.used = self._used()

    def __call__(self, x: Tensor, level: Tensor) -> Prediction:
        """Return the denoised x (B, C, [Z,] Y, X) at noise level (), each sample's by its own prior."""
        found = [prior(x[item : item + 1], level) for item, prior in enumerate(self.used)]
        if len(found) == 1:
            return found[0]
        mixes = [seen.variance_mix for seen in found if seen.variance_mix is not None]
        unconditional = [seen.x0_uncond for seen in found if seen.x0_uncond is not None]
        return Prediction(
            torch.cat([seen.x0 for seen in found]),
            torch.cat(mixes) if mixes else None,
            torch.cat(unconditional) if unconditional else None,
        )

    def begin(self, number: int) -> None:
        """Begin step `number` of the run: what it draws depends on nothing before it."""
        for seed, noise in zip(self.seeds, self.noise, strict=True):
            noise.manual_seed(_mixed(seed, number + 1))

    def fit(self, number: int, x: Tensor, level: Tensor, loss: Loss) -> None:
        """Train the adapters on x (B, C, [Z,] Y, X) at a noise level ()."""
        for item, (lora, prior) in enumerate(zip(self.each, self.dropping, strict=True)):
            rng, trained = np.random.default_rng([self.seeds[item], number]), lora.parameters()
            optimisers = [Adam(self.settings.lr, decay=DECAY) for _ in trained]
            for _ in range(self.settings.adapt_steps):
                own = x[item : item + 1]
                places = self._picked(rng, own.shape[2]) if own.ndim == 5 else [0]
                with torch.enable_grad():
                    seen = prior(own[:, :, places] if own.ndim == 5 else own, level)
                    slopes = torch.autograd.grad(loss(seen.x0, item, places), trained, allow_unused=True)
                for parameter, slope, optimiser in zip(trained, slopes, optimisers, strict=True):
                    if slope is not None:
                        optimiser.step(parameter, slope)
        self.used = self._used()

    def values(self) -> Tensor:
        """Return a copy of what is trained, (B, n)."""
        return torch.stack([torch.cat([p.detach().flatten() for p in lora.parameters()]) for lora in self.each])

    def _picked(self, rng: np.random.Generator, slices: int) -> list[int]:
        count = min(self.settings.slices, slices)
        if self.settings.contiguous:
            first = int(rng.integers(slices - count + 1))
            return list(range(first, first + count))
        return sorted(int(z) for z in rng.choice(slices, count, replace=False))

    def _used(self) -> list[Denoiser]:
        return [*self.dropping] if self.settings.dropout else [lora.merged() for lora in self.each]


def drawn_seeds(noise: NoiseSource, shape: tuple[int, ...]) -> Tensor:
    """Return a seed for each sample, int64 (B,), that follows from its noise. Waits for the device."""
    drawn = noise.normal(shape, torch.float32).flatten(1)[:, :4].cpu().contiguous().numpy()
    return torch.tensor([_mixed(*row.view(np.uint32).tolist()) for row in drawn], dtype=torch.int64)


def _mixed(*numbers: int) -> int:
    """Return a seed below 2^63 that is a hash of some numbers."""
    return int(np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(_mixed(seed, number))


def _named(lora: LoRA, values: Tensor) -> dict[str, Tensor]:
    """Return a state of adapters from all its values (n,)."""
    state = lora.state()
    parts = values.split([value.numel() for value in state.values()])
    return {name: part.reshape(value.shape) for (name, value), part in zip(state.items(), parts, strict=True)}
