"""What phantoms are painted with: outlines given by a radius over the angle, tubes and dots, with anti-aliased edges.

An outline is {c + Q diag(a, b) u : |u| <= r(angle of u)} with Q a rotation: an ellipse for r = 1, a polygon or a smooth
blob for other r. Distances are first order, d = f/|grad f| with f = |u| - r. A shape of value v covers a pixel of edge
p by clip(1/2 - d/p, 0, 1), its share inside a straight edge along an axis, and h becomes h + cover (v - h).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

Box = tuple[slice, slice]
Value = float | np.ndarray

STEPS = 1024
ANGLES = np.arange(STEPS) * (2 * np.pi / STEPS)
HARMONICS = 12
COSINES = np.cos(np.arange(1, HARMONICS + 1)[:, None] * ANGLES)
SINES = np.sin(np.arange(1, HARMONICS + 1)[:, None] * ANGLES)


@final
@dataclass(frozen=True)
class Canvas:
    """An image in Hounsfield units that is painted in place.

    hu: (Y, X) float32.  x, y: place of each pixel in mm, after view and warp, (Y, X) float32.  pixel: its edge in mm.
    rotation: (2, 2), from mm to pixel directions (x, y).  centre: place in mm of the middle of the image.
    slack: largest displacement by the warp, mm.
    """

    hu: np.ndarray
    x: np.ndarray
    y: np.ndarray
    pixel: float
    rotation: np.ndarray
    centre: tuple[float, float]
    slack: float = 0.0

    def box(self, x: float, y: float, reach: float) -> Box | None:
        """Return the pixels within `reach` mm of (x, y), or None if there are none."""
        dx, dy = x - self.centre[0], y - self.centre[1]
        height, width = self.hu.shape
        column = (self.rotation[0, 0] * dx + self.rotation[0, 1] * dy) / self.pixel + (width - 1) / 2
        row = (self.rotation[1, 0] * dx + self.rotation[1, 1] * dy) / self.pixel + (height - 1) / 2
        far = (reach + self.slack) / self.pixel + 1
        top, bottom = max(math.floor(row - far), 0), min(math.ceil(row + far) + 1, height)
        left, right = max(math.floor(column - far), 0), min(math.ceil(column + far) + 1, width)
        return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None

    def paint(self, box: Box, distance: np.ndarray, value: Value, soft: float = 0.0, opacity: float = 1.0) -> None:
        """Give `value` to what lies at negative `distance` (mm). soft: width of the edge in mm, at least one pixel."""
        cover = np.clip(0.5 - distance / max(self.pixel, soft), 0, opacity)
        part = self.hu[box]
        part += cover * (value - part)


def plain_canvas(height: int, width: int, pixel: float, background: float = -1000.0) -> Canvas:
    """Return an unrotated canvas whose middle is (0, 0) mm, x to the right and y down."""
    rows = (np.arange(height, dtype=np.float32) - (height - 1) / 2) * np.float32(pixel)
    columns = (np.arange(width, dtype=np.float32) - (width - 1) / 2) * np.float32(pixel)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    hu = np.full((height, width), background, dtype=np.float32)
    return Canvas(hu, x, y, pixel, np.eye(2), (0.0, 0.0))


@final
@dataclass(frozen=True)
class Outline:
    """A star-shaped region: centre, half axes (mm), angle of the first axis, and the radius r over `ANGLES`."""

    x: float
    y: float
    a: float
    b: float
    angle: float = 0.0
    radius: np.ndarray | None = None

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        radius = np.ones(STEPS) if self.radius is None else self.radius
        slope = (np.roll(radius, -1) - np.roll(radius, 1)) * (STEPS / (4 * np.pi))
        return radius.astype(np.float32), slope.astype(np.float32)

    @property
    def reach(self) -> float:
        """Largest distance of its edge from the centre, mm."""
        return max(self.a, self.b) * (1.0 if self.radius is None else float(self.radius.max()))

    def point(self, angle: float, depth: float = 0.0) -> tuple[float, float]:
        """Return the point of the edge at an angle of the unit circle, `depth` mm nearer to the centre."""
        r = 1.0 if self.radius is None else float(self.radius[int(angle * STEPS / (2 * math.pi)) % STEPS])
        u, v = self.a * r * math.cos(angle), self.b * r * math.sin(angle)
        shrink = max(1 - depth / max(math.hypot(u, v), 1e-6), 0.0)
        c, s = math.cos(self.angle), math.sin(self.angle)
        return self.x + shrink * (c * u - s * v), self.y + shrink * (s * u + c * v)

    def box(self, canvas: Canvas, beyond: float = 0.0) -> Box | None:
        """Return the pixels that it can touch."""
        return canvas.box(self.x, self.y, self.reach + beyond)

    def distance(self, canvas: Canvas, box: Box) -> np.ndarray:
        """Return the signed distance in mm from its edge to first order, negative inside."""
        return self.distance_and_angle(canvas, box)[0]

    def distance_and_angle(self, canvas: Canvas, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Return the signed distance, and the index into `ANGLES` of each pixel."""
        dx, dy = canvas.x[box] - np.float32(self.x), canvas.y[box] - np.float32(self.y)
        c, s = math.cos(self.angle), math.sin(self.angle)
        u = np.float32(c / self.a) * dx + np.float32(s / self.a) * dy
        v = np.float32(c / self.b) * dy - np.float32(s / self.b) * dx
        rho = np.sqrt(u * u + v * v) + np.float32(1e-6)
        index = (np.arctan2(v, u) * np.float32(STEPS / (2 * np.pi))).astype(np.int32) % STEPS
        radius, slope = self._tables
        u, v, turn = u / rho, v / rho, slope[index] / rho
        gx, gy = (u + turn * v) * np.float32(1 / self.a), (v - turn * u) * np.float32(1 / self.b)
        # f is not smooth at the centre, where |grad f| grows without bound if r varies
        steepest = np.float32(4 / min(self.a, self.b))
        return (rho - radius[index]) / np.minimum(np.sqrt(gx * gx + gy * gy), steepest), index

    def fill(self, canvas: Canvas, value: float, soft: float = 0.0, opacity: float = 1.0) -> None:
        """Paint its inside."""
        box = self.box(canvas, soft)
        if box is not None:
            canvas.paint(box, self.distance(canvas, box), value, soft, opacity)

    def ring(self, canvas: Canvas, thickness: float, value: float, soft: float = 0.0) -> None:
        """Paint what lies less than `thickness` mm inside its edge; thin rings keep their integral."""
        box = self.box(canvas, soft)
        if box is None:
            return
        d = self.distance(canvas, box)
        edge = max(canvas.pixel, soft)
        cover = np.clip(0.5 - d / edge, 0, 1) - np.clip(0.5 - (d + thickness) / edge, 0, 1)
        part = canvas.hu[box]
        part += cover * (value - part)

    def field(self, canvas: Canvas, texture: np.ndarray, mean: float, contrast: float, soft: float = 0.0) -> None:
        """Paint its inside with mean + contrast * texture, where `texture` (Y, X) covers the canvas."""
        box = self.box(canvas, soft)
        if box is not None:
            canvas.paint(box, self.distance(canvas, box), mean + contrast * texture[box], soft)


