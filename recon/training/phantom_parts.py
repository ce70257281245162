"""Parts that several phantoms share: layers under a skin, bones, vertebrae, vessel trees, air, couches. HU and mm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from recon.training.phantom_shapes import ANGLES, STEPS, Canvas, Outline, dots, polygon, textures, tube, wavy

AIR = -1000.0
Layer = tuple[float | np.ndarray, float]


@final
@dataclass(frozen=True)
class Scene:
    """Where a phantom is painted: its canvas, its random numbers, and fields of unit variance as fine as pixels.

    fine, middle, coarse: correlated over about 1.5, 5 and 16 pixels.  blur: typical width of a slanted edge, mm.
    """

    canvas: Canvas
    rng: np.random.Generator
    fine: np.ndarray
    middle: np.ndarray
    coarse: np.ndarray
    blur: float

    def between(self, low: float, high: float) -> float:
        """Return a uniform random number."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return bool(self.rng.random() < probability)

    def soft(self) -> float:
        """Return the width of one edge: surfaces that cross the slice at a slant are blurred by its thickness."""
        return self.blur * float(self.rng.exponential())


def new_scene(canvas: Canvas, rng: np.random.Generator) -> Scene:
    """Return a scene with its fields."""
    shape = (canvas.hu.shape[0], canvas.hu.shape[1])
    fine, middle, coarse = textures(rng, shape, (0.8, 2.5, 8.0))
    return Scene(canvas, rng, fine, middle, coarse, float(rng.uniform(0.2, 2.0)))


def layers(scene: Scene, outline: Outline, steps: Sequence[Layer], core: float) -> None:
    """Paint layers of (thickness, value) from the edge of `outline` inwards, and its `core`.

    A thickness is one number in mm, or a table over `ANGLES`.
    """
    box = outline.box(scene.canvas)
    if box is None:
        return
    depth, index = outline.distance_and_angle(scene.canvas, box)
    for thickness, value in [*steps, (0.0, core)]:
        scene.canvas.paint(box, depth, value)
        depth = depth + (thickness.astype(np.float32)[index] if isinstance(thickness, np.ndarray) else thickness)


def uneven(rng: np.random.Generator, mean: float, strength: float, least: float = 0.0) -> np.ndarray:
    """Return a thickness over `ANGLES` that varies smoothly by `strength` of its mean, and is at least `least`."""
    return np.maximum(mean * (1 + 1.5 * (wavy(rng, strength, 1.0, 1) - 1)), least)


def window(centre: float, width: float) -> np.ndarray:
    """Return a table over `ANGLES` that is 1 within `width`/2 of `centre` and falls to 0 over a tenth of it."""
    away = np.abs((ANGLES - centre + np.pi) % (2 * np.pi) - np.pi)
    return np.clip((width / 2 - away) / (0.1 * width) + 0.5, 0, 1)


def marrow(scene: Scene, outline: Outline, shell: float, cortical: float, mean: float, contrast: float) -> None:
    """Paint a bone: a dense shell of thickness `shell` mm, and porous inside."""
    box = outline.box(scene.canvas)
    if box is None:
        return
    d = outline.distance(scene.canvas, box)
    scene.canvas.paint(box, d, cortical)
    inside = mean + contrast * (0.7 * scene.fine[box] + 0.7 * scene.middle[box])
    scene.canvas.paint(box, d + shell, inside, soft=0.7)


def blob(
    scene: Scene, x: float, y: float, size: float, value: float, roughness: float = 0.12, contrast: float = 6.0
) -> Outline:
    """Paint an organ-like blob of half axis about `size` mm with a faint texture; return its outline."""
    rng = scene.rng
    shape = Outline(
        x, y, size * scene.between(0.8, 1.2), size * scene.between(0.6, 1.1), scene.between(0, math.pi),
        wavy(rng, roughness),
    )  # fmt: skip
    shape.field(scene.canvas, scene.middle if scene.chance(0.5) else scene.coarse, value, contrast, scene.soft())
    return shape


def rod(scene: Scene, points: Sequence[tuple[float, float]], radius: float, shell: float, inside: float) -> None:
    """Paint a long bone in the plane: a chain of thick segments, dense outside and `inside` within."""
    radii = [radius * scene.between(0.8, 1.2) for _ in points]
    tube(scene.canvas, points, radii, scene.between(500, 1300))
    if radius > shell:
        tube(scene.canvas, points, [r - shell for r in radii], inside, soft=0.5)


