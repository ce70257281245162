"""Cartesian sampling masks of k-space, centred (index n // 2 is zero frequency), as functions of a generator.

Lines (1-D): "uniform" (evenly spaced with a random offset), "random", "gaussian" (denser in the centre), and those of
DDS, "dds-random" and "dds-gaussian".
Points (2-D): "gaussian2d", "poisson" (variable-density Poisson disc), and those of DDS, "dds-random2d" and
"dds-gaussian2d".
All but those of DDS, which draw with replacement, sample exactly round(n / acceleration) of n lines or points, at least
one; the count includes the fully sampled centre (ACS).
Source of the masks of DDS (Chung et al., ICLR 2024): the authors' code, which took them over from score-MRI.
"""

from __future__ import annotations

import math

import numpy as np

from recon.errors import ConfigError

LINES = ("uniform", "random", "gaussian", "dds-random", "dds-gaussian")
PLANES = ("gaussian2d", "poisson", "dds-random2d", "dds-gaussian2d")

LINE_WIDTH = 15 / 128  # standard deviations as fractions of the size, as published with DDS
PLANE_WIDTH = math.sqrt(1.5 / 128)
DDS_DRAWS = 1.2  # of "dds-gaussian", as several fall on one line
DISC_GROWTH = 4.0  # Poisson-disc radius at the middle of an edge, relative to 1 + that of the centre


