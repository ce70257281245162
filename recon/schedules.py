"""Noise levels, as decreasing float64 arrays in sigma-space, and the map between VP and sigma.

    sigma = sqrt((1-ab)/ab),   ab = 1/(1+sigma^2),   x = x_vp/sqrt(ab)

Sources: Ho et al. 2020 (linear betas), Nichol and Dhariwal 2021 eq. 17 (cosine), Song et al. 2021 (continuous VP),
Karras et al. 2022 eq. 5 (poly-rho), Chung et al. 2024 DDS (uniform skip), Zhu et al. 2023 DiffPIR (quadratic skip).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recon.errors import ConfigError

Sigmas = np.ndarray


def vp_alpha_bars(count: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> np.ndarray:
    """Return alpha-bar_t, t = 0..count-1, of linearly spaced betas."""
    return np.cumprod(1 - np.linspace(beta_min, beta_max, count))


def vp_scaled_linear_alpha_bars(count: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> np.ndarray:
    """Return alpha-bar_t, t = 0..count-1, of betas whose square roots are linearly spaced."""
    return np.cumprod(1 - np.linspace(beta_min**0.5, beta_max**0.5, count) ** 2)


def vp_cosine_alpha_bars(count: int = 1000, offset: float = 0.008, beta_limit: float = 0.999) -> np.ndarray:
    """Return alpha-bar_t, t = 0..count-1, of the cosine schedule, its betas cut at `beta_limit`."""
    curve = np.cos((np.arange(count + 1) / count + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - curve[1:] / curve[:-1], beta_limit))


def sigma_from_alpha_bar(ab: np.ndarray | float) -> np.ndarray:
    """Return sqrt((1-ab)/ab)."""
    ab = np.asarray(ab, dtype=np.float64)
    return np.sqrt((1 - ab) / ab)


def alpha_bar_from_sigma(sigma: np.ndarray | float) -> np.ndarray:
    """Return 1/(1+sigma^2)."""
    return 1 / (1 + np.asarray(sigma, dtype=np.float64) ** 2)


def vp_discrete(steps: int, count: int = 1000) -> Sigmas:
    """Return `steps` levels of the discrete VP grid, largest first, then 0.

    Times are (steps-1) k, ..., k, 0 with k = count // steps, as DDS and DDIM take them: 1000 of 1000 is the full grid.
    """
    if not 1 <= steps <= count:
        raise ConfigError(f"a discrete VP grid of {count} levels cannot give {steps} steps")
    times = np.arange(steps)[::-1] * (count // steps)
    return np.append(sigma_from_alpha_bar(vp_alpha_bars(count)[times]), 0.0)


def vp_continuous(steps: int, beta_d: float = 19.9, beta_min: float = 0.1, eps: float = 1e-3) -> Sigmas:
    """Return sigma(t) = sqrt(exp(beta_d t^2/2 + beta_min t) - 1) at `steps` times from 1 to eps, then 0."""
    _check_steps(steps)
    t = np.linspace(1.0, eps, steps)
    return np.append(np.sqrt(np.expm1(0.5 * beta_d * t**2 + beta_min * t)), 0.0)


def poly_rho(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Sigmas:
    """Return the EDM grid (smax^(1/rho) + i/(n-1) (smin^(1/rho) - smax^(1/rho)))^rho, then 0."""
    _check_steps(steps)
    _check_range(sigma_min, sigma_max)
    ramp = np.linspace(0, 1, steps)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return np.append((high + ramp * (low - high)) ** rho, 0.0)


def log_spaced(steps: int, sigma_min: float = 0.01, sigma_max: float = 100.0) -> Sigmas:
    """Return geometrically spaced levels, then 0."""
    _check_steps(steps)
    _check_range(sigma_min, sigma_max)
    return np.append(np.geomspace(sigma_max, sigma_min, steps), 0.0)


def ve(steps: int) -> Sigmas:
    """Return geometrically spaced levels from 378 to 0.01, the range of the score-SDE networks, then 0."""
    return log_spaced(steps, 0.01, 378.0)


def vp_quadratic(steps: int, count: int = 1000) -> Sigmas:
    """Return discrete VP levels dense at low noise, then 0: at most `steps`, for equal ones are taken once.

    Times are count - 1 - floor(sqrt(linspace(0, count^2, steps))), the last one 0: the "quad" skip of the DiffPIR code.
    """
    _check_steps(steps)
    skipped = np.floor(np.sqrt(np.linspace(0, count**2, steps))).astype(int)
    times = np.unique(np.maximum(count - 1 - skipped, 0))[::-1]
    return np.append(sigma_from_alpha_bar(vp_alpha_bars(count)[times]), 0.0)


GRIDS: dict[str, Callable[[int], Sigmas]] = {
    "vp": vp_discrete,
    "vp-continuous": vp_continuous,
    "vp-quadratic": vp_quadratic,
    "edm": poly_rho,
    "log": log_spaced,
    "ve": ve,
}
RANGED: dict[str, Callable[[int, float, float], Sigmas]] = {"edm": poly_rho, "log": log_spaced}


def grid(name: str, steps: int) -> Sigmas:
    """Return a named grid of `steps` levels with its default range, or with that of "NAME:LOWEST:HIGHEST".

    A range close around the noise that hides the image spends the steps where they count: "edm:0.02:3".
    Raises ConfigError on an unknown name, a range that the grid cannot have, or a number of steps that it cannot have.
    """
    name, *ends = name.split(":")
    if name not in GRIDS:
        raise ConfigError(f"unknown grid '{name}'", f"choose from: {', '.join(GRIDS)}")
    if not ends:
        return GRIDS[name](steps)
    if name not in RANGED:
        raise ConfigError(f"grid '{name}' has a range of its own", f"give one to: {', '.join(RANGED)}")
    try:
        lowest, highest = map(float, ends)
    except ValueError:
        text = ":".join((name, *ends))
        raise ConfigError(
            f"grid '{text}' has no range", f"write {name}:LOWEST:HIGHEST, such as {name}:0.02:3"
        ) from None
    return RANGED[name](steps, lowest, highest)


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ConfigError(f"a grid of noise levels needs at least 1 step, got {steps}")


def _check_range(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max < float("inf"):
        raise ConfigError(f"noise levels need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
