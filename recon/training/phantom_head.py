"""Phantoms of slices through a head, in Hounsfield units over millimetres.

As all bodies here, a random drawing of tissue classes with the densities of common radiological tables (Schneider,
Pedroni and Lomax 1996); no image of a person is in it.
"""

from __future__ import annotations

import math

import numpy as np

from recon.training.phantom_parts import Scene, air_cells, blob, layers, rod, speckle, support, uneven, window
from recon.training.phantom_shapes import Outline, tube, wavy


def head(scene: Scene) -> None:
    """Paint a head: scalp, a skull of two tables with marrow between, brain, and often face bones, sinuses, orbits."""
    rng = scene.rng
    a = scene.between(60, 88)
    skin = Outline(0, 0, a, a * scene.between(1.0, 1.4), 0.0, wavy(rng, scene.between(0.01, 0.05)))
    if scene.chance(0.5):
        support(scene, skin.b + scene.between(3, 15), a * scene.between(0.8, 1.4))
    bone = uneven(rng, scene.between(4, 11), scene.between(0.1, 0.35), 1.2)
    for _ in range(int(rng.integers(0, 3))):  # sutures and holes
        bone = bone * (1 - window(scene.between(0, 2 * np.pi), scene.between(0.02, 0.2)))
    table = np.minimum(scene.between(0.8, 2.5), 0.45 * bone)
    hard = scene.between(900, 1700)
    steps = [
        (scene.between(1, 2.5), scene.between(-20, 80)),
        (
            uneven(rng, scene.between(1.5, 9), 0.4, 0.3),
            scene.between(-115, -50) if scene.chance(0.7) else scene.between(0, 60),
        ),
        (table, hard),
        (bone - 2 * table, scene.between(250, 900)),
        (table, hard * scene.between(0.85, 1.1)),
        (scene.between(0, 3), scene.between(0, 25)),
    ]
    layers(scene, skin, steps, scene.between(25, 40))
    _brain(scene, a, skin.b)
    if scene.chance(0.55):
        _face(scene, a, skin.b)


def _brain(scene: Scene, a: float, b: float) -> None:
    canvas = scene.canvas
    inside = Outline(0, 0, 0.82 * a, 0.85 * b, 0.0, wavy(scene.rng, 0.02))
    grey = scene.between(28, 40)
    inside.field(canvas, np.tanh(2 * scene.coarse) + 0.4 * scene.middle, grey, scene.between(1, 6), soft=4)
    size, gap = scene.between(4, 22), scene.between(3, 12)
    if scene.chance(0.7):
        lean = scene.between(-0.2, 0.5)
        for side in (-1, 1):
            place = (side * (gap + 0.3 * size), scene.between(-8, 8))
            horn = Outline(*place, 0.35 * size, size, -side * lean, wavy(scene.rng, 0.15))
            horn.fill(canvas, scene.between(3, 12), scene.soft())
    if scene.chance(0.5):
        tube(canvas, [(0, -0.8 * b), (scene.between(-3, 3), 0), (0, 0.8 * b)], [0.8] * 3, scene.between(40, 70))
    for _ in range(int(scene.rng.integers(0, 3))):
        values = (scene.between(5, 25), scene.between(50, 85), scene.between(100, 400))
        value = values[int(scene.rng.integers(3))]
        blob(scene, scene.between(-0.5, 0.5) * a, scene.between(-0.6, 0.6) * b, scene.between(2, 14), value, 0.2)


def _face(scene: Scene, a: float, b: float) -> None:
    """Paint what lies in front (up): orbits, nose, sinuses, teeth, jaw, and the dense base with its air cells."""
    rng, canvas = scene.rng, scene.canvas
    front = -b * scene.between(0.35, 0.75)
    for side in (-1, 1):
        if scene.chance(0.6):
            x = side * a * scene.between(0.35, 0.5)
            fat = Outline(x, front - 5, 17, scene.between(15, 24), -side * 0.35, wavy(rng, 0.08))
            layers(scene, fat, [(scene.between(0.8, 2), scene.between(300, 1000))], scene.between(-100, -60))
            eye = Outline(x, front - scene.between(5, 14), scene.between(10, 13), scene.between(10, 13))
            layers(scene, eye, [(1.0, scene.between(30, 70))], scene.between(5, 20))
            for _ in range(3):
                turn = scene.between(0, 2 * np.pi)
                tube(canvas, [(x, front + 16), fat.point(turn, 2)], [1.5, 2.0], scene.between(30, 60), soft=1)
        if scene.chance(0.6):  # the dense part of the temporal bone, with its air cells
            x, y = side * a * scene.between(0.45, 0.7), b * scene.between(-0.2, 0.2)
            stone = Outline(
                x, y, scene.between(10, 26), scene.between(5, 12), side * scene.between(0.2, 0.9), wavy(rng, 0.2)
            )
            stone.field(canvas, scene.fine + scene.middle, scene.between(600, 1300), scene.between(50, 350))
            if scene.chance(0.7):
                speckle(scene, stone, int(rng.integers(4, 30)), (0.5, 3.0), (-1000, -100))
        if scene.chance(0.4):  # cheek bone
            points = [(side * 0.45 * a, front - 14), (side * 0.85 * a, front), (side * 0.9 * a, front + 35)]
            rod(scene, points, scene.between(1.5, 4), 1.2, scene.between(0, 300))
    if scene.chance(0.7):  # nose: a cavity with plates
        width, height = scene.between(14, 34), scene.between(25, 60)
        cavity = Outline(0, front, 0.5 * width, 0.5 * height, 0.0, wavy(rng, 0.15))
        layers(scene, cavity, [(scene.between(0.6, 1.6), scene.between(100, 900))], scene.between(-1000, -850))
        for _ in range(int(rng.integers(1, 6))):
            x, y = scene.between(-0.5, 0.5) * width, front + scene.between(-0.5, 0.3) * height
            points = [
                (x, y),
                (x + scene.between(-3, 3), y + 0.2 * height),
                (x + scene.between(-3, 3), y + 0.4 * height),
            ]
            tube(canvas, points, [scene.between(0.3, 2.5)] * 3, scene.between(20, 400))
    if scene.chance(0.7):
        air_cells(scene, 0, front - scene.between(-5, 15), scene.between(30, 80), 30, int(rng.integers(2, 10)))
    if scene.chance(0.25):
        _jaw(scene, a, front)


def _jaw(scene: Scene, a: float, front: float) -> None:
    """Paint a jaw with teeth, some of them with metal."""
    rng = scene.rng
    width, height = a * scene.between(0.5, 0.75), scene.between(25, 50)
    turn = np.linspace(math.pi, 2 * math.pi, 13)
    points = [(float(width * math.cos(t)), float(front + height * math.sin(t))) for t in turn]
    rod(scene, points, scene.between(4, 7), 1.5, scene.between(100, 400))
    for x, y in points:
        if scene.chance(0.7):
            tooth = Outline(x, y, scene.between(2.5, 4.5), scene.between(2.5, 4.5), 0.0, wavy(rng, 0.1))
            hardness = 3500.0 if scene.chance(0.04) else scene.between(1500, 2800)
            layers(scene, tooth, [(scene.between(1, 2), hardness)], scene.between(900, 1700))
