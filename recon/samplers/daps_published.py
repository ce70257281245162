"""The published settings of DAPS for each problem, in the units of images in -1..1.

Langevin: N, lr;  HMC: N, lr, momentum. All with tau = 0.01 at measurement noise 0.05, the "main" convention, 200 levels
of 5 ODE steps. "legacy" is the first version of the code, whose data weight is half and whose grids end at 0.
Source: the authors' code (configs of pixel FFHQ and ImageNet, Langevin and HMC).
"""

from __future__ import annotations

from typing import Any, Literal

from recon.errors import ConfigError
from recon.samplers.daps import DAPS

LANGEVIN: dict[str, tuple[int, float]] = {
    "sr4": (100, 1e-4),
    "deblur-gauss": (100, 1e-4),
    "deblur-motion": (100, 5e-5),
    "inpaint-box": (100, 5e-5),
    "inpaint-random": (100, 1e-4),
    "phase-retrieval": (100, 5e-5),
    "deblur-nonlinear": (200, 1e-5),
    "hdr": (100, 2e-5),
}
LEGACY = LANGEVIN | {"deblur-nonlinear": (100, 5e-5)}
HMC: dict[str, tuple[int, float, float]] = {
    "sr4": (12, 1.04e-4, 0.90),
    "deblur-gauss": (82, 4.04e-5, 0.10),
    "deblur-motion": (96, 3.69e-5, 0.11),
    "inpaint-box": (84, 1.15e-5, 0.003),
    "inpaint-random": (11, 3.56e-5, 0.80),
    "phase-retrieval": (62, 9.75e-6, 0.73),
    "deblur-nonlinear": (85, 1.20e-5, 0.46),
    "hdr": (100, 2.18e-5, 0.23),
}


def published(problem: str, form: Literal["main", "legacy", "hmc"] = "main") -> DAPS:
    """Return DAPS as published for a problem. Raises ConfigError, naming those there are, on an unknown one."""
    if problem not in LANGEVIN:
        raise ConfigError(f"no published DAPS settings for '{problem}'", f"there are: {', '.join(LANGEVIN)}")
    both: dict[str, Any] = {"tau": 0.01, "lr_ratio": 0.01}
    if form == "hmc":
        steps, lr, momentum = HMC[problem]
        return DAPS(inner="hmc", inner_steps=steps, lr=lr, momentum=momentum, convention="main", **both)
    steps, lr = (LEGACY if form == "legacy" else LANGEVIN)[problem]
    return DAPS(inner="langevin", inner_steps=steps, lr=lr, anneal=form, convention=form, **both)
