"""Phase retrieval, saturation and the blur of light: the published formulas, ambiguities, slopes and refusals."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from nonlinear_battery import check_nonlinear, check_slope, images
from torch import Tensor

from recon.errors import ConfigError, InputError
from recon.operators.base import Operator
from recon.operators.blur import BlurParams
from recon.operators.blur import build as build_blur
from recon.operators.denoise import Identity
from recon.operators.registry import build, draw, family, parse_params
from recon.operators.response_blur import light_of, response
from recon.operators.units import InUnits
from recon.operators.value_range import with_range

SMALL_BLUR = {"size": 5, "intensity": 0.4}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("phase-retrieval", {}),
    ("phase-retrieval", {"input": "unit", "oversample": 0.0}),
    ("phase-retrieval", {"oversample": 3.7, "low": -20.0, "high": 235.0}),
    ("hdr", {}),
    ("hdr", {"factor": 3.5, "low": 10.0, "high": 250.0}),
    ("nonlinear-blur", SMALL_BLUR),
    ("nonlinear-blur", {**SMALL_BLUR, "exposure": 1.7, "low": 0.0, "high": 255.0}),
    ("nonlinear-blur", {"kernel": "gaussian", "size": 7, "sigma": 1.2, "boundary": "circular"}),
]
SHAPES = [(1, 12, 15), (3, 16, 8), (2, 3, 9, 11)]


def make(kind: str, shape: tuple[int, ...], **params: Any) -> Operator:
    return build(draw(kind, params, shape, 0))


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("kind", "params"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_battery(kind: str, params: dict[str, Any], shape: tuple[int, ...]) -> None:
    low, high = params.get("low", 0.0), params.get("high", 1.0)
    op = make(kind, shape, **params)
    assert op.value_range == (low, high) and op.differentiable
    check_nonlinear(op, low, high)
    # and a bit beyond black and white, where a sampler's estimates may lie
    check_slope(op.to(dtype=torch.float64), images(op, 2, low - 0.2 * (high - low), high + 0.2 * (high - low)))
    spec = draw(kind, params, shape, 0)
    again = draw(kind, json.loads(json.dumps(spec.params)), shape, 1, spec.arrays)
    x = images(op, 1, low, high).float()
    assert torch.equal(build(again).forward(x), op.forward(x))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_battery_on_the_gpu() -> None:
    for kind, params in CASES:
        low, high = params.get("low", 0.0), params.get("high", 1.0)
        check_nonlinear(make(kind, (3, 16, 12), **params), low, high, device="cuda")


# phase retrieval


def centred_amplitude(u: Tensor, pad: int) -> Tensor:
    """The published operator: zeros all around, centred orthonormal Fourier transform, amplitude."""
    framed = torch.nn.functional.pad(u, (pad, pad, pad, pad))
    shifted = torch.fft.ifftshift(framed, dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=(-2, -1)).abs()


def test_phase_retrieval_is_the_published_operator() -> None:
    v = uniform(2, 3, 32, 32)
    op = make("phase-retrieval", (3, 32, 32)).to(dtype=torch.float64)
    assert op.out_shape == (3, 48, 48)  # 256 becomes 384 at the published size
    assert torch.allclose(2 * op.forward(v), centred_amplitude(2 * v - 1, 8), atol=1e-12)  # DPS, on [-1, 1]
    unit = make("phase-retrieval", (3, 32, 32), input="unit").to(dtype=torch.float64)
    assert torch.allclose(unit.forward(v), centred_amplitude(v, 8), atol=1e-12)  # DAPS, on [0, 1]
    assert make("phase-retrieval", (1, 256, 256)).out_shape == (1, 384, 384)


def test_phase_retrieval_in_a_priors_units_is_that_of_dps() -> None:
    """Images of 0..255 and a prior on [-1, 1]: v = 127.5 u + 127.5."""
    u = 2 * uniform(1, 1, 16, 16) - 1
    op = make("phase-retrieval", (1, 16, 16), low=0, high=255).to(dtype=torch.float64)
    inner = InUnits(op, 127.5, 127.5)
    assert torch.allclose(inner.forward(u), centred_amplitude(u, 4), atol=1e-12)
    assert inner.value_range == (-1.0, 1.0)


def test_what_phase_retrieval_cannot_tell_apart() -> None:
    op = make("phase-retrieval", (1, 12, 12), oversample=4.0).to(dtype=torch.float64)
    v = torch.full((1, 1, 12, 12), 0.5, dtype=torch.float64)
    v[..., 3:9, 2:8] = uniform(6, 6)
    y = op.forward(v)
    for twin in (v.roll((2, 3), (-2, -1)), v.flip((-2, -1)), 1 - v):
        assert torch.allclose(op.forward(twin), y, atol=1e-12)
    assert not torch.allclose(op.forward(v.flip(-1)), y, atol=1e-2)
    assert torch.allclose(y.square().sum(), (v - 0.5).square().sum())  # Parseval


def test_the_slope_is_finite_where_the_amplitude_is_zero() -> None:
    op = make("phase-retrieval", (1, 8, 8)).to(dtype=torch.float64)
    x = torch.full((1, 1, 8, 8), 0.5, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(op.forward(x).sum(), x)
    assert bool((slope == 0).all())


@pytest.mark.parametrize("oversample", [0.0, 1.0, 2.0, 3.7, 8.0])
def test_the_shape_of_a_measurement_gives_that_of_the_image(oversample: float) -> None:
    fam, params = family("phase-retrieval"), parse_params("phase-retrieval", {"oversample": oversample})
    for rows, columns in ((1, 7), (12, 15), (64, 33)):
        y_shape = make("phase-retrieval", (2, rows, columns), oversample=oversample).out_shape
        assert fam.reads_shape is not None and fam.reads_shape(params, {}, y_shape) == (2, rows, columns)
    eight = parse_params("phase-retrieval", {"oversample": 8.0})
    assert fam.reads_shape is not None and fam.reads_shape(eight, {}, (1, 9, 10)) is None


# saturation


def test_hdr_is_the_published_operator() -> None:
    v = uniform(2, 1, 9, 9)
    y = make("hdr", (1, 9, 9)).to(dtype=torch.float64).forward(v)
    assert torch.allclose(2 * y - 1, (2 * (2 * v - 1)).clamp(-1, 1), atol=1e-14)
    assert 0.4 < float(((y == 0) | (y == 1)).double().mean()) < 0.6
    byte = make("hdr", (1, 9, 9), low=0, high=255).to(dtype=torch.float64).forward(255 * v)
    assert torch.allclose(byte, 255 * y, atol=1e-10)


def test_no_slope_comes_from_saturated_values() -> None:
    op = make("hdr", (1, 1, 4)).to(dtype=torch.float64)
    x = torch.tensor([[[[0.1, 0.3, 0.6, 0.9]]]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(op.forward(x).sum(), x)
    assert slope.flatten().tolist() == [0, 2, 2, 0]


# blur of light


def test_the_response_is_srgb_and_its_inverse() -> None:
    values = torch.linspace(-0.5, 1.5, 401, dtype=torch.float64)
    assert torch.allclose(response(light_of(values)), values, atol=1e-6)  # the standard's constants meet to 1e-7
    known = torch.tensor([0.0, 0.04045, 0.5, 1.0], dtype=torch.float64)
    assert torch.allclose(light_of(known), torch.tensor([0, 0.0031308, 0.2140411, 1], dtype=torch.float64), atol=1e-7)
    assert bool((values.diff() > 0).all() and (response(values).diff() > 0).all())


def test_flat_images_stay_and_bright_points_spread_further_than_in_a_linear_blur() -> None:
    shape = (1, 15, 15)
    op = make("nonlinear-blur", shape, kernel="gaussian", size=7, sigma=1.0).to(dtype=torch.float64)
    flat = torch.full((1, *shape), 0.3, dtype=torch.float64)
    assert torch.allclose(op.forward(flat), flat, atol=1e-6)
    star = torch.zeros(1, *shape, dtype=torch.float64)
    star[..., 7, 7] = 1
    linear = build_blur(BlurParams("gaussian", 7, 1.0), shape, draw("blur", {"size": 7, "sigma": 1.0}, shape, 0).arrays)
    plain = linear.to(dtype=torch.float64).forward(star)
    assert torch.allclose(op.forward(star), response(plain), atol=1e-6)
    assert bool((op.forward(star) >= plain - 1e-9).all()) and float(op.forward(star).sum()) > 2 * float(plain.sum())


def test_exposure_saturates_highlights() -> None:
    v = torch.linspace(0, 1, 15, dtype=torch.float64).expand(1, 1, 15, 15)
    y = make("nonlinear-blur", (1, 15, 15), size=1, kernel="gaussian", exposure=2.0).to(dtype=torch.float64).forward(v)
    assert torch.allclose(y, response((2 * light_of(v)).clamp_max(1)), atol=1e-6)
    assert bool((y[..., -4:] > 1 - 1e-12).all()) and float(y[..., 7].max()) < 1


def test_a_kernel_comes_from_a_file_or_must_come_with_the_measurement() -> None:
    kernel = np.zeros((3, 3))
    kernel[1, 1] = 1.0
    op = build(draw("nonlinear-blur", {"kernel": "array"}, (1, 8, 8), 0, {"kernel": kernel}))
    v = uniform(1, 1, 8, 8).float()
    assert torch.allclose(op.forward(v), v, atol=1e-5)
    fam = family("nonlinear-blur")
    assert fam.never_invented(parse_params("nonlinear-blur", {})) == {"kernel"}
    assert not fam.never_invented(parse_params("nonlinear-blur", {"kernel": "gaussian"}))
    with pytest.raises(InputError, match="no array 'kernel'"):
        fam.build(parse_params("nonlinear-blur", {}), (1, 8, 8), {})


# units and refusals


def test_black_and_white_come_from_the_file_where_nobody_gives_them() -> None:
    assert with_range("hdr", {"factor": 3.0}, (0, 255)) == {"factor": 3.0, "low": 0.0, "high": 255.0}
    assert with_range("hdr", {"high": 2.0}, (0, 255)) == {"high": 2.0}
    assert with_range("hdr", {}, None) == {}
    assert with_range("blur", {}, (0, 255)) == {}


def test_an_operator_in_other_units_keeps_what_it_declares() -> None:
    base = Identity((1, 2, 2))
    base.support = torch.ones(2, 2)
    inner = InUnits(base, 2.0, 3.0)
    x = uniform(1, 1, 2, 2).float()
    assert torch.allclose(inner.forward(x), x + 1.5)
    assert inner.support is base.support and inner.differentiable and inner.value_range is None
    assert inner.to(dtype=torch.float64).forward(x.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        ("phase-retrieval", {"oversample": -1.0}, "oversample = -1"),
        ("phase-retrieval", {"oversample": float("nan")}, "oversample = nan"),
        ("phase-retrieval", {"input": "centred"}, "parameter input"),
        ("phase-retrieval", {"low": 1.0, "high": 1.0}, "low = 1"),
        ("hdr", {"factor": 0.0}, "factor = 0"),
        ("hdr", {"high": float("inf")}, "high = inf"),
        ("nonlinear-blur", {"exposure": 0.0}, "exposure = 0"),
        ("nonlinear-blur", {"size": 4}, "odd|size = 4"),
        ("nonlinear-blur", {"boundary": "valid"}, "parameter boundary"),
        ("nonlinear-blur", {"low": 2.0}, "low = 2"),
    ],
)
def test_parameters_that_cannot_work_are_refused(kind: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draw(kind, params, (1, 16, 16), 0)
    with pytest.raises(ConfigError, match="expects an image shape"):
        draw(kind, {}, (16, 16), 0)
