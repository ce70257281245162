"""Random CT phantoms: exact integrals of anti-aliased shapes, determinism, units, and the statistics of tissue."""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import pytest

from recon.training.config import TrainConfig
from recon.training.phantom_parts import layers, new_scene, speckle, uneven, window
from recon.training.phantom_shapes import ANGLES, Canvas, Outline, dots, plain_canvas, polygon, textures, tube, wavy
from recon.training.phantoms import (
    DENSEST,
    KINDS,
    WATER_TOP,
    _view,
    from_hounsfield,
    phantom_hu,
    random_phantom,
    reduced,
)
from recon.training.sources import crop_source, held_out_images


def blank(side: int = 96, pixel: float = 1.0) -> Canvas:
    return plain_canvas(side, side, pixel, background=0.0)


def integral(canvas: Canvas) -> float:
    return float(canvas.hu.sum(dtype=np.float64)) * canvas.pixel**2


@pytest.mark.parametrize("pixel", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    ("x", "y", "a", "b", "angle"), [(0.3, -1.7, 15, 9, 0.4), (5.1, 2.2, 12, 12, 0), (0, 0, 20, 6, 2)]
)
def test_integral_of_an_ellipse_is_its_area_at_any_pixel_size(pixel, x, y, a, b, angle):
    canvas = blank(128, pixel)
    Outline(x, y, a, b, angle).fill(canvas, 3.0)
    assert integral(canvas) == pytest.approx(3 * math.pi * a * b, rel=0.01)


def test_edges_are_as_wide_as_a_pixel_and_soft_edges_as_they_say():
    widths = []
    for soft in (0.0, 8.0):
        canvas = blank()
        Outline(0.2, 0.4, 30, 30).fill(canvas, 1.0, soft)
        row = canvas.hu[48]
        assert np.all((row >= 0) & (row <= 1)) and row[48] == 1
        widths.append(np.count_nonzero((row > 0) & (row < 1)))
    assert 1 <= widths[0] <= 4 and 14 <= widths[1] <= 18


def test_finer_sampling_averages_to_the_anti_aliased_picture():
    def picture(side: int, pixel: float) -> np.ndarray:
        canvas = plain_canvas(side, side, pixel, background=0.0)
        Outline(1.3, -2.1, 25, 14, 0.7, wavy(np.random.default_rng(3), 0.12)).fill(canvas, 1.0)
        return canvas.hu

    coarse, fine = picture(64, 1.0), reduced(picture(512, 0.125), 64)
    assert np.abs(coarse - fine).max() < 0.2
    assert np.abs(coarse - fine).mean() < 0.003
    hard = (reduced(picture(64, 1.0), 64) > 0.5).astype(float)
    assert np.abs(hard - fine).mean() > 3 * np.abs(coarse - fine).mean()


def test_area_of_a_wavy_outline_is_that_of_its_radius():
    radius = wavy(np.random.default_rng(0), 0.1)
    canvas = blank(128)
    Outline(0, 0, 30, 30, 0.3, radius).fill(canvas, 1.0)
    assert integral(canvas) == pytest.approx(900 * 0.5 * float(np.mean(radius**2)) * 2 * math.pi, rel=0.01)


def test_square_is_a_square():
    radius = polygon(np.random.default_rng(0), 4, irregular=0.0)
    assert radius.min() == pytest.approx(1, abs=1e-4) and radius.max() == pytest.approx(math.sqrt(2), rel=3e-3)
    canvas = blank(128)
    Outline(0, 0, 25, 25, 0.5, radius).fill(canvas, 1.0)
    assert integral(canvas) == pytest.approx(50**2, rel=0.01)


def test_distances_grow_with_slope_one_at_the_edge():
    canvas = blank()
    shape = Outline(0, 0, 30, 18, 0.6, wavy(np.random.default_rng(5), 0.06))
    box = shape.box(canvas)
    d = shape.distance(canvas, box)
    near = np.abs(d) < 2
    gy, gx = np.gradient(d)
    assert np.median(np.hypot(gx, gy)[near]) == pytest.approx(1, abs=0.05)
    assert np.percentile(np.hypot(gx, gy)[near], 95) < 1.3


