"""Rays and their matrix: against the pixel-driven matrix, exact line integrals, and the limit of a distant source."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from ray_cases import ball, chords, cones, fans, parallel

from recon.kernels.parallel import ParallelGeometry, projection_matrix
from recon.kernels.reference import matrix_of
from recon.kernels.scans import ConeGeometry, FanGeometry


@settings(max_examples=25, deadline=None)
@given(geometry=parallel())
def test_parallel_rays_give_the_matrix_written_down_by_pixels(geometry):
    by_pixel, _ = projection_matrix(geometry, np.float64)
    gap = matrix_of(geometry.rays(), np.float64) - by_pixel
    assert abs(gap).max() < 1e-9 * geometry.pixel_size


@pytest.mark.parametrize("curved", [False, True])
def test_a_distant_source_gives_parallel_rays(curved):
    angles = np.arange(12) * 30.0
    far = FanGeometry((11, 14), angles, 21, 0.9 * 1.5, 1e6, 1.5e6, 1.0, 0.3 * 1.5, curved)
    near = ParallelGeometry((11, 14), angles, 21, 0.9, 0.3)
    image = np.random.default_rng(0).normal(size=11 * 14)
    gap = (matrix_of(far.rays(), np.float64) - matrix_of(near.rays(), np.float64)) @ image
    assert np.abs(gap).max() < 1e-3


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize("size", [1.0, 0.4])
def test_fan_integrals_of_a_disc_within_one_percent(curved, size):
    geometry = FanGeometry(
        (128, 128), np.arange(24) * 15.0, 190, 1.6 * size, 250 * size, 400 * size, size, 0.7 * size, curved
    )
    y = matrix_of(geometry.rays()) @ ball((128, 128), 40, (6, 10)).ravel()
    exact = chords(geometry, 40 * size, (10 * size, -6 * size, 0))
    assert np.linalg.norm(y.reshape(exact.shape) - exact) < 0.01 * np.linalg.norm(exact)


@pytest.mark.slow
def test_cone_integrals_of_a_ball_fall_to_their_exact_values():
    errors = []
    for scale in (1, 2):
        shape = (20 * scale, 32 * scale, 30 * scale)
        geometry = ConeGeometry(
            shape, np.arange(5) * 72.0, (26 * scale, 44 * scale), (1.5, 1.6), 70 * scale, 110 * scale
        )
        y = matrix_of(geometry.rays()) @ ball(shape, 8 * scale, (scale, -2 * scale, 3 * scale)).ravel()
        exact = chords(geometry, 8 * scale, (3 * scale, 2 * scale, scale))
        errors.append(np.linalg.norm(y.reshape(exact.shape) - exact) / np.linalg.norm(exact))
    assert errors[1] < 0.03 and errors[1] < 0.6 * errors[0]


@settings(max_examples=30, deadline=None)
@given(geometry=fans())
def test_positions_grow_with_the_detector_where_a_segment_says_so(geometry):
    rays = geometry.rays()
    segments, first = rays.segments()
    assert (np.diff(first) >= 1).all() and first[-1] == len(segments)
    covered = sum(s["last"] - s["first"] for s in segments)
    assert covered == rays.views * rays.detectors
    for s in segments:
        chosen = s["view"], slice(s["first"], s["last"])
        width = rays.shape[1 - s["axis"]]
        lines = np.arange(rays.shape[s["axis"]])[:, None]
        position = rays.start[chosen] + lines * rays.slope[chosen]
        step = np.diff(position, axis=1) * (1 if s["rising"] else -1)
        inside = (position > -1) & (position < width)
        assert (step[inside[:, 1:] | inside[:, :-1]] > -1e-9).all()
        assert (rays.axis[chosen] == s["axis"]).all() and (np.abs(rays.slope[chosen]) <= 1 + 1e-9).all()


@settings(max_examples=15, deadline=None)
@given(geometry=cones())
def test_memory_is_bounded_beforehand(geometry):
    rays = geometry.rays()
    assert matrix_of(rays).nnz <= rays.most_entries()
    fan = geometry.fan().rays()
    assert matrix_of(fan).nnz <= fan.most_entries()


def test_overhang_tells_what_the_detector_misses():
    shape, angles = (21, 21), np.arange(4) * 90.0
    reach = 3 * math.tan(math.asin(math.hypot(20, 20) / 2 / 60)) * 60
    assert FanGeometry(shape, angles, 40, 2 * reach / 40, 60, 180).overhang() == pytest.approx(0, abs=1e-9)
    assert FanGeometry(shape, angles, 40, 2 * reach / 40, 60, 180, offset=4).overhang() == pytest.approx(4)
    low = ConeGeometry((9, *shape), angles, (2, 60), (1, 2 * reach / 60), 60, 180)
    assert low.overhang() == pytest.approx(4 * 180 / (60 - math.hypot(20, 20) / 2) - 1)
