"""Names of the audit's cases, without importing torch; `recon.audit.cases` builds them.

A Gaussian case is named gaussian-KIND-SIZE. `problem` is the problem of the presets that its settings come from.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from recon.errors import ConfigError

SIZES = (32, 64)
SMALLEST, LARGEST = 8, 64


@dataclass(frozen=True)
class CaseInfo:
    """A case: its family (gaussian, mixture or scalar), kind, size, and the problem that presets know it by.

    share: samples for each one that is asked for; few dimensions leave the mean of N samples less averaged.
    """

    name: str
    family: str
    kind: str
    size: int
    problem: str
    description: str
    share: int = 1


GAUSSIAN = {
    "denoise": ("denoise", "noise of 0.2"),
    "inpaint": ("inpaint-random", "70 % of the pixels missing"),
    "deblur": ("deblur-gauss", "Gaussian blur, circular"),
    "deblur-reflect": ("deblur-gauss", "Gaussian blur, reflecting border"),
    "sr4": ("sr4", "bicubic reduction by 4"),
    "fourier": ("mri-x4", "a quarter of the Fourier lines, real image"),
    "fourier-complex": ("mri-x4", "a quarter of the Fourier lines, complex image"),
    "ct": ("ct-30", "12 parallel-beam views"),
}
MIXTURES = (2, 8, 32)
SCALARS = {
    "linear": ("denoise", "N(0.5, 0.15^2), y = x + noise"),
    "amplitude": ("phase-retrieval", "y = |x| + noise: two modes"),
    "clip": ("clip", "y = min(max(x, -0.5), 0.5) + noise"),
    "poisson": ("poisson", "counts of a positive intensity"),
}
# most telling first: an audit with a time budget begins with these
DEFAULT = (
    "gaussian-inpaint-32",
    "mixture-2",
    "scalar-linear",
    "scalar-amplitude",
    "gaussian-denoise-32",
    "gaussian-fourier-32",
    "gaussian-deblur-32",
)


def all_cases() -> list[str]:
    """Return the names of every case of the full audit, small images first."""
    images = [f"gaussian-{kind}-{size}" for size in SIZES for kind in GAUSSIAN]
    half = len(GAUSSIAN)
    return [*images[:half], *(f"mixture-{d}" for d in MIXTURES), *(f"scalar-{k}" for k in SCALARS), *images[half:]]


def case_info(name: str) -> CaseInfo:
    """Return what is known of a case. Raises ConfigError, naming the nearest, if there is none of that name."""
    family, _, rest = name.partition("-")
    if family == "gaussian" and (found := re.fullmatch(r"(.+)-(\d+)", rest)):
        kind, size = found[1], int(found[2])
        if kind in GAUSSIAN and SMALLEST <= size <= LARGEST and size % 4 == 0:
            problem, line = GAUSSIAN[kind]
            return CaseInfo(name, family, f"gaussian-{kind}", size, problem, f"{size}x{size}: {line}")
    if family == "mixture" and rest.isdigit() and int(rest) in MIXTURES:
        line = f"several modes in {rest} dimensions, fewer measurements"
        return CaseInfo(name, family, "mixture", int(rest), "mixture", line, share=4)
    if family == "scalar" and rest in SCALARS:
        problem, line = SCALARS[rest]
        return CaseInfo(name, family, name, 1, problem, line, share=20)
    near = difflib.get_close_matches(name, all_cases(), 1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(all_cases())}"
    raise ConfigError(f"unknown audit case '{name}'", hint)
