"""Sampling masks: exact counts, full centre, published conventions, geometry of the Poisson discs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from recon.errors import ConfigError
from recon.operators.masks import LINES, PLANES, _throw, line_mask, plane_mask

EXACT_LINES, EXACT_PLANES = ([kind for kind in kinds if not kind.startswith("dds-")] for kinds in (LINES, PLANES))


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("kind", EXACT_LINES)
@settings(max_examples=25, deadline=None)
@given(n=st.integers(8, 400), acceleration=st.floats(1, 8), fraction=st.floats(0, 0.12), seed=st.integers(0, 99))
def test_lines_have_the_exact_count_and_a_full_centre(kind, n, acceleration, fraction, seed):
    total, centre = round(n / acceleration), round(fraction * n)
    if centre > total:
        with pytest.raises(ConfigError, match="centre"):
            line_mask(kind, n, acceleration, fraction, rng(seed))
        return
    mask = line_mask(kind, n, acceleration, fraction, rng(seed))
    assert mask.shape == (n,) and mask.dtype == bool
    assert mask.sum() == total
    first = n // 2 - centre // 2
    assert mask[first : first + centre].all()


@pytest.mark.parametrize("kind", LINES)
def test_lines_depend_on_the_seed_alone(kind):
    draw = [line_mask(kind, 320, 4, 0.08, rng(seed)) for seed in (3, 3, 4)]
    assert np.array_equal(draw[0], draw[1]) and not np.array_equal(draw[0], draw[2])


def test_an_integer_centre_counts_lines():
    mask = line_mask("random", 64, 4, 6, rng())
    assert mask[29:35].all() and mask.sum() == 16
    assert line_mask("random", 64, 8, 1, rng())[32]


def test_uniform_lines_are_evenly_spaced():
    mask = line_mask("uniform", 300, 5, 0, rng(1))
    assert set(np.diff(np.flatnonzero(mask))) == {5}
    with_centre = np.flatnonzero(line_mask("uniform", 320, 4, 0.08, rng(1)))
    left = np.diff(with_centre[with_centre < 147])
    assert left.max() - left.min() <= 1


def test_gaussian_lines_are_denser_in_the_centre():
    def spread(kind):
        masks = sum(line_mask(kind, 256, 6, 0, rng(seed)).astype(int) for seed in range(50))
        k = np.arange(256) - 128
        return np.sqrt((masks * k**2).sum() / masks.sum())

    assert spread("random") == pytest.approx(256 / np.sqrt(12), rel=0.05)
    assert 30 < spread("gaussian") < 45  # 30 = 15/128 * 256, wider because no line is drawn twice


def test_dds_lines_follow_the_published_code():
    mask = line_mask("dds-random", 320, 4, 0.08, rng(7))
    reference = np.zeros(320, bool)
    reference[rng(7).choice(320, 320 // 4 - int(0.08 * 320))] = True
    reference[320 // 2 - 25 // 2 : 320 // 2 - 25 // 2 + 25] = True
    assert np.array_equal(mask, reference)
    assert mask.sum() < 80


def test_dds_gaussian_lines_follow_the_published_code():
    mask = line_mask("dds-gaussian", 320, 4, 0.08, rng(7))
    reference = np.zeros(320, bool)
    samples = rng(7).normal(loc=320 // 2, scale=320 * (15.0 / 128), size=int(320 // 4 * 1.2))
    reference[np.clip(samples.astype(int), 0, 319)] = True
    reference[320 // 2 - 25 // 2 : 320 // 2 - 25 // 2 + 25] = True
    assert np.array_equal(mask, reference)
    assert line_mask("dds-gaussian", 320, 4, 31, rng(7))[145:176].all()


@pytest.mark.parametrize("side", [64, 33])
def test_dds_points_follow_the_published_code(side):
    mask = plane_mask("dds-random2d", (side, side), 5, 0.08, rng(7))
    reference = np.zeros(side * side, bool)
    reference[rng(7).choice(side * side, side * side // 5)] = True
    assert np.array_equal(mask, reference.reshape(side, side))
    mask = plane_mask("dds-gaussian2d", (side, side), 5, 0.08, rng(7))
    reference = np.zeros((side, side), bool)
    factor = side * (1.5 / 128)
    samples = rng(7).multivariate_normal(
        [side // 2, side // 2], [[side * factor, 0], [0, side * factor]], side * side // 5
    )
    places = np.clip(samples.astype(int), 0, side - 1)
    reference[places[:, 0], places[:, 1]] = True
    assert np.array_equal(mask, reference)


@pytest.mark.parametrize("kind", ["dds-random2d", "dds-gaussian2d"])
def test_dds_points_depend_on_the_seed_alone_and_always_measure_something(kind):
    draw = [plane_mask(kind, (40, 30), 4, 0.0, rng(seed)) for seed in (3, 3, 4)]
    assert np.array_equal(draw[0], draw[1]) and not np.array_equal(draw[0], draw[2])
    assert draw[0].shape == (40, 30) and draw[0].sum() <= 300
    assert plane_mask(kind, (3, 3), 20, 0.0, rng()).sum() == 1


@pytest.mark.parametrize("kind", EXACT_PLANES)
@pytest.mark.parametrize("shape", [(64, 64), (33, 50)])
@pytest.mark.parametrize("acceleration", [1, 1.4, 4, 9.5])
def test_planes_have_the_exact_count_and_a_full_centre(kind, shape, acceleration):
    mask = plane_mask(kind, shape, acceleration, 0.1, rng(2))
    assert mask.shape == shape and mask.sum() == round(mask.size / acceleration)
    corner = [n // 2 - round(0.1 * n) // 2 for n in shape]
    assert mask[tuple(slice(c, c + round(0.1 * n)) for c, n in zip(corner, shape, strict=True))].all()
    assert np.array_equal(mask, plane_mask(kind, shape, acceleration, 0.1, rng(2)))
    assert acceleration == 1 or not np.array_equal(mask, plane_mask(kind, shape, acceleration, 0.1, rng(3)))


def test_gaussian_plane_has_the_published_spread():
    k = np.sqrt(1.5 / 128) * 128
    points = np.concatenate(
        [np.argwhere(plane_mask("gaussian2d", (128, 128), 60, 0, rng(seed))) - 64 for seed in range(20)]
    )
    assert np.sqrt((points**2).mean(0)) == pytest.approx([k, k], rel=0.15)


def test_poisson_samples_keep_a_distance_that_grows_outwards():
    points = np.argwhere(plane_mask("poisson", (128, 128), 8, 0.05, rng()))
    nearest = cKDTree(points).query(points, k=2)[0][:, 1]
    radius = np.linalg.norm(points - 64, axis=1)
    inner, middle, outer = (nearest[(radius >= a) & (radius < b)] for a, b in ((8, 24), (24, 48), (48, 64)))
    assert inner.min() >= 1 and middle.min() >= 2 and outer.min() > 2.5
    assert inner.mean() < middle.mean() < outer.mean()


@settings(max_examples=20, deadline=None)
@given(radius=st.floats(0.2, 6), seed=st.integers(0, 99))
def test_darts_are_apart_and_leave_no_room(radius, seed):
    shape = (20, 27)
    kept = _throw(rng(seed).permutation(20 * 27), np.full(shape, radius))
    points = np.argwhere(kept)
    if len(points) > 1:
        assert cKDTree(points).query(points, k=2)[0][:, 1].min() >= radius
    assert cKDTree(points).query(np.argwhere(~kept))[0].max(initial=0) < radius


def test_unknown_masks_are_refused():
    with pytest.raises(ConfigError, match="unknown line mask"):
        line_mask("spiral", 64, 4, 0, rng())
    with pytest.raises(ConfigError, match="unknown plane mask"):
        plane_mask("spiral", (8, 8), 4, 0, rng())
