"""Phantoms of slices through a chest, a belly and a pelvis, in Hounsfield units over millimetres."""

from __future__ import annotations

import math

import numpy as np

from recon.training.phantom_limbs import limb_at
from recon.training.phantom_parts import (
    Scene,
    blob,
    layers,
    marrow,
    rod,
    speckle,
    support,
    uneven,
    vertebra,
    vessel_tree,
)
from recon.training.phantom_shapes import Outline, tube, wavy


def chest(scene: Scene) -> None:
    """Paint a chest: fat and muscle, ribs, lungs with vessels, heart and great vessels, spine, couch."""
    rng = scene.rng
    cage = _trunk(scene)
    a, b = cage.a, cage.b
    layers(scene, cage, [], scene.between(-90, 40))
    density = scene.between(-900, -700)
    gap = a * scene.between(0.05, 0.25)
    for side in (-1, 1):
        width, height = 0.5 * (0.97 * a - gap), b * scene.between(0.65, 0.93)
        shape, lean = wavy(rng, scene.between(0.03, 0.12), 1.2), side * scene.between(-0.25, 0.1)
        lung = Outline(side * (gap + width), b * scene.between(-0.08, 0.1), width, height, lean, shape)
        _lung(scene, lung, density + scene.between(-30, 30), side)
    _heart(scene, a, b, gap)
    _ribs(scene, cage)
    size = scene.between(13, 20)
    vertebra(scene, scene.between(-4, 4), 0.78 * b, size)
    if scene.chance(0.6):  # breast bone
        plate = Outline(
            scene.between(-3, 3),
            -b,
            scene.between(12, 26),
            scene.between(4, 8),
            scene.between(-0.1, 0.1),
            wavy(rng, 0.1),
        )
        marrow(scene, plate, scene.between(0.8, 1.5), scene.between(300, 700), scene.between(60, 200), 25)
    for side in (-1, 1):
        if scene.chance(0.45):  # shoulder blade
            x, y = side * scene.between(0.95, 1.15) * a, b * scene.between(0.1, 0.7)
            points = [(x, y), (x - side * 22, y + 20), (x - side * scene.between(30, 50), y + scene.between(15, 40))]
            rod(scene, points, scene.between(1.5, 4), 1.2, scene.between(50, 300))


def _trunk(scene: Scene) -> Outline:
    """Paint skin, fat and muscle of a trunk, its couch and perhaps arms; return the outline of its inside."""
    rng = scene.rng
    a = scene.between(110, 200)
    body = Outline(0, 0, a, a * scene.between(0.55, 0.85), 0.0, wavy(rng, scene.between(0.02, 0.07)))
    if scene.chance(0.7):
        support(scene, body.b * scene.between(1.0, 1.1) + 3, a * scene.between(0.7, 1.2))
    if scene.chance(0.2):
        for side in (-1, 1):
            x, y = side * (a + scene.between(35, 60)), scene.between(-0.3, 0.3) * body.b
            limb_at(scene, x, y, scene.between(28, 45), 1)
    skin, fat = scene.between(1, 2.5), scene.between(-120, -80)
    thick = uneven(rng, float(rng.choice([scene.between(2, 10), scene.between(8, 30)])), 0.3, 0.5)
    wall = uneven(rng, scene.between(6, 18), 0.4, 2.0)
    layers(scene, body, [(skin, scene.between(-20, 80)), (thick, fat)], scene.between(40, 65))
    if scene.chance(0.7):  # strands of connective tissue in the fat
        for _ in range(int(rng.integers(3, 12))):
            turn = scene.between(0, 2 * np.pi)
            rise, run = scene.between(0, 12), scene.between(-0.15, 0.15)
            tube(
                scene.canvas, [body.point(turn, rise + 1), body.point(turn + run, rise + 6)], [0.5, 1.5], -20.0, soft=1
            )
    inset = skin + float(thick.mean()) + float(wall.mean())
    cage = Outline(0, scene.between(-3, 3), a - inset, body.b - inset, 0.0, wavy(rng, 0.03))
    # muscle groups parted by fat
    for _ in range(int(rng.integers(4, 14))):
        turn, run = scene.between(0, 2 * np.pi), scene.between(0.1, 0.5)
        depth = skin + float(thick.mean()) + scene.between(0.1, 0.9) * float(wall.mean())
        points = [body.point(turn + run * k / 3, depth + scene.between(-1, 1)) for k in range(4)]
        tube(scene.canvas, points, [scene.between(0.4, 1.5)] * 4, fat, soft=1)
    return cage


