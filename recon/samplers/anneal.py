"""The two levels of DAPS's grids: those of the annealing, and those of the ODE from each of them.

             annealing, K steps                             ODE, n steps
    main     K of K + 1 points, poly-7 smax..smin, then 0   n + 1 points, poly-7 sigma..low: ends at low
    legacy   K points, poly-7 smax..smin, then 0            n points, poly-7 sigma..low, then 0

Source: the authors' code of DAPS (Zhang et al. 2025); "legacy" is its first version and InverseBench's.
Departure: from a level at or below `low` one step goes to 0.
"""

from __future__ import annotations

from typing import Literal

from recon import schedules

Anneal = Literal["main", "legacy"]


def annealing(anneal: Anneal, steps: int, sigma_min: float, sigma_max: float) -> list[float]:
    """Return `steps` decreasing noise levels, then 0."""
    points = steps + (1 if anneal == "main" else 0)
    return [*schedules.poly_rho(points, sigma_min, sigma_max).tolist()[:steps], 0.0]


def ode_levels(anneal: Anneal, steps: int, low: float, sigma: float) -> list[float]:
    """Return the levels of an ODE of `steps` steps that starts at sigma."""
    if sigma <= low:
        return [sigma, 0.0]
    if anneal == "main":
        return schedules.poly_rho(steps + 1, low, sigma).tolist()[:-1]
    return schedules.poly_rho(steps, low, sigma).tolist()
