"""Parallel-beam projection by rotation: the battery, the published sums, and what it shares with the other model."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from battery import check_operator
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.data import OperatorSpec
from recon.errors import ConfigError
from recon.operators.ct_rotate import RotatedSums, frame_side
from recon.operators.masked import Masked
from recon.operators.registry import build, draw, family, parse_params


def make(shape, given=None, **params):
    return build(draw("ct", {"model": "rotate", **params}, (1, *shape), 0, given))


def published(image, degrees):
    """The sinogram of an image (n, n) as the authors compute it: padded, turned about the middle, summed."""
    n = len(image)
    more = int(np.ceil(np.sqrt(2) * n - n))
    before = (n + more) // 2 - n // 2
    frame = np.pad(image, (before, more - before))
    axis = np.linspace(-1, 1, n + more)
    v, u = np.meshgrid(axis, axis, indexing="ij")
    rows = []
    for theta in np.radians(degrees):
        x, y = np.cos(theta) * u + np.sin(theta) * v, -np.sin(theta) * u + np.cos(theta) * v
        places = [(part + 1) / 2 * (n + more - 1) for part in (y, x)]
        rows.append(scipy.ndimage.map_coordinates(frame, places, order=1, mode="grid-constant").sum(0))
    return np.stack(rows)


@pytest.mark.parametrize("shape", [(8, 8), (9, 9), (2, 6, 6), (1, 1)])
@pytest.mark.parametrize("params", [{"angles": 7}, {"angles": 5, "start": -20.0, "arc": 100.0, "pixel_size": 0.3}])
def test_battery(shape, params):
    check_operator(make(shape, **params))


@settings(max_examples=10, deadline=None)
@given(side=st.integers(2, 14), angles=st.lists(st.floats(-360, 360), min_size=1, max_size=4))
def test_battery_of_any_angles(side, angles):
    check_operator(make((side, side), {"angles": np.array(angles)}), tol32=2e-6)


@pytest.mark.parametrize("n", [16, 17])
def test_sums_are_the_published_ones(n):
    image = np.random.default_rng(n).standard_normal((n, n))
    degrees = np.linspace(0, 180, 11, endpoint=False)
    op = make((n, n), angles=11, pixel_size=2.0).to(dtype=torch.float64)
    y = op.forward(torch.from_numpy(image)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(y, 2 * published(image, degrees), atol=1e-10)


def test_256_pixels_have_363_detectors_and_right_angles_sum_rows_and_columns():
    assert frame_side(256) == 363
    image = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    y = make((4, 4), {"angles": np.array([0.0, 90.0])}).forward(torch.from_numpy(image)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(y[0], np.pad(image.sum(0), 1), atol=1e-5)
    np.testing.assert_allclose(y[1], np.pad(image.sum(1)[::-1], 1), atol=1e-5)


def test_it_agrees_with_the_other_model_on_a_smooth_image_with_the_axis_in_its_middle():
    t = np.arange(62) - 30.5
    image = np.exp(-((t[:, None] - 5) ** 2 + (t + 8) ** 2) / 60).astype(np.float32)
    x = torch.from_numpy(image)[None, None]
    turned = make((62, 62), angles=30)
    joseph = build(draw("ct", {"angles": 30, "detectors": turned.frame}, (1, 62, 62), 0))
    gap = (turned.forward(x) - joseph.forward(x)).norm() / joseph.forward(x).norm()
    assert gap < 0.01


def test_filtered_backprojection_returns_the_image():
    t = np.arange(64) - 32
    image = np.exp(-((t[:, None] - 5) ** 2 + (t + 8) ** 2) / 60).astype(np.float32)
    x = torch.from_numpy(image)[None, None]
    op = make((64, 64), angles=90, pixel_size=0.5)
    assert float((op.pinv(op.forward(x)) - x).norm() / x.norm()) < 0.02


def test_a_specification_rebuilds_the_operator_and_masks_leave_rays_out():
    spec = draw("ct", {"model": "rotate", "angles": 3}, (1, 6, 6), 0)
    x = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    again = build(OperatorSpec("ct", spec.params, spec.in_shape, spec.arrays))
    assert isinstance(again, RotatedSums) and torch.equal(build(spec).forward(x), again.forward(x))
    mask = np.ones((3, 9), np.uint8)
    mask[1] = 0
    masked = make((6, 6), {"mask": mask}, angles=3)
    assert isinstance(masked, Masked) and not bool(masked.forward(x)[0, 0, 1].any())


def test_complex_images_are_projected_by_parts():
    op = make((6, 6), angles=3)
    x = torch.randn(1, 1, 6, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    y = op.forward(x)
    torch.testing.assert_close(y, torch.complex(op.forward(x.real), op.forward(x.imag)))
    torch.testing.assert_close(op.adjoint(y), torch.complex(op.adjoint(y.real), op.adjoint(y.imag)))


def test_the_image_is_read_from_the_sinogram():
    reads = family("ct").reads_shape
    assert reads is not None
    for n in (1, 17, 256):
        assert reads(parse_params("ct", {"model": "rotate"}), {}, (1, 4, frame_side(n))) == (1, n, n)
    assert reads(parse_params("ct", {"model": "rotate"}), {}, (1, 4, frame_side(4) + 1)) is None


@pytest.mark.parametrize(
    ("shape", "params", "words"),
    [
        ((6, 7), {}, "square"),
        ((6, 6), {"detectors": 12}, "has 9 detectors"),
        ((6, 6), {"detector_spacing": 0.5}, "spacing 1"),
        ((6, 6), {"detector_offset": 1.0}, "offset 0"),
        ((6, 6), {"model": "turn"}, "parameter model"),
    ],
)
def test_what_it_cannot_project_is_refused(shape, params, words):
    with pytest.raises(ConfigError, match=words):
        make(shape, **params)
