"""Phantoms that look like nothing in particular: nested ellipses, polygons, bars, foams, castings. HU and mm."""

from __future__ import annotations

import math

import numpy as np

from recon.training.phantom_parts import AIR, Scene, layers, speckle, uneven
from recon.training.phantom_shapes import Outline, polygon, tube, wavy


def objects(scene: Scene) -> None:
    """Paint a random body (or none), and a random number of shapes of every kind in it."""
    rng = scene.rng
    size = scene.between(60, 130)
    home = Outline(0, 0, size, size * scene.between(0.6, 1.3), scene.between(0, 3), _any_radius(scene))
    base = _any_value(scene)
    if scene.chance(0.85):
        layers(
            scene,
            home,
            [(uneven(rng, scene.between(0.5, 12), 0.3, 0.3), _any_value(scene))] * int(rng.integers(0, 3)),
            base,
        )
    for _ in range(int(rng.integers(2, 26))):
        x, y = scene.between(-0.8, 0.8) * home.a, scene.between(-0.8, 0.8) * home.b
        reach = float(np.exp(rng.uniform(np.log(2), np.log(0.6 * size))))
        _one(scene, x, y, reach, base)


def _one(scene: Scene, x: float, y: float, reach: float, base: float) -> None:
    rng, canvas = scene.rng, scene.canvas
    shape = Outline(x, y, reach, reach * scene.between(0.25, 1), scene.between(0, math.pi), _any_radius(scene))
    value = _any_value(scene) if scene.chance(0.6) else base + scene.between(-80, 80)
    kind = rng.random()
    if kind < 0.35:
        shape.fill(canvas, value, scene.soft())
    elif kind < 0.5:
        shape.ring(canvas, scene.between(0.5, 0.35 * reach + 0.5), value, scene.soft())
    elif kind < 0.62:
        rough = (scene.fine, scene.middle, scene.coarse)[int(rng.integers(3))]
        shape.field(canvas, rough, value, float(np.exp(rng.uniform(np.log(5), np.log(200)))), scene.soft())
    elif kind < 0.7:  # foam or gravel: two materials parted by a level of a random field
        rough = (scene.middle, scene.coarse)[int(rng.integers(2))]
        sharp = np.tanh(scene.between(2, 6) * (rough - scene.between(-0.7, 0.7)))
        shape.field(canvas, sharp, 0.5 * (value + base), 0.5 * (value - base))
    elif kind < 0.78:
        shape.fill(canvas, value, scene.soft())
        speckle(scene, shape, int(rng.integers(5, 40)), (0.5, max(0.15 * reach, 0.8)), (AIR, 1200))
    elif kind < 0.9:
        turn = np.cumsum(np.append(scene.between(0, 6), rng.normal(0, 0.5, 5)))
        points = np.array([x, y]) + np.cumsum(np.stack([np.cos(turn), np.sin(turn)], 1) * reach / 3, axis=0)
        width = scene.between(0.4, 0.2 * reach + 0.5)
        tube(canvas, [(float(p), float(q)) for p, q in points], list(width * rng.uniform(0.5, 1.2, 6)), value)
    else:
        _rows(scene, x, y, reach, value)


def _rows(scene: Scene, x: float, y: float, reach: float, value: float) -> None:
    """Paint a row of equal bars, discs or holes, as in test objects."""
    count = int(scene.rng.integers(3, 9))
    step, turn = 2 * reach / count, scene.between(0, math.pi)
    width, length, bars = 0.25 * step, scene.between(0.3, 1.0) * reach, scene.chance(0.6)
    c, s = math.cos(turn), math.sin(turn)
    for k in range(count):
        along = (k - (count - 1) / 2) * step
        px, py = x + c * along, y + s * along
        if bars:
            ends = [(px - s * length, py + c * length), (px + s * length, py - c * length)]
            tube(scene.canvas, ends, [width, width], value)
        else:
            Outline(px, py, 1.4 * width, 1.4 * width).fill(scene.canvas, value)


def _any_radius(scene: Scene) -> np.ndarray | None:
    kind = scene.rng.random()
    if kind < 0.35:
        return None
    if kind < 0.65:
        return polygon(scene.rng, int(scene.rng.integers(3, 9)), scene.between(0, 1))
    return wavy(scene.rng, scene.between(0.05, 0.25))


def _any_value(scene: Scene) -> float:
    """Return a density: air, foam and lung, fat and plastics, water and tissue, bone, rarely metal."""
    kind = scene.rng.random()
    if kind < 0.2:
        return scene.between(-1000, -950)
    if kind < 0.33:
        return scene.between(-950, -300)
    if kind < 0.5:
        return scene.between(-200, 0)
    if kind < 0.78:
        return scene.between(0, 150)
    if kind < 0.97:
        return float(np.exp(scene.rng.uniform(np.log(150), np.log(1900))))
    return 3500.0