def _lung(scene: Scene, lung: Outline, density: float, side: int) -> None:
    """Paint one lung: denser to the back, textured, with branching vessels, dots and sometimes disease."""
    rng, canvas = scene.rng, scene.canvas
    box = lung.box(canvas)
    if box is None:
        return
    slope = scene.between(0, 120) / max(lung.b, 1)
    value = density + slope * (canvas.y[box] - np.float32(lung.y)) + scene.between(5, 25) * scene.middle[box]
    canvas.paint(box, lung.distance(canvas, box), value + scene.between(0, 25) * scene.coarse[box], scene.soft())
    hilum = (lung.x - side * 0.75 * lung.a, lung.y + scene.between(-0.2, 0.2) * lung.b)
    blood = scene.between(-100, 60) if scene.chance(0.7) else scene.between(60, 300)
    for _ in range(int(rng.integers(2, 5))):
        towards = (0.0 if side > 0 else math.pi) + scene.between(-1.3, 1.3)
        vessel_tree(scene, hilum, towards, lung.a * scene.between(0.3, 0.6), scene.between(1.5, 4.5), blood)
    speckle(scene, lung, int(rng.integers(10, 45)), (0.5, 2.2), (density, blood))
    if scene.chance(0.4):  # fissure
        points = [
            lung.point(scene.between(0, 2 * np.pi), 2),
            (lung.x, lung.y),
            lung.point(scene.between(0, 2 * np.pi), 2),
        ]
        tube(canvas, points, [0.4] * 3, density + 150)
    if scene.chance(0.35):  # bronchi
        for _ in range(int(rng.integers(1, 5))):
            spot = (hilum[0] + side * scene.between(0, 0.5) * lung.a, hilum[1] + scene.between(-0.3, 0.3) * lung.b)
            pipe = Outline(*spot, scene.between(2, 6), scene.between(2, 6), scene.between(0, math.pi))
            layers(scene, pipe, [(scene.between(0.7, 1.5), scene.between(-300, 50))], scene.between(-1000, -900))
    if scene.chance(0.2):  # consolidation, effusion or a mass
        place = lung.point(scene.between(0, 2 * np.pi), scene.between(0, 0.5) * lung.a)
        blob(scene, *place, scene.between(4, 35), scene.between(-400, 60), 0.3, scene.between(5, 120))


def _heart(scene: Scene, a: float, b: float, gap: float) -> None:
    """Paint heart, aorta, windpipe and gullet between the lungs; half the time with contrast agent in the blood."""
    rng, canvas = scene.rng, scene.canvas
    blood = scene.between(35, 60) if scene.chance(0.5) else scene.between(120, 400)
    if scene.chance(0.85):
        size = scene.between(0.25, 0.55) * b
        heart = blob(
            scene, scene.between(-0.1, 0.3) * a, scene.between(-0.5, 0.0) * b, size, scene.between(35, 110), 0.1
        )
        for _ in range(int(rng.integers(0, 5))):
            spot = (heart.x + scene.between(-0.5, 0.5) * size, heart.y + scene.between(-0.5, 0.5) * size)
            blob(scene, *spot, size * scene.between(0.2, 0.5), blood, 0.15)
    for x, y in ((0.1 * a, 0.55 * b), (scene.between(-0.1, 0.1) * a, -0.3 * b), (-0.12 * a, -0.25 * b)):
        if scene.chance(0.8):
            radius = scene.between(6, 17)
            pipe = Outline(x + scene.between(-5, 5), y + scene.between(-5, 5), radius, radius * scene.between(0.8, 1.2),
                           scene.between(0, 3), wavy(rng, 0.05))  # fmt: skip
            value = scene.between(400, 1500) if scene.chance(0.08) else blood
            pipe.field(canvas, scene.middle, value, 5, scene.soft())
            if scene.chance(0.25):  # lime in the wall
                tube(canvas, [pipe.point(1.0), pipe.point(1.4)], [1.0, 0.6], scene.between(300, 1100))
    if scene.chance(0.8):
        for x in (0.0,) if scene.chance(0.5) else (-12.0, 12.0):
            pipe = Outline(
                x + scene.between(-4, 4), scene.between(-0.1, 0.3) * b, scene.between(5, 10), scene.between(5, 9)
            )
            layers(scene, pipe, [(scene.between(0.8, 2), scene.between(0, 60))], scene.between(-1000, -950))


def _ribs(scene: Scene, cage: Outline) -> None:
    """Paint ribs along the inside of the chest wall, cut at a slant: short bent rods."""
    count = int(scene.rng.integers(6, 17))
    radius = scene.between(2.5, 5)
    inside = scene.between(50, 350)
    for turn in np.sort(scene.rng.uniform(0, 2 * np.pi, count)):
        run = scene.between(0.03, 0.3)
        depth = -radius + scene.between(-1, 1)
        points = [cage.point(float(turn) + run * k / 3, depth) for k in range(4)]
        rod(scene, points, radius * scene.between(0.7, 1.2), scene.between(0.7, 1.6), inside)


