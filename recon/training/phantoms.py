"""Random phantoms of computed tomography, drawn afresh from a random generator at any size.

A view (pixel edge, turn, flip, centre, smooth warp) of a random body is painted in Hounsfield units, then imaged: a
point spread, correlated noise, at times a sharpened look and a round field of view. Units of the prior:
    u = 2 (mu / mu_water) / WATER_TOP - 1,   mu / mu_water = 1 + HU/1000,   WATER_TOP = 2.2
so that [-1000, 1200] HU are [-1, 1]; denser bone reaches 1.8, what is denser still is clipped there (`DENSEST` HU). A
share of the crops is brightened by a gain as if the scale were only known roughly.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import gaussian_filter

from recon.training.phantom_head import head
from recon.training.phantom_limbs import limbs
from recon.training.phantom_objects import objects
from recon.training.phantom_parts import Scene, new_scene
from recon.training.phantom_shapes import Canvas
from recon.training.phantom_trunk import belly, chest

WATER_TOP = 2.2
DENSEST = 2080.0
# painter, share, width of the body in mm that the pixel size refers to
KINDS = ((head, 0.26, 150.0), (chest, 0.25, 320.0), (belly, 0.15, 320.0), (limbs, 0.1, 150.0), (objects, 0.24, 200.0))


def from_hounsfield(hu: np.ndarray) -> np.ndarray:
    """Return the prior's units of Hounsfield units, float32; what is above `DENSEST` or below -1000 is clipped."""
    return ((1 + np.clip(hu, -1000, DENSEST) / 1000) * (2 / WATER_TOP) - 1).astype(np.float32)


def reduced(image: np.ndarray, largest: int) -> np.ndarray:
    """Return an image (Y, X) averaged over the smallest square blocks that make it at most `largest` pixels a side."""
    block = -(-max(image.shape) // largest)
    height, width = (n // block for n in image.shape)
    inside = image[: height * block, : width * block].astype(np.float32)
    return np.asarray(inside.reshape(height, block, width, block).mean(axis=(1, 3)), dtype=np.float32)


def random_phantom(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random phantom (size, size), float32, in the prior's units, from -1 to 1.8; it depends on `rng` alone.

    Bodies are 80 to 360 pixels wide at any `size`, so a small crop shows parts of the same pictures.
    """
    while True:
        u = from_hounsfield(phantom_hu(size, rng))
        # empty and uniform views are mostly drawn again
        if (np.mean(u > -0.6) > 0.12 and np.std(u) > 0.08) or rng.random() < 0.07:
            break
    if rng.random() < 0.25:
        u = np.clip((u + 1) * np.exp(rng.uniform(np.log(0.8), np.log(1.6))) - 1, -1, 1.8)
    return np.asarray(u, dtype=np.float32)


def phantom_hu(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random phantom (size, size) in Hounsfield units, float32, imaged but not clipped."""
    painter, _, width = KINDS[rng.choice(len(KINDS), p=[share for _, share, _ in KINDS])]
    pixel = width / math.exp(rng.uniform(math.log(80), math.log(360)))
    canvas = _view(size, pixel, width, rng)
    scene = new_scene(canvas, rng)
    painter(scene)
    return _imaged(scene)


def _view(size: int, pixel: float, width: float, rng: np.random.Generator) -> Canvas:
    """Return an empty canvas that looks at a body of `width` mm: turned, perhaps flipped, shifted and warped."""
    turn = rng.normal(0, 0.15) if rng.random() < 0.65 else rng.uniform(0, 2 * np.pi)
    c, s = math.cos(turn), math.sin(turn)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    rotation = np.array([[c, -s], [s, c]]) * np.array([flip, 1.0])
    # a view smaller than the body looks anywhere at it; a larger one keeps it inside
    free = abs(0.5 * width - 0.5 * size * pixel) + 0.1 * width
    centre = tuple(float(v) for v in rng.uniform(-free, free, 2) * (1.0 if rng.random() < 0.8 else 0.2))
    ramp = ((np.arange(size) - (size - 1) / 2) * pixel).astype(np.float32)
    x = centre[0] + rotation[0, 0] * ramp[None, :] + rotation[1, 0] * ramp[:, None]
    y = centre[1] + rotation[0, 1] * ramp[None, :] + rotation[1, 1] * ramp[:, None]
    x, y, slack = _warped(x.astype(np.float32), y.astype(np.float32), width, rng)
    hu = np.full((size, size), -1000, dtype=np.float32)
    return Canvas(hu, x, y, pixel, rotation, (centre[0], centre[1]), slack)


def _warped(
    x: np.ndarray, y: np.ndarray, width: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """Bend the plane by two waves a coordinate, of slopes up to 0.2; return the largest displacement too."""
    moved, slack = [x, y], 0.0
    for axis in (0, 1):
        for _ in range(2):
            k = rng.uniform(1, 7) / width * np.array([np.cos(t := rng.uniform(0, 2 * np.pi)), np.sin(t)])
            amplitude = min(rng.exponential(0.05), 0.15) / max(float(np.hypot(*k)), 1e-9)
            phase = np.float32(k[0]) * x + np.float32(k[1]) * y + np.float32(rng.uniform(0, 2 * np.pi))
            moved[axis] = moved[axis] + np.float32(amplitude) * np.sin(phase)
            slack += amplitude
    return moved[0], moved[1], slack


def _imaged(scene: Scene) -> np.ndarray:
    """Return the picture as a scanner shows it: point spread, sharpening, noise, field of view."""
    rng, hu = scene.rng, np.minimum(scene.canvas.hu, 3500)
    spread = float(np.exp(rng.uniform(np.log(0.2), np.log(1.0))))
    if spread > 0.3:
        hu = gaussian_filter(hu, spread, truncate=3)
    if rng.random() < 0.2:
        hu = hu + np.float32(rng.uniform(0.1, 0.6)) * (hu - gaussian_filter(hu, rng.uniform(0.8, 1.5), truncate=3))
    level = float(np.exp(rng.uniform(np.log(1), np.log(30))))
    grain = scene.fine if rng.random() < 0.5 else rng.standard_normal(hu.shape, dtype=np.float32)
    # there is less noise where little is absorbed
    hu = hu + np.float32(level) * np.clip(1.05 + hu / 1000, 0.15, 1.2) * grain
    if rng.random() < 0.12:
        size = hu.shape[0]
        ramp = np.arange(size) - (size - 1) / 2 + rng.uniform(-0.1, 0.1) * size
        outside = ramp[None, :] ** 2 + ramp[:, None] ** 2 > (size * rng.uniform(0.42, 0.6)) ** 2
        hu = np.where(outside, np.float32(-1000), hu)
    return np.asarray(hu, dtype=np.float32)