def line_mask(kind: str, n: int, acceleration: float, acs: int | float, rng: np.random.Generator) -> np.ndarray:
    """Return which of n lines are sampled, bool (n,).

    kind: one of LINES.  acceleration: n / number of lines.  acs: full lines in the centre, a number (int) or a
    fraction of n (float, rounded).
    "dds-random" is the published uniform1d mask: int(acs n) centre lines and n // acceleration - ACS draws with
    replacement, so that fewer lines than requested are sampled. "dds-gaussian" is gaussian1d: the centre, and
    int(1.2 (n // acceleration)) normal draws of standard deviation 15/128 n about n // 2.
    Raises ConfigError on an unknown kind, or where the centre alone has more lines than the acceleration allows.
    """
    if kind == "dds-gaussian":
        centre = _centre(n, acs if isinstance(acs, int) else int(acs * n))
        centre[_whole(rng.normal(n // 2, n * LINE_WIDTH, int(int(n // acceleration) * DDS_DRAWS)), n)] = True
        return centre
    if kind == "dds-random":
        centre = _centre(n, acs if isinstance(acs, int) else int(acs * n))
        draws = int(n // acceleration) - int(centre.sum())
        _check_centre(int(centre.sum()), int(n // acceleration), acceleration)
        centre[rng.choice(n, draws)] = True
        return centre
    mask = _centre(n, _count(acs, n))
    total = max(1, round(n / acceleration))
    _check_centre(int(mask.sum()), total, acceleration)
    outside = np.flatnonzero(~mask)
    missing = total - int(mask.sum())
    if kind == "uniform":
        picked = outside[((np.arange(missing) + rng.random()) * (len(outside) / max(missing, 1))).astype(int)]
    elif kind == "random":
        picked = rng.choice(outside, missing, replace=False)
    elif kind == "gaussian":
        picked = _weighted(outside, -(((outside - n // 2) / (n * LINE_WIDTH)) ** 2) / 2, missing, rng)
    else:
        raise ConfigError(f"unknown line mask '{kind}'", f"one of: {', '.join(LINES)}")
    mask[picked] = True
    return mask


def plane_mask(
    kind: str, shape: tuple[int, int], acceleration: float, acs: int | float, rng: np.random.Generator
) -> np.ndarray:
    """Return which points of the plane are sampled, bool (Y, X).

    kind: one of PLANES.  acs: sides of the full rectangle in the centre, in points (int) or as a fraction of each side.
    "gaussian2d" draws without replacement with a density of standard deviation 0.108 of each side. "poisson" keeps
    samples apart by a radius that grows fivefold from the centre to the edge's middle, and then removes the surplus.
    "dds-random2d" and "dds-gaussian2d" are the published uniformrandom2d and gaussian2d: size // acceleration draws
    with replacement, even or normal with that standard deviation, and no full centre whatever acs is.
    Raises ConfigError as `line_mask` does.
    """
    if kind.startswith("dds-") and kind in PLANES:
        return _drawn_points(kind, shape, int(shape[0] * shape[1] // acceleration), rng)
    mask = np.logical_and.outer(*(_centre(n, _count(acs, n)) for n in shape))
    total = max(1, round(mask.size / acceleration))
    _check_centre(int(mask.sum()), total, acceleration)
    ky, kx = ((np.arange(n) - n // 2) / n for n in shape)
    square = np.add.outer(ky**2, kx**2)
    if kind == "gaussian2d":
        outside = np.flatnonzero(~mask)
        log_density = -square.ravel()[outside] / (2 * PLANE_WIDTH**2)
        mask.flat[_weighted(outside, log_density, total - int(mask.sum()), rng)] = True
    elif kind == "poisson":
        discs = _poisson_discs(mask, 1 + DISC_GROWTH * 2 * np.sqrt(square), total, rng)
        surplus = np.flatnonzero(discs & ~mask)
        mask.flat[rng.choice(surplus, total - int(mask.sum()), replace=False)] = True
    else:
        raise ConfigError(f"unknown plane mask '{kind}'", f"one of: {', '.join(PLANES)}")
    return mask


def _drawn_points(kind: str, shape: tuple[int, int], draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return the points of so many draws, of which some may fall on one point; at least one point."""
    mask = np.zeros(shape, bool)
    if kind == "dds-random2d":
        mask.flat[rng.choice(mask.size, max(draws, 1))] = True
        return mask
    middle, variances = [n // 2 for n in shape], [(n * PLANE_WIDTH) ** 2 for n in shape]
    points = rng.multivariate_normal(middle, np.diag(variances), max(draws, 1))
    mask[tuple(_whole(p, n) for p, n in zip(points.T, shape, strict=True))] = True
    return mask


def _whole(places: np.ndarray, n: int) -> np.ndarray:
    """Return places as indices of n, rounded towards 0, those beyond the ends at the ends."""
    return np.clip(places.astype(int), 0, n - 1)


def _poisson_discs(centre: np.ndarray, growth: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Return the centre and points around it, at least `total` in all and mostly within 1 % of it.

    Outside the centre any two points are at least as far apart as the smaller of their radii, scale * growth; the
    scale is searched for with the same order of throws.
    """
    order = rng.permutation(np.flatnonzero(~centre))
    low, high, scale = 0.0, math.inf, math.sqrt(centre.size / total) / float(growth.mean())
    best = np.ones_like(centre)
    for _ in range(20):
        discs = centre | _throw(order, scale * growth)
        count = int(discs.sum())
        if count >= total:
            low = scale
            best = discs if count < best.sum() else best
            if count <= 1.01 * total + 1:
                break
        else:
            high = scale
        guess = scale * math.sqrt(count / (1.005 * total))
        scale = guess if low < guess < high else (low + min(high, 4 * low + 1)) / 2
    return best


def _throw(order: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Throw darts at the flat indices in `order`; each stays if it is nearer to none before than that one's radius."""
    reached = np.maximum(np.ceil(radius**2).astype(int) - 1, 0)  # largest squared distance below the radius
    reach = math.isqrt(int(reached.max()))
    offsets = np.arange(-reach, reach + 1)
    distance = np.add.outer(offsets**2, offsets**2)
    discs = {}
    for square in np.unique(reached).tolist():
        inner = slice(reach - math.isqrt(square), reach + math.isqrt(square) + 1)
        discs[square] = (math.isqrt(square), distance[inner, inner] <= square)

    taken: np.ndarray = np.zeros([n + 2 * reach for n in radius.shape], bool)  # with a margin for the discs
    kept = np.zeros(radius.size, bool)
    rows, columns = np.divmod(order, radius.shape[1])
    for index, row, column, square in zip(
        *(a.tolist() for a in (order, rows + reach, columns + reach, reached.ravel()[order])), strict=True
    ):
        if not taken.item(row, column):
            kept[index] = True
            r, disc = discs[square]
            taken[row - r : row + r + 1, column - r : column + r + 1] |= disc
    return kept.reshape(radius.shape)


def _weighted(items: np.ndarray, log_density: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` of the items without replacement, one after another by their density (the Gumbel top-k draw)."""
    keys = log_density + rng.gumbel(size=len(items))
    return items[np.argsort(keys)[len(items) - count :]]


def _count(acs: int | float, n: int) -> int:
    return min(acs, n) if isinstance(acs, int) else round(acs * n)


def _centre(n: int, count: int) -> np.ndarray:
    mask = np.zeros(n, bool)
    first = n // 2 - count // 2
    mask[first : first + count] = True
    return mask


def _check_centre(centre: int, total: int, acceleration: float) -> None:
    if centre > total:
        raise ConfigError(
            f"{centre} centre samples do not fit acceleration {acceleration:g}, which leaves {total} in all",
            "lower acs or acceleration",
        )