def wavy(rng: np.random.Generator, strength: float, decay: float = 1.5, first: int = 2) -> np.ndarray:
    """Return a radius 1 + sum_k (c_k cos k t + s_k sin k t), k >= `first`, with E c_k^2 ~ strength^2 k^(-2 decay)."""
    order = np.arange(1, HARMONICS + 1, dtype=float)
    scale = np.where(order < first, 0.0, strength * (order / first) ** -decay)
    c, s = rng.standard_normal((2, HARMONICS)) * scale
    return np.maximum(1 + c @ COSINES + s @ SINES, 0.3)


def polygon(rng: np.random.Generator, corners: int, irregular: float = 0.6) -> np.ndarray:
    """Return the radius of a convex polygon around its centre: min over its edges of h / cos(t - t_edge)."""
    turn = 2 * np.pi / corners
    normals = (np.arange(corners) + irregular * rng.uniform(-0.5, 0.5, corners)) * turn + rng.uniform(0, 2 * np.pi)
    heights = rng.uniform(1 - 0.4 * irregular, 1, corners)
    facing = np.cos(ANGLES - normals[:, None])
    reach = np.where(facing > 1e-3, heights[:, None] / np.maximum(facing, 1e-3), np.inf)
    return np.minimum(reach.min(axis=0), 3.0)


def tube(
    canvas: Canvas, points: Sequence[tuple[float, float]], radii: Sequence[float], value: float, soft: float = 0.0
) -> None:
    """Paint a chain of segments through `points` (mm) whose radius goes linearly from each of `radii` to the next."""
    for (px, py), (qx, qy), r, s in zip(points, points[1:], radii, radii[1:], strict=False):
        length = math.hypot(qx - px, qy - py)
        box = canvas.box((px + qx) / 2, (py + qy) / 2, length / 2 + max(r, s) + soft)
        if box is None or length == 0:
            continue
        dx, dy = canvas.x[box] - np.float32(px), canvas.y[box] - np.float32(py)
        ex, ey = (qx - px) / length, (qy - py) / length
        along = np.clip(dx * np.float32(ex) + dy * np.float32(ey), 0, np.float32(length))
        off = np.hypot(dx - along * np.float32(ex), dy - along * np.float32(ey))
        radius = np.float32(r) + along * np.float32((s - r) / length)
        edge = max(canvas.pixel, soft)
        # across a line thinner than a pixel the cover keeps the integral
        cover = np.clip((radius - off) / edge + 0.5, 0, np.minimum(1, 2 * radius / edge))
        part = canvas.hu[box]
        part += cover * (value - part)


def dots(canvas: Canvas, centres: np.ndarray, radii: np.ndarray, values: np.ndarray) -> None:
    """Paint discs: centres (N, 2) as (x, y) and radii (N,) in mm, values (N,)."""
    for (x, y), radius, value in zip(centres, radii, values, strict=True):
        box = canvas.box(float(x), float(y), float(radius))
        if box is not None:
            d = np.hypot(canvas.x[box] - np.float32(x), canvas.y[box] - np.float32(y)) - np.float32(radius)
            share = min(1.0, math.pi * (float(radius) / canvas.pixel) ** 2)
            canvas.paint(box, d, float(value), opacity=share)


def textures(rng: np.random.Generator, shape: tuple[int, int], scales: Sequence[float]) -> list[np.ndarray]:
    """Return Gaussian fields (Y, X) float32 of mean 0 and variance 1, one for each correlation length in pixels.

    Spectrum k^2 exp(-(k l)^2): band-limited around the wave length 2 pi l, without a constant.
    """
    fy = np.fft.fftfreq(shape[0]).astype(np.float32)[:, None] * np.float32(2 * np.pi)
    fx = np.fft.rfftfreq(shape[1]).astype(np.float32)[None, :] * np.float32(2 * np.pi)
    square = fy**2 + fx**2
    found = []
    for scale in scales:
        amplitude = np.sqrt(square) * np.exp(np.float32(-0.5 * scale**2) * square)
        white = rng.standard_normal((2, *amplitude.shape), dtype=np.float32)
        field = np.fft.irfft2(amplitude * (white[0] + 1j * white[1]), s=shape).astype(np.float32)
        found.append(field / max(float(field.std()), 1e-12))
    return found
