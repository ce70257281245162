"""Phantoms of slices through limbs, in Hounsfield units over millimetres."""

from __future__ import annotations

import numpy as np

from recon.training.phantom_parts import AIR, Layer, Scene, blob, layers, marrow, support, uneven
from recon.training.phantom_shapes import Outline, tube, wavy


def limbs(scene: Scene) -> None:
    """Paint one to three limbs side by side."""
    count = int(scene.rng.integers(1, 4))
    size = scene.between(50, 85) / (1 if count == 1 else 1.5)
    if scene.chance(0.4):
        support(scene, size + scene.between(2, 10), size * scene.between(1, 2.5))
    for k in range(count):
        x = (k - (count - 1) / 2) * size * scene.between(2.02, 2.5)
        limb_at(scene, x, scene.between(-0.2, 0.2) * size, size * scene.between(0.85, 1), int(scene.rng.integers(1, 3)))


def limb_at(scene: Scene, x: float, y: float, size: float, bones: int) -> None:
    """Paint a limb of radius about `size` mm: skin, fat, muscles parted by fat, bones, vessels."""
    rng, canvas = scene.rng, scene.canvas
    skin = Outline(
        x, y, size, size * scene.between(0.75, 1.1), scene.between(0, 3), wavy(rng, scene.between(0.02, 0.1))
    )
    fat, muscle = scene.between(-120, -80), scene.between(45, 70)
    steps: list[Layer] = [
        (scene.between(1, 2), scene.between(-20, 80)),
        (uneven(rng, scene.between(0.03, 0.3) * size, 0.3, 0.5), fat),
    ]
    layers(scene, skin, steps, muscle)
    for _ in range(int(rng.integers(3, 9))):
        turn = scene.between(0, 2 * np.pi)
        start, bend = skin.point(turn, scene.between(0.1, 0.3) * size), scene.between(-0.4, 0.4)
        end = skin.point(turn + bend, scene.between(0.5, 1.0) * size)
        tube(canvas, [start, end], [scene.between(0.4, 2.0), scene.between(0.4, 1.5)], fat, soft=1)
    for _ in range(int(rng.integers(2, 7))):
        place = skin.point(scene.between(0, 2 * np.pi), scene.between(0.3, 0.9) * size)
        blob(
            scene,
            *place,
            scene.between(1.5, 4),
            scene.between(30, 60) if scene.chance(0.7) else scene.between(100, 400),
        )
    for k in range(bones):
        radius = size * scene.between(0.15, 0.32) / (1 if bones == 1 else 1.3)
        place = (x + (k - (bones - 1) / 2) * size * scene.between(0.5, 0.8) + scene.between(-0.15, 0.15) * size,
                 y + scene.between(-0.2, 0.2) * size)  # fmt: skip
        bone = Outline(*place, radius, radius * scene.between(0.75, 1.2), scene.between(0, 3), wavy(rng, 0.1))
        if scene.chance(0.6):  # shaft
            layers(scene, bone, [(uneven(rng, radius * scene.between(0.15, 0.5), 0.2, 0.8), scene.between(1100, 1800))],
                   scene.between(-80, 100))  # fmt: skip
        else:  # near a joint
            marrow(scene, bone, scene.between(0.6, 2), scene.between(400, 1000), scene.between(80, 350), 60)
        if scene.chance(0.04):
            Outline(*place, 0.5 * radius, 0.5 * radius).fill(canvas, 3500.0)
    if scene.chance(0.05):
        blob(scene, x, y, 0.2 * size, AIR, 0.3)
