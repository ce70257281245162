"""The complex light field that a real image stands for, in coherent imaging.

    symmetric   x - (low + high)/2          amplitude, mid-grey is dark: the images of DPS in [-1, 1]
    unit        x - low                     amplitude, black is dark
    phase       (high - low) exp(i depth (x - low)/(high - low))      a transparent object of constant amplitude

In the image's units, so that amplitudes are as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from recon.errors import ConfigError

Kind = Literal["symmetric", "unit", "phase"]


@final
@dataclass(frozen=True)
class ObjectField:
    """kind: as above.  low, high: image values of black and white.  depth: the phase of white in radians."""

    kind: Kind
    low: float
    high: float
    depth: float

    def __call__(self, x: Tensor) -> Tensor:
        """Return the field of real x; real where its phase is 0 or pi everywhere."""
        if self.kind == "symmetric":
            return x - (self.low + self.high) / 2
        if self.kind == "unit":
            return x - self.low
        width = self.high - self.low
        return torch.polar(torch.full_like(x, width), self.depth / width * (x - self.low))


def check_depth(kind: str, depth: float) -> None:
    """Raise ConfigError unless the depth is a finite phase other than 0."""
    if not 0 < abs(depth) < math.inf:
        raise ConfigError(f"operator '{kind}': depth = {depth}", "give the phase of white in radians, such as 3.14")
