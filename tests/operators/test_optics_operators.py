"""Lensless imaging, varying blur and demosaicing: battery, definitions, refusals."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from battery import check_operator
from scipy.ndimage import convolve
from scipy.signal import fftconvolve

from recon.data import OperatorSpec
from recon.errors import ConfigError, InputError
from recon.operators.base import LinearOperator
from recon.operators.blur_varying import interpolation_weights
from recon.operators.registry import build, draw, family, parse_params

RNG = np.random.default_rng(0)
KERNELS = RNG.random((2, 3, 4, 5))
CASES: list[tuple[str, dict[str, Any], dict[str, np.ndarray]]] = [
    ("blur-varying", {"size": 7}, {}),
    ("blur-varying", {"size": 5, "kernel": "motion", "grid": (2, 4)}, {}),
    ("blur-varying", {"kernel": "array"}, {"kernels": KERNELS}),
    ("lensless", {"points": 40.0}, {}),
    ("lensless", {"psf": "caustics"}, {}),
    ("lensless", {"psf": "array"}, {"psf": RNG.random((20, 5))}),
    ("demosaic", {}, {}),
    ("demosaic", {"pattern": "gbrg"}, {}),
]


def make(kind: str, shape: tuple[int, ...], given: Any = None, **params: Any) -> LinearOperator:
    op = build(draw(kind, params, shape, 0, given))
    assert isinstance(op, LinearOperator)
    return op


@pytest.mark.parametrize("shape", [(3, 12, 15), (3, 13, 9), (3, 2, 9, 11)], ids=str)
@pytest.mark.parametrize(("kind", "params", "given"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_battery(kind, params, given, shape):
    op = make(kind, shape, given, **params)
    check_operator(op)
    spec = draw(kind, params, shape, 0, given)
    again = draw(kind, json.loads(json.dumps(spec.params)), shape, 1, spec.arrays)
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(build(again).forward(x), op.forward(x))
    assert family(kind).reads_shape(parse_params(kind, params), {}, op.out_shape) == shape


def test_one_kernel_is_the_plain_blur():
    kernel = RNG.random((5, 5))
    image = RNG.standard_normal((1, 12, 10))
    op = make("blur-varying", (1, 12, 10), {"kernels": kernel[None, None]}).to(dtype=torch.float64)
    found = op.forward(torch.from_numpy(image)[None])[0, 0].numpy()
    np.testing.assert_allclose(found, convolve(image[0], kernel, mode="mirror"), atol=1e-6)


def test_points_are_spread_by_the_kernels_around_them():
    op = make("blur-varying", (1, 21, 31), {"kernels": KERNELS[:, :, :3, :3]}).to(dtype=torch.float64)
    corner, between = torch.zeros(2, 1, 1, 21, 31, dtype=torch.float64)
    corner[0, 0, 3, 3] = between[0, 0, 10, 15] = 1.0
    weights = interpolation_weights((2, 3), (21, 31))
    np.testing.assert_allclose(weights.sum(0), 1)
    # between the two rows of the grid, on its middle column
    expected = (KERNELS[0, 1] + KERNELS[1, 1])[:3, :3] / 2
    np.testing.assert_allclose(op.forward(between)[0, 0, 9:12, 14:17].numpy(), expected, atol=1e-6)
    near = op.forward(corner)[0, 0, 2:5, 2:5].numpy()
    mixed = np.einsum("k,kij->ij", weights[:, 3, 3], KERNELS.reshape(-1, 4, 5)[:, :3, :3])
    np.testing.assert_allclose(near, mixed, atol=1e-6)


def test_gaussians_widen_towards_the_corners():
    kernels = draw("blur-varying", {"size": 31}, (1, 40, 40), 0).arrays["kernels"]
    t = np.arange(31) - 15
    widths = np.sqrt((kernels.sum(3) * t**2).sum(2))
    np.testing.assert_allclose(widths[1, 1], 1.0, rtol=0.02)
    np.testing.assert_allclose(widths[[0, 0, 2, 2], [0, 2, 0, 2]], 4.0, rtol=0.05)
    np.testing.assert_allclose(kernels.sum((2, 3)), 1)


@pytest.mark.parametrize("size", [(12, 15), (5, 6), (20, 31)])
def test_lensless_is_the_crop_of_the_full_convolution(size):
    psf, image = RNG.random(size), RNG.random((1, 12, 15))
    op = make("lensless", (1, 12, 15), {"psf": psf}).to(dtype=torch.float64)
    full = fftconvolve(image[0], psf)
    top, left = size[0] // 2, size[1] // 2
    found = op.forward(torch.from_numpy(image)[None])[0, 0].numpy()
    np.testing.assert_allclose(found, full[top : top + 12, left : left + 15], atol=1e-5)


@pytest.mark.parametrize("psf", ["points", "caustics"])
def test_drawn_patterns_have_light_one_and_are_sparse(psf):
    found = draw("lensless", {"psf": psf}, (1, 64, 80), 3).arrays["psf"]
    assert found.shape == (64, 80) and found.min() >= 0 and found.sum() == pytest.approx(1)
    assert found.max() > 5 * found.mean()
    assert not np.array_equal(found, draw("lensless", {"psf": psf}, (1, 64, 80), 4).arrays["psf"])
    given = draw("lensless", {"normalise": True}, (1, 8, 8), 0, {"psf": np.full((2, 2), 3.0)}).arrays["psf"]
    np.testing.assert_allclose(given, 0.25)


def test_a_bayer_pattern_lets_one_colour_through():
    image = torch.arange(3 * 4 * 5, dtype=torch.float32).reshape(1, 3, 4, 5)
    y = make("demosaic", (3, 4, 5), pattern="grbg").forward(image)[0, 0]
    expected = torch.empty(4, 5)
    for (row, column), colour in {(0, 0): 1, (0, 1): 0, (1, 0): 2, (1, 1): 1}.items():
        expected[row::2, column::2] = image[0, colour, row::2, column::2]
    assert torch.equal(y, expected)
    seen = [make("demosaic", (3, 4, 4), pattern=p).svd().values.sum((1, 2)).tolist() for p in ("rggb", "bggr")]
    assert seen == [[4, 8, 4], [4, 8, 4]]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="3 channels, the image has 1"):
        make("demosaic", (1, 8, 8))
    with pytest.raises(ConfigError, match="larger than the image"):
        make("blur-varying", (1, 8, 8), size=9)
    with pytest.raises(InputError, match="grid_y, grid_x"):
        make("blur-varying", (1, 8, 8), {"kernels": np.ones((3, 3))})
    with pytest.raises(InputError, match="k_y, k_x"):
        make("lensless", (1, 8, 8), {"psf": np.zeros((3, 3))})
    with pytest.raises(InputError, match="not positive"):
        make("lensless", (1, 8, 8), {"psf": -np.ones((3, 3))}, normalise=True)
    for kind, params, name in (("blur-varying", {"kernel": "array"}, "kernels"), ("lensless", {"psf": "array"}, "psf")):
        with pytest.raises(ConfigError, match=f"without the array '{name}'"):
            make(kind, (1, 8, 8), **params)
        with pytest.raises(InputError, match=f"no array '{name}'"):
            build(OperatorSpec(kind, params, (1, 8, 8)))
        assert family(kind).never_invented(parse_params(kind, params)) == {name}
    assert family("blur-varying").never_invented(parse_params("blur-varying", {})) == set()


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("blur-varying", {"size": 4}),
        ("blur-varying", {"grid": (0, 3)}),
        ("blur-varying", {"sigma_edge": 0.0}),
        ("blur-varying", {"intensity": 2.0}),
        ("lensless", {"points": 0.0}),
        ("lensless", {"width": -1.0}),
        ("demosaic", {"pattern": "rgbg"}),
    ],
)
def test_bad_parameters_are_refused(kind, params):
    with pytest.raises(ConfigError, match=kind):
        parse_params(kind, params)
