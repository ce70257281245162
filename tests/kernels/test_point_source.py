"""Filtered backprojection of fans and cones returns densities in any unit of length, from full and partial circles."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from ray_cases import chords

from recon.kernels import point_source
from recon.kernels.point_source import cone_backprojection, fan_backprojection, redundancy
from recon.kernels.scans import ConeGeometry, FanGeometry


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize(
    "views, arc, start, size, offset",
    [(180, 360, 0, 1.0, 0.0), (180, 360, 11, 0.25, 1.7), (140, 230, 33, 1.0, 0.0), (140, -230, 0, 1.0, 0.0)],
)
def test_fan_returns_a_discs_density(curved, views, arc, start, size, offset):
    angles = start + arc / views * np.arange(views)
    geometry = FanGeometry((64, 58), angles, 110, 1.4 * size, 100 * size, 150 * size, size, offset * size, curved)
    exact = chords(geometry, 18 * size, (5 * size, -3 * size, 0))
    image = fan_backprojection(torch.from_numpy(exact)[None], geometry)[0].numpy()
    y, x = np.meshgrid((63 / 2 - np.arange(64)), np.arange(58) - 57 / 2, indexing="ij")
    distance = np.hypot(x - 5, y + 3)
    assert abs(image[distance < 14].mean() - 1) < 0.01
    assert np.abs(image[distance < 3] - 1).max() < 0.03
    assert abs(image[(distance > 22) & (np.hypot(x, y) < 29)].mean()) < 0.02


def test_cone_returns_a_balls_density_in_the_middle():
    angles = np.arange(60) * 6.0
    geometry = ConeGeometry((20, 32, 32), angles, (30, 52), (1.3, 1.4), 90, 140, 0.9, 1.1, (0.2, 0.6))
    exact = chords(geometry, 8, (3, -2, 1))
    volume = cone_backprojection(torch.from_numpy(exact)[None], geometry)[0].numpy()
    z, y, x = np.meshgrid(
        (np.arange(20) - 9.5) * 1.1, (15.5 - np.arange(32)) * 0.9, (np.arange(32) - 15.5) * 0.9, indexing="ij"
    )
    distance = np.sqrt((x - 3) ** 2 + (y + 2) ** 2 + (z - 1) ** 2)
    assert abs(volume[distance < 5].mean() - 1) < 0.02
    assert abs(volume[(distance > 11) & (np.hypot(x, y) < 14) & (np.abs(z) < 6)].mean()) < 0.03


@pytest.mark.parametrize("arc", [220.0, 300.0, 360.0])
def test_shares_of_opposite_rays_add_up_to_one(arc):
    degrees = np.arange(0, arc, 1.0)
    fan = np.radians([-12.0, 0.0, 7.0])
    shares = redundancy(degrees, fan)
    for m, gamma in ((1, 0), (0, -12), (2, 7)):
        mirrored = redundancy(degrees, -fan)[:, m]
        for view in range(0, len(degrees), 17):
            other = (degrees[view] + 180 - 2 * gamma) % 360
            if other < arc - 1 and abs(other - round(other)) < 1e-9:
                assert shares[view, m] + mirrored[int(other)] == pytest.approx(1, abs=1e-6)


def test_a_line_that_is_seen_once_counts_in_full():
    assert redundancy(np.arange(0, 120.0), np.zeros(1)).min() == pytest.approx(1)


@pytest.mark.parametrize("block", [None, 2**17, 300])
def test_a_cones_views_are_interpolated_where_voxels_are_seen(monkeypatch, block):
    """Against each view on its own, by scipy; blocks that end within the slices and the views change nothing."""
    monkeypatch.setitem(point_source.CONE_BLOCK, "cpu", block or 2**17)
    monkeypatch.setenv("RECON_KERNELS", "reference" if block else "")
    angles = np.array([0.0, 17, 40, 95, 120, 200, 290])
    geometry = ConeGeometry((5, 6, 7), angles, (7, 9), (1.3, 1.4), 30, 45, 0.9, 1.1, (0.2, -0.6))
    data = np.random.default_rng(0).standard_normal((2, 7, 7, 9))
    found = cone_backprojection(torch.from_numpy(data), geometry).numpy()
    filtered = point_source._filtered(torch.from_numpy(data), geometry.fan(), geometry.row_axis()).numpy()
    z, y, x = np.meshgrid((np.arange(5) - 2) * 1.1, (2.5 - np.arange(6)) * 0.9, (np.arange(7) - 3) * 0.9, indexing="ij")
    expected = np.zeros((2, 5, 6, 7))
    for view, angle in enumerate(np.radians(angles)):
        along = 30 - x * np.sin(angle) + y * np.cos(angle)
        row = (z * 45 / along - 0.2) / 1.3 + 3
        column = ((x * np.cos(angle) + y * np.sin(angle)) * 45 / along + 0.6) / 1.4 + 4
        for item in range(2):
            seen = scipy.ndimage.map_coordinates(np.pad(filtered[item, view], 2), (row + 2, column + 2), order=1)
            expected[item] += (30 / along) ** 2 * seen
    np.testing.assert_allclose(found, expected, atol=1e-12)