def belly(scene: Scene) -> None:
    """Paint a belly or pelvis: wall, organs in fat, bowel with gas and levels, spine or pelvic bones."""
    rng, canvas = scene.rng, scene.canvas
    cage = _trunk(scene)
    a, b = cage.a, cage.b
    layers(scene, cage, [], scene.between(-115, -85))
    agent = scene.between(0, 80) if scene.chance(0.5) else 0.0
    if scene.chance(0.65):  # liver and spleen
        blob(scene, -0.5 * a, scene.between(-0.25, 0.1) * b, 0.48 * a, scene.between(40, 65) + agent, 0.15)
        blob(scene, 0.65 * a, scene.between(0, 0.4) * b, 0.2 * a, scene.between(40, 60) + agent, 0.15)
    for side in (-1, 1):
        if scene.chance(0.6):
            kidney = Outline(side * a * scene.between(0.35, 0.6), b * scene.between(0.15, 0.5), 0.13 * a, 0.2 * a,
                             scene.between(-0.6, 0.6), wavy(rng, 0.12))  # fmt: skip
            bright = scene.between(25, 40) + 2 * agent
            layers(scene, kidney, [(scene.between(4, 9), bright)], 0.7 * bright)
            blob(scene, kidney.x - side * 4, kidney.y, 0.08 * a, scene.between(-90, 400 if agent else 20), 0.25)
        if scene.chance(0.7):  # psoas
            blob(
                scene,
                side * scene.between(0.18, 0.28) * a,
                0.55 * b,
                scene.between(0.08, 0.16) * a,
                scene.between(45, 65),
                0.1,
            )
    for _ in range(int(rng.integers(3, 16))):
        _bowel(scene, scene.between(-0.75, 0.75) * a, scene.between(-0.8, 0.3) * b, scene.between(6, 26), agent)
    for x in (-0.06 * a, 0.08 * a):
        pipe = Outline(x, 0.42 * b, scene.between(5, 13), scene.between(5, 11), 0.0, wavy(rng, 0.06))
        pipe.fill(canvas, scene.between(35, 55) + 2.5 * agent, scene.soft())
    if scene.chance(0.65):
        vertebra(scene, scene.between(-4, 4), 0.68 * b, scene.between(15, 24))
    else:
        _pelvis(scene, a, b)


def _bowel(scene: Scene, x: float, y: float, size: float, agent: float) -> None:
    """Paint a loop of bowel: a wall, contents, and perhaps gas above a level or in bubbles."""
    canvas = scene.canvas
    loop = Outline(x, y, size, size * scene.between(0.6, 1.2), scene.between(0, 3), wavy(scene.rng, 0.18))
    contents = scene.between(200, 700) if scene.chance(0.1) else scene.between(0, 50)
    layers(scene, loop, [(scene.between(1.5, 4), scene.between(30, 60) + agent)], contents)
    box = loop.box(canvas)
    if box is None:
        return
    kind = scene.rng.random()
    if kind < 0.3:  # gas above a level
        level = canvas.y[box] - np.float32(y + scene.between(-0.5, 0.6) * size)
        canvas.paint(box, np.maximum(loop.distance(canvas, box) + 2, level), scene.between(-1000, -900))
    elif kind < 0.5:  # stool
        canvas.paint(box, loop.distance(canvas, box) + 2, scene.between(-300, 0) + 150 * scene.middle[box])
        speckle(scene, loop, 8, (0.8, 3.0), (-1000, -300))


def _pelvis(scene: Scene, a: float, b: float) -> None:
    """Paint hip bones, a sacrum or thigh heads, and a bladder."""
    rng, canvas = scene.rng, scene.canvas
    if scene.chance(0.6):
        blob(scene, 0, -0.1 * b, scene.between(15, 40), scene.between(-5, 20) if scene.chance(0.7) else 300.0, 0.06)
    heads = scene.chance(0.5)
    for side in (-1, 1):
        x, y = side * scene.between(0.55, 0.75) * a, scene.between(-0.1, 0.35) * b
        if heads:
            ball = Outline(x, y, scene.between(19, 26), scene.between(19, 26), 0.0, wavy(rng, 0.03))
            rod(
                scene,
                [(x - side * 26, y - 20), (x - side * 32, y), (x - side * 24, y + 24)],
                scene.between(5, 10),
                1.5,
                250.0,
            )
            if scene.chance(0.06):
                ball.fill(canvas, 3500.0)  # an implant
            else:
                marrow(scene, ball, scene.between(0.8, 2), scene.between(500, 1000), scene.between(200, 400), 50)
        else:
            points = [(x, y - 30), (x - side * 8, y), (x - side * 30, y + 35), (x - side * 42, y + 48)]
            rod(scene, points, scene.between(5, 11), scene.between(1, 2), scene.between(80, 300))
    sacrum = Outline(0, 0.7 * b, scene.between(25, 50), scene.between(12, 25), 0.0, wavy(rng, 0.1))
    marrow(scene, sacrum, scene.between(0.8, 1.8), scene.between(350, 800), scene.between(80, 250), 40)