def test_points_of_an_outline_lie_on_its_edge():
    canvas = blank()
    shape = Outline(3.0, -4.0, 25, 14, 0.9, wavy(np.random.default_rng(6), 0.1))
    d = shape.distance(canvas, (slice(0, 96), slice(0, 96)))
    for angle in np.linspace(0, 6, 9):
        x, y = shape.point(float(angle))
        assert abs(d[round(y + 47.5), round(x + 47.5)]) < 1.2
    x, y = shape.point(1.0, depth=5.0)
    assert math.hypot(x - shape.point(1.0)[0], y - shape.point(1.0)[1]) == pytest.approx(5)


@pytest.mark.parametrize("thickness", [0.3, 1.0, 4.0])
def test_thin_rings_and_lines_keep_their_integral(thickness):
    canvas = blank(128)
    Outline(0, 0, 40, 40).ring(canvas, thickness, 100.0)
    assert integral(canvas) == pytest.approx(100 * math.pi * (40**2 - (40 - thickness) ** 2), rel=0.02)
    canvas = blank(128)
    tube(canvas, [(-30, -20), (30, 15)], [thickness / 2] * 2, 100.0)
    length = math.hypot(60, 35)
    area = length * thickness + math.pi / 4 * thickness**2
    assert integral(canvas) == pytest.approx(100 * area, rel=0.03)


def test_small_dots_keep_their_integral():
    canvas = blank()
    dots(canvas, np.array([[0.2, 0.3], [20.1, -9.7]]), np.array([0.3, 3.0]), np.array([1000.0, 10.0]))
    inner = canvas.hu[38:58, 38:58].sum()
    assert inner == pytest.approx(1000 * math.pi * 0.09, rel=0.5)
    assert integral(canvas) - inner == pytest.approx(10 * math.pi * 9, rel=0.05)


def test_layers_have_their_thickness():
    rng = np.random.default_rng(0)
    scene = new_scene(blank(), rng)
    layers(scene, Outline(0, 0, 40, 40), [(5.0, 10.0), (np.full(ANGLES.size, 8.0), 20.0)], 30.0)
    profile = scene.canvas.hu[48, 48:]
    assert np.count_nonzero(profile == 10.0) in (4, 5) and np.count_nonzero(profile == 20.0) in (7, 8)
    assert profile[0] == 30.0 and profile[-1] == 0.0


def test_tables_over_the_angle():
    opening = window(1.0, 0.4)
    assert opening[np.argmin(np.abs(ANGLES - 1.0))] == 1 and opening[np.argmin(np.abs(ANGLES - 1.3))] == 0
    assert np.mean(opening) * 2 * math.pi == pytest.approx(0.4, rel=0.02)
    thickness = uneven(np.random.default_rng(1), 6.0, 0.3, 1.0)
    assert thickness.min() >= 1 and thickness.std() > 0.3 and thickness.mean() == pytest.approx(6, rel=0.1)


def test_speckle_stays_inside():
    scene = new_scene(blank(), np.random.default_rng(0))
    shape = Outline(5, -6, 30, 20, 0.5, wavy(np.random.default_rng(1), 0.2))
    speckle(scene, shape, 200, (0.5, 1.0), (100.0, 100.0))
    d = shape.distance(scene.canvas, (slice(0, 96), slice(0, 96)))
    assert np.abs(scene.canvas.hu[d > 2.5]).max() == 0 and np.abs(scene.canvas.hu[d < -3]).max() > 0


def test_textures_have_unit_variance_no_mean_and_their_scale():
    fields = textures(np.random.default_rng(0), (128, 96), (0.8, 8.0))
    for field in fields:
        assert field.shape == (128, 96) and field.dtype == np.float32
        assert float(field.mean()) == pytest.approx(0, abs=1e-4) and float(field.std()) == pytest.approx(1, abs=1e-3)
    fine, coarse = (float(np.mean(f[:, 1:] * f[:, :-1])) for f in fields)
    assert fine < 0.6 and coarse > 0.95


def test_units_are_attenuation_relative_to_water():
    hu = np.array([-1000.0, 0.0, 100.0, 1200.0, DENSEST, 3500.0, -3024.0])
    u = from_hounsfield(hu)
    np.testing.assert_allclose(u[:4], [-1, 2 / WATER_TOP - 1, 2.2 / WATER_TOP - 1, 1], atol=1e-6)
    assert u[4] == u[5] == pytest.approx(1.8) and u[6] == -1 and u.dtype == np.float32