def vertebra(scene: Scene, x: float, y: float, size: float, up: float = 1.0) -> None:
    """Paint a vertebra at (x, y): body, canal, arch and processes; `up` = -1 turns it over."""
    rng, canvas = scene.rng, scene.canvas
    cortical, mean = scene.between(350, 900), scene.between(120, 320)
    body_a, body_b = size * scene.between(0.9, 1.15), size * scene.between(0.6, 0.85)
    canal_y = y + up * (body_b + size * 0.38)
    arch = [(x - 0.5 * size, y + up * 0.75 * body_b), (x - 0.75 * size, canal_y), (x, canal_y + up * 0.6 * size),
            (x + 0.75 * size, canal_y), (x + 0.5 * size, y + up * 0.75 * body_b)]  # fmt: skip
    thick = size * scene.between(0.16, 0.26)
    tube(canvas, arch, [thick] * 5, cortical)
    for side in (-1, 1):
        out = (x + side * size * scene.between(1.4, 2.1), canal_y + up * size * scene.between(-0.3, 0.5))
        rod(scene, [arch[1] if side < 0 else arch[3], out], thick * scene.between(0.6, 1.1), 1.2, mean)
    spine = (x + size * scene.between(-0.1, 0.1), canal_y + up * size * scene.between(1.1, 2.2))
    rod(scene, [arch[2], spine], thick * scene.between(0.6, 1.0), 1.2, mean)
    tube(canvas, arch, [0.5 * thick] * 5, scene.between(mean, cortical), soft=0.5)
    body = Outline(x, y, body_a, body_b, scene.between(-0.1, 0.1), wavy(rng, 0.06))
    if scene.chance(0.2):  # through a disc: no shell, no marrow
        body.fill(canvas, scene.between(60, 130), scene.soft())
    else:
        marrow(scene, body, scene.between(0.8, 2.0), cortical, mean, scene.between(15, 60))
    canal = Outline(x, canal_y, size * scene.between(0.38, 0.55), size * scene.between(0.32, 0.5), 0.0, wavy(rng, 0.05))
    canal.fill(canvas, scene.between(-20, 40), scene.soft())


def vessel_tree(
    scene: Scene, start: tuple[float, float], towards: float, length: float, radius: float, value: float, depth: int = 4
) -> None:
    """Paint a branching vessel from `start` (mm) in direction `towards` (radians); thin branches fade."""
    rng = scene.rng
    pending = [(start, towards, length, radius, depth)]
    while pending:
        here, angle, reach, width, left = pending.pop()
        bend = angle + float(rng.normal(0, 0.35))
        there = (here[0] + reach * math.cos(bend), here[1] + reach * math.sin(bend))
        tube(scene.canvas, [here, there], [width, 0.8 * width], value)
        if left > 1:
            for side in (-1, 1):
                if scene.chance(0.8):
                    turn = bend + side * scene.between(0.2, 0.8)
                    pending.append(
                        (there, turn, reach * scene.between(0.5, 0.9), width * scene.between(0.5, 0.8), left - 1)
                    )


def speckle(
    scene: Scene, outline: Outline, count: int, radii: tuple[float, float], values: tuple[float, float]
) -> None:
    """Paint `count` dots inside an outline, with radii (log-uniform, mm) and values (uniform) from their ranges."""
    rng = scene.rng
    turn, share = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.random(count))
    edge = np.ones(STEPS) if outline.radius is None else outline.radius
    reach = 0.93 * share * edge[(turn * STEPS / (2 * np.pi)).astype(int)]
    u, v = outline.a * reach * np.cos(turn), outline.b * reach * np.sin(turn)
    c, s = math.cos(outline.angle), math.sin(outline.angle)
    centres = np.stack([outline.x + c * u - s * v, outline.y + s * u + c * v], axis=1)
    dots(
        scene.canvas,
        centres,
        np.exp(rng.uniform(math.log(radii[0]), math.log(radii[1]), count)),
        rng.uniform(*values, count),
    )


def air_cells(scene: Scene, x: float, y: float, width: float, height: float, count: int) -> None:
    """Paint `count` air cavities with thin bony walls within a box around (x, y), mm."""
    for _ in range(count):
        size = scene.between(0.12, 0.35) * min(width, height)
        shape = wavy(scene.rng, 0.12) if scene.chance(0.6) else polygon(scene.rng, int(scene.rng.integers(4, 8)))
        cell = Outline(
            x + scene.between(-0.5, 0.5) * width, y + scene.between(-0.5, 0.5) * height,
            size * scene.between(0.6, 1.3), size * scene.between(0.6, 1.3), scene.between(0, math.pi), shape,
        )  # fmt: skip
        layers(scene, cell, [(scene.between(0.5, 1.5), scene.between(50, 800))], scene.between(-1000, -900))


def support(scene: Scene, below: float, half: float) -> None:
    """Paint a couch or head rest: thin arcs or plates under (or above) the body at distance `below`, foam between."""
    rng, canvas = scene.rng, scene.canvas
    bend = scene.between(-0.1, 0.45)
    turn = np.linspace(-1, 1, 13)
    arc = [(float(half * t), float(below - bend * half * t * t)) for t in turn]
    value, thick = scene.between(-200, 600), scene.between(0.4, 2.0)
    tube(canvas, arc, [thick] * len(arc), value)
    if scene.chance(0.5):
        gap = scene.between(4, 25)
        tube(canvas, [(x, y + gap) for x, y in arc], [thick] * len(arc), value)
    if scene.chance(0.4):
        shape = Outline(
            scene.between(-0.5, 0.5) * half, below - 4, half * scene.between(0.3, 1), 12.0, 0.0, wavy(rng, 0.2)
        )
        box = shape.box(canvas)
        if box is not None:
            foam = np.where(canvas.hu[box] < -950, shape.distance(canvas, box), 100.0)
            canvas.paint(box, foam, scene.between(-990, -930) + 15 * scene.middle[box])
    if scene.chance(0.3):
        x = scene.between(-half, half)
        wire = [(x, below), (x + scene.between(-15, 15), below + scene.between(-15, 15)), (x + 25, below - 10)]
        tube(canvas, wire, [scene.between(0.4, 1.5)] * 3, scene.between(-500, 800))
