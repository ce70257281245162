"""From values to colours: one window for all grey images, and one named map, "ember", for magnitudes.

"ember" runs from black over violet and red to pale yellow, like magma; its lightness in OKLab (Ottosson 2020) is linear
in the value, so that equal steps look equal, also in grey print and to colour-blind eyes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from recon.errors import InputError

DARKEST, LIGHTEST = 0.1, 0.97  # lightness; 0.1 is the first that 8 bits tell from black
NOT_FINITE = np.array([0, 200, 200], np.uint8)  # a colour that neither map contains


@final
@dataclass(frozen=True)
class Scale:
    """What a colour means: `table` (256, 3), uint8, from value `low` to value `high`; values beyond keep the ends."""

    table: np.ndarray
    low: float
    high: float
    label: str = ""

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            raise InputError(f"a colour scale needs finite limits low < high, got {self.low:g} and {self.high:g}")

    def colour(self, values: np.ndarray) -> np.ndarray:
        """Return values (...) as RGB (..., 3), uint8; values that are not finite are cyan."""
        return np.where(np.isfinite(values)[..., None], self.table[self.levels(values)], NOT_FINITE)

    def levels(self, values: np.ndarray) -> np.ndarray:
        """Return values (...) as levels 0..255, uint8."""
        unit = (np.nan_to_num(values.astype(np.float64)) - self.low) / (self.high - self.low)
        return np.rint(unit.clip(0, 1) * 255).astype(np.uint8)


def grey(low: float, high: float, label: str = "") -> Scale:
    """Return the grey scale from black at `low` to white at `high`."""
    return Scale(np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1), low, high, label)


def ember(high: float, label: str = "") -> Scale:
    """Return the "ember" scale from 0 to `high`."""
    return Scale(EMBER, 0.0, high, label)


def _ember() -> np.ndarray:
    """Return the colours (256, 3) of "ember": a half turn of hue, from violet to yellow, at linear lightness."""
    t = np.linspace(0, 1, 256)
    hue = np.deg2rad(280 + 180 * t)
    chroma = 0.17 * np.sin(np.pi * t**1.1)
    return oklab_to_srgb(
        np.stack([DARKEST + (LIGHTEST - DARKEST) * t, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    )


def oklab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """Return OKLab colours (..., 3) as sRGB, uint8, clipped to what a screen shows."""
    to_lms = np.array(
        [
            [1.0, 0.3963377774, 0.2158037573],
            [1.0, -0.1055613458, -0.0638541728],
            [1.0, -0.0894841775, -1.2914855480],
        ]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = (((lab @ to_lms.T) ** 3) @ to_rgb.T).clip(0, 1)
    gamma = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * gamma).astype(np.uint8)


EMBER = _ember()