def test_reduction_averages_whole_blocks():
    image = np.arange(30.0).reshape(5, 6)
    np.testing.assert_allclose(reduced(image, 3), [[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]])
    np.testing.assert_array_equal(reduced(image, 6), image)


@pytest.mark.parametrize("size", [33, 64, 128])
def test_phantoms_depend_on_the_generator_alone_and_stay_in_range(size):
    first, again, other = (random_phantom(size, np.random.default_rng(s)) for s in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    for u in (first, other):
        assert u.shape == (size, size) and u.dtype == np.float32
        assert u.min() >= -1 and u.max() <= 1.8 + 1e-6


def test_shares_of_kinds_add_up():
    assert sum(share for _, share, _ in KINDS) == pytest.approx(1)


@pytest.fixture(scope="module")
def many() -> list[np.ndarray]:
    return [phantom_hu(96, np.random.default_rng([1, k])) for k in range(150)]


def test_densities_gather_where_tissues_have_theirs(many):
    values = np.concatenate([hu.ravel() for hu in many])

    def share(low: float, high: float) -> float:
        return float(np.mean((values >= low) & (values < high)))

    assert np.isfinite(values).all()
    assert 0.15 < share(-1100, -950) < 0.7
    # per Hounsfield unit, air, fat and soft tissue stand out of what lies between them
    between = share(-600, -300) / 300
    assert share(-130, -70) / 60 > 3 * between
    assert share(10, 70) / 60 > 10 * between
    assert share(10, 70) / 60 > 3 * share(150, 250) / 100
    assert share(-950, -600) > 0.01 and 0.01 < share(300, 2100) < 0.2
    assert share(2500, 1e9) < 0.01


def test_phantoms_are_diverse_in_extent_texture_and_noise(many):
    covered = np.array([np.mean(hu > -500) for hu in many])
    assert np.percentile(covered, 10) < 0.35 and np.percentile(covered, 90) > 0.8
    grain = []
    for hu in many:
        soft = (hu > -20) & (hu < 100)
        fine = hu[1:] - hu[:-1]
        both = soft[1:] & soft[:-1]
        if both.sum() > 500:
            grain.append(np.median(np.abs(fine[both])))
    # from hardly any noise to that of a thin, dim scan
    assert len(grain) > 40 and np.percentile(grain, 10) < 3 and np.percentile(grain, 90) > 8


def test_nearly_empty_views_are_rare():
    pictures = [random_phantom(64, np.random.default_rng([2, k])) for k in range(60)]
    assert np.mean([np.std(u) < 0.05 for u in pictures]) < 0.1


def test_training_kind_draws_phantoms_and_judges_on_real_slices(tmp_path):
    hu = np.full((40, 36, 1), -1000, dtype=np.int16)
    hu[8:30, 8:30] = 200
    nib.Nifti1Image(hu, np.eye(4)).to_filename(tmp_path / "slice.nii")
    config = TrainConfig.model_validate(
        {
            "name": "tiny-ct",
            "description": "for tests",
            "crop": 32,
            "data": {
                "kind": "phantoms",
                "test": [{"path": "slice.nii", "source": "synthetic", "licence": "none"}],
                "test_phantoms": 2,
                "test_size": 20,
            },
        }
    )
    crop = crop_source(config, tmp_path)
    np.testing.assert_array_equal(crop(np.random.default_rng(4))[0], random_phantom(32, np.random.default_rng(4)))
    images = held_out_images(config, tmp_path)
    assert [image.shape for image in images] == [(1, 20, 18), (1, 20, 20), (1, 20, 20)]
    np.testing.assert_allclose(images[0][0], from_hounsfield(reduced(hu[..., 0], 20)), atol=1e-6)
    np.testing.assert_array_equal(images[1], held_out_images(config, tmp_path)[1])
    assert config.data.files == []


@pytest.mark.parametrize("seed", range(6))
def test_boxes_of_turned_and_warped_views_cut_nothing_off(seed):
    rng = np.random.default_rng(seed)
    canvas = _view(64, 2.5, 150.0, rng)
    shape = Outline(rng.uniform(-60, 60), rng.uniform(-60, 60), 30, 12, 0.8, wavy(rng, 0.1))
    everywhere = (slice(0, 64), slice(0, 64))
    inside = shape.distance(canvas, everywhere) < -2.5
    shape.fill(canvas, 50.0)
    assert np.all(canvas.hu[inside] == 50.0)
    assert np.mean(canvas.hu > -1000) < 0.5
