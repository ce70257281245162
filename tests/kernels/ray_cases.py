"""Random scans, and line integrals that are known exactly, for the tests of the projectors."""

import math

import numpy as np
from hypothesis import strategies as st

from recon.kernels.parallel import ParallelGeometry, directions
from recon.kernels.scans import ConeGeometry, FanGeometry

angles = st.lists(
    st.one_of(st.floats(-400, 400), st.sampled_from([0, 30, 45, 60, 90, 135, 180, 270])), min_size=1, max_size=5
)


@st.composite
def parallel(draw):
    return ParallelGeometry(
        (draw(st.integers(1, 40)), draw(st.integers(1, 40))),
        np.array(draw(angles), float),
        draw(st.integers(1, 60)),
        draw(st.one_of(st.just(1.0), st.floats(0.3, 3))),
        draw(st.one_of(st.just(0.0), st.floats(-9, 9))),
        draw(st.floats(0.1, 10)),
    )


@st.composite
def fans(draw):
    shape, size = (draw(st.integers(1, 40)), draw(st.integers(1, 40))), draw(st.floats(0.1, 3))
    source = size * math.hypot(shape[0] + 1, shape[1] + 1) / 2 * draw(st.floats(1.05, 6))
    return FanGeometry(
        shape,
        np.array(draw(angles), float),
        draw(st.integers(1, 50)),
        size * draw(st.floats(0.3, 3)),
        source,
        source * draw(st.floats(1.1, 3)),
        size,
        size * draw(st.floats(-5, 5)),
        draw(st.booleans()),
    )


@st.composite
def cones(draw):
    fan = draw(fans())
    slices, rows = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    thickness = draw(st.floats(0.2, 3))
    steepest = 0.9 * fan.detector_distance / (rows + 2)
    return ConeGeometry(
        (slices, *fan.shape),
        fan.angles,
        (rows, fan.detectors),
        (min(steepest, thickness * draw(st.floats(0.3, 3))), fan.pitch),
        fan.source_distance,
        fan.detector_distance,
        fan.pixel_size,
        thickness,
        (0.4 * thickness, fan.offset),
    )


def ball(shape, radius, centre, supersampling=3):
    """An antialiased ball of density 1 in any number of dimensions: shape and centre in array order, y downwards."""
    fine = (np.arange(supersampling) + 0.5) / supersampling - 0.5
    axes = [(np.add.outer(np.arange(n), fine) - (n - 1) / 2).ravel() - c for n, c in zip(shape, centre, strict=True)]
    inside = sum(a**2 for a in np.meshgrid(*axes, indexing="ij", sparse=True)) < radius**2
    split = [n for size in shape for n in (size, supersampling)]
    return inside.reshape(split).mean(tuple(range(1, 2 * len(shape), 2)))


def chords(geometry, radius, centre):
    """Exact integrals in mm through a ball, its radius and centre (x, y, z) in mm: as the scan orders its detectors."""
    cone = isinstance(geometry, ConeGeometry)
    fan = geometry.fan() if cone else geometry
    rows = geometry.row_axis() if cone else np.zeros(1)
    found = []
    for cos, sin in zip(*directions(fan.angles), strict=True):
        along, across, up = np.array([-sin, cos, 0]), np.array([cos, sin, 0]), np.array([0, 0, 1])
        gamma = fan.fan_angles()[:, None]
        if fan.curved:
            ray = np.cos(gamma) * along + np.sin(gamma) * across
        else:
            ray = fan.detector_distance * along + fan.detector_axis()[:, None] * across
        ray = ray + rows[:, None, None] * up
        ray = ray / np.linalg.norm(ray, axis=-1, keepdims=True)
        distance = np.linalg.norm(np.cross(ray, np.array(centre) + fan.source_distance * along), axis=-1)
        found.append(2 * np.sqrt(np.maximum(radius**2 - distance**2, 0)))
    return np.stack(found) if cone else np.stack(found)[:, 0]
