"""Priors whose images are as likely mirrored or turned: a denoiser that has the symmetry too.

    D_G(x, s) = (1/|G|) sum_g g^-1 D(g x, s)          calls "all"
    D_G(x, s) = g^-1 D(g x, s),  g = g(s)             calls "one"

G: "mirror" {1, left-right}, or "dihedral", all mirrorings and turns by 90 degrees (8; 4 for images that are not
square). Where p(g x) = p(x) the posterior mean commutes with g, and the average is nearer to it than D is: what D errs
by that changes with g averages out. "all" costs |G| evaluations; "one" costs none: g follows from the bits of the noise
level, so that it changes from level to level, is the same on every device, and a run can be repeated. Over a run's
levels, what changes with g averages out too.

Source: Terris et al. 2024, Equivariant plug-and-play image reconstruction: the averaged and the Monte-Carlo denoiser.
Departure: theirs draws g.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.priors.base import Denoiser, Prediction, per_item
from recon.priors.wrapper import Wrapper

# moves whose products are a group, each its own inverse: reversals of an axis, and the exchange of both
GROUPS = {"mirror": ("x",), "dihedral": ("x", "y", "transpose")}
# of the training data of weight files that do not say it
TRAINED = {"mri-slices": "dihedral", "images": "dihedral", "phantoms": "dihedral"}
# Knuth's multiplicative hash: the top bits of bits * HASH modulo 2^32 change with every bit
HASH = 2654435761


@final
class Symmetric(Wrapper):
    """A denoiser of images (B, C, Y, X) that is made symmetric.

    inner: of images of any orientation.  group: "mirror" or "dihedral".  calls: "one" or "all".
    Raises ConfigError for other groups and calls.
    """

    def __init__(self, inner: Denoiser, group: str, calls: str = "one") -> None:
        if group not in GROUPS or calls not in ("one", "all"):
            raise ConfigError(f"unknown symmetry {group!r} with calls {calls!r}", "mirror or dihedral; one or all")
        self.inner, self.group, self.calls, self.info = inner, group, calls, inner.info

    def around(self, inner: Denoiser) -> Denoiser:
        return Symmetric(inner, self.group, self.calls)

    def _denoise(self, x: Tensor, sigma: Tensor, cond: Tensor | None) -> Prediction:
        moves = [move for move in GROUPS[self.group] if move != "transpose" or x.shape[-1] == x.shape[-2]]
        if self.calls == "one":
            return self._seen(x, sigma, cond, moves, _bits(sigma, len(moves)))
        found = [
            self._seen(x, sigma, cond, moves, [torch.tensor(bool(index >> bit & 1)) for bit in range(len(moves))])
            for index in range(2 ** len(moves))
        ]
        return Prediction(
            torch.stack([p.x0 for p in found]).mean(dim=0),
            _mean([p.variance_mix for p in found]),
            _mean([p.x0_uncond for p in found]),
        )

    def _seen(self, x: Tensor, sigma: Tensor, cond: Tensor | None, moves: list[str], on: list[Tensor]) -> Prediction:
        """Return the prediction of the inner denoiser on the moved x, moved back."""
        there = x
        for move, chosen in zip(moves, on, strict=True):
            there = _moved(there, move, chosen)
        seen = self.inner(there, sigma, cond)

        def back(part: Tensor) -> Tensor:
            for move, chosen in reversed(list(zip(moves, on, strict=True))):
                part = _moved(part, move, chosen)
            return part

        mix, uncond = (None if part is None else back(part) for part in (seen.variance_mix, seen.x0_uncond))
        return Prediction(back(seen.x0), mix, uncond)


def _moved(x: Tensor, move: str, chosen: Tensor) -> Tensor:
    """Return x (B, C, Y, X), moved where `chosen`, () or (B,); each move is its own inverse."""
    other = x.transpose(-1, -2) if move == "transpose" else x.flip(-1 if move == "x" else -2)
    # no choice on the host: a level on a GPU stays there
    return torch.where(per_item(chosen, x) if chosen.ndim else chosen.to(x.device), other, x)


def _bits(sigma: Tensor, count: int) -> list[Tensor]:
    """Return `count` truth values (B,) for each level (B,), which follow from its bits in float32."""
    key = sigma.float().contiguous().view(torch.int32).long() % 2**32 * HASH % 2**32
    return [(key >> (31 - bit)) % 2 == 1 for bit in range(count)]


def _mean(parts: list[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.stack(present).mean(dim=0) if present else None


def trained_symmetry(provenance: Any) -> str:
    """Return the group of the data that a prior was trained on, from the configuration in its provenance, or "none"."""
    training = provenance.get("training") if isinstance(provenance, dict) else None
    data = training.get("data") if isinstance(training, dict) else None
    return TRAINED.get(str(data.get("kind", "mri-slices")), "none") if isinstance(data, dict) else "none"
