"""Coded diffraction, ptychography, holography and JPEG: definitions, slopes, known answers, refusals."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from nonlinear_battery import check_nonlinear, check_slope, images
from PIL import Image
from torch import Tensor

from recon.data import OperatorSpec
from recon.errors import ConfigError, InputError
from recon.operators.base import Operator
from recon.operators.jpeg import LUMINANCE, quantisation
from recon.operators.object_field import ObjectField
from recon.operators.registry import build, draw, family, parse_params
from recon.operators.units import InUnits

CASES: list[tuple[str, dict[str, Any]]] = [
    ("coded-diffraction", {"masks": 2}),
    ("coded-diffraction", {"phases": "uniform", "object": "phase", "low": -20.0, "high": 235.0}),
    ("coded-diffraction", {"object": "symmetric", "masks": 1}),
    ("ptychography", {"window": 6}),
    ("ptychography", {"window": 7, "object": "phase", "radius": 1.0, "overlap": 0.0, "low": 5.0, "high": 7.0}),
    ("holography", {}),
    ("holography", {"object": "unit", "distance": 12.5, "reference": 0.7, "low": 0.0, "high": 255.0}),
]


def make(kind: str, shape: tuple[int, ...], given: Any = None, **params: Any) -> Operator:
    return build(draw(kind, params, shape, 0, given))


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(1, 12, 15), (3, 9, 8), (2, 3, 7, 6)], ids=str)
@pytest.mark.parametrize(("kind", "params"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_battery(kind, params, shape):
    if kind == "ptychography" and len(shape) == 4:
        with pytest.raises(ConfigError, match=r"\(C, Y, X\)"):
            make(kind, shape, **params)
        return
    low, high = params.get("low", 0.0), params.get("high", 1.0)
    op = make(kind, shape, **params)
    assert op.value_range == (low, high) and op.differentiable
    check_nonlinear(op, low, high)
    check_slope(op.to(dtype=torch.float64), images(op, 2, low - 0.2 * (high - low), high + 0.2 * (high - low)))
    spec = draw(kind, params, shape, 0)
    again = draw(kind, json.loads(json.dumps(spec.params)), shape, 1, spec.arrays)
    x = images(op, 1, low, high).float()
    assert torch.equal(build(again).forward(x), op.forward(x))
    reads = family(kind).reads_shape
    assert reads is None or reads(parse_params(kind, params), {}, op.out_shape) == shape


@pytest.mark.parametrize(("kind", "params"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_data_scale_with_the_image(kind, params):
    """The same picture in other units has the same measurement in other units."""
    params = {k: v for k, v in params.items() if k not in ("low", "high")}
    plain = make(kind, (1, 9, 8), **params).to(dtype=torch.float64)
    other = make(kind, (1, 9, 8), **params, low=3.0, high=23.0).to(dtype=torch.float64)
    x = uniform(1, 1, 9, 8)
    torch.testing.assert_close(InUnits(other, 20.0, 3.0).forward(x), plain.forward(x), rtol=1e-6, atol=1e-9)


def test_fields_are_what_their_names_say():
    x = torch.tensor([-1.0, 0.0, 3.0])
    assert ObjectField("symmetric", -1.0, 3.0, 1.0)(x).tolist() == [-2, -1, 2]
    assert ObjectField("unit", -1.0, 3.0, 1.0)(x).tolist() == [0, 1, 4]
    field = ObjectField("phase", -1.0, 3.0, math.pi)(x)
    torch.testing.assert_close(field, torch.tensor([4, 4 * np.exp(0.25j * math.pi), -4], dtype=torch.complex64))


def centred(n: int) -> np.ndarray:
    k = np.arange(n) - n // 2
    return np.exp(-2j * np.pi * np.outer(k, k) / n) / np.sqrt(n)


def test_coded_diffraction_by_definition():
    masks = draw("coded-diffraction", {}, (1, 6, 7), 0).arrays["masks"]
    np.testing.assert_allclose(np.abs(masks), 1, rtol=1e-6)
    assert masks.shape == (4, 6, 7) and set(np.round(masks.ravel(), 3)) == {1, 1j, -1, -1j}
    x = uniform(1, 1, 6, 7)
    y = make("coded-diffraction", (1, 6, 7), {"masks": masks}).to(dtype=torch.float64).forward(x)
    expected = np.abs(centred(6) @ (masks * x[0, 0].numpy()) @ centred(7).T)
    np.testing.assert_allclose(y[0, 0].numpy(), expected, atol=1e-12)


def test_ptychography_by_definition():
    probe = (np.arange(20).reshape(4, 5) + 1j).astype(np.complex64)
    positions = np.array([[0, 0], [3, 2], [-2, 4], [5, -1]])
    op = make("ptychography", (2, 8, 7), {"probe": probe, "positions": positions}).to(dtype=torch.float64)
    x = uniform(1, 2, 8, 7)
    y = op.forward(x)
    assert y.shape == (1, 2, 4, 4, 5)
    padded = np.pad(x[0].numpy(), ((0, 0), (5, 5), (5, 5)))
    for j, (row, column) in enumerate(positions + 5):
        window = padded[:, row : row + 4, column : column + 5]
        expected = np.abs(centred(4) @ (probe * window) @ centred(5).T)
        np.testing.assert_allclose(y[0, :, j].numpy(), expected, atol=1e-9)


def test_probes_light_the_whole_image():
    spec = draw("ptychography", {}, (1, 40, 30), 2)
    light = np.zeros((140, 130))
    probe = np.abs(spec.arrays["probe"])
    for row, column in spec.arrays["positions"] + 50:
        light[row : row + len(probe), column : column + len(probe)] += probe**2
    assert light[50:90, 50:80].min() > 0.5


def test_the_side_band_of_a_hologram_holds_the_object():
    """Around the carrier, the spectrum of the fringes is that of the object, the wave's amplitude times it."""
    y, x = np.mgrid[:64, :64] / 64
    picture = torch.from_numpy(np.exp(-20 * ((y - 0.5) ** 2 + (x - 0.45) ** 2)))[None, None]
    op = make("holography", (1, 64, 64), reference=2.0).to(dtype=torch.float64)
    spectrum = np.fft.fft2(op.forward(picture)[0, 0].numpy())
    fringes = np.exp(2j * np.pi * 0.25 * np.add.outer(np.arange(64), np.arange(64)))
    shifted = np.fft.fft2(np.fft.ifft2(spectrum) * fringes)
    band = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64))) < 0.1
    found = np.fft.ifft2(shifted * band) / 2
    np.testing.assert_allclose(found, np.exp(1j * np.pi * picture[0, 0].numpy()), atol=0.05)


def test_propagation_keeps_the_light_and_undoes_itself():
    ahead, back = (make("holography", (1, 16, 12), distance=d, reference=1e-9) for d in (7.0, -7.0))
    x = uniform(1, 1, 16, 12)
    total = [float(op.to(dtype=torch.float64).forward(x).sum()) for op in (ahead, back)]
    assert total[0] == pytest.approx(16 * 12, rel=1e-6) and total[1] == pytest.approx(total[0], rel=1e-6)
    torch.testing.assert_close(ahead.transfer * back.transfer, torch.ones(16, 12, dtype=torch.complex64))


@pytest.mark.parametrize("quality", [10, 50, 90])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(40, 56), (37, 50)])
def test_jpeg_is_that_of_a_library(quality, channels, size):
    y, x = np.mgrid[: size[0], : size[1]]
    waves = [127 + 100 * np.sin(x / (5 + c)) * np.cos(y / (7 - c)) for c in range(channels)]
    picture = np.clip(np.stack(waves), 0, 255).round().astype(np.uint8)
    file = io.BytesIO()
    image = Image.fromarray(picture[0] if channels == 1 else np.moveaxis(picture, 0, -1))
    image.save(file, "JPEG", quality=quality, subsampling=0)
    decoded = np.asarray(Image.open(file), np.float64)
    expected = decoded[None] if channels == 1 else np.moveaxis(decoded, -1, 0)
    op = make("jpeg", (channels, *size), quality=quality, low=0.0, high=255.0)
    found = op.forward(torch.from_numpy(picture).float()[None])[0].numpy()
    tables = Image.open(file).quantization
    assert all(op.steps[c].flatten().tolist() == tables[min(c, 1)] for c in range(channels))
    # how edges are continued, and rounding of colours and pixels on the way, is the coder's own affair
    inside = np.s_[:, : size[0] // 8 * 8, : size[1] // 8 * 8]
    error, loss = np.abs(found - expected)[inside], np.abs(picture - expected)[inside]
    assert np.median(error) < 0.8 and error.mean() < 0.15 * loss.mean() + 0.65


def test_jpeg_gradients_pass_or_do_not():
    x = uniform(2, 3, 9, 12).float().requires_grad_()
    through = make("jpeg", (3, 9, 12))
    assert through.differentiable
    (gradient,) = torch.autograd.grad(through.forward(x).sum(), x)
    inside = (through.forward(x) > 0) & (through.forward(x) < 1)
    assert bool(inside.any()) and float(gradient.abs().max()) > 0.5
    # far from black and white, the slope is that of the identity
    grey = (0.5 + 0.01 * uniform(1, 1, 16, 16)).float().requires_grad_()
    (gradient,) = torch.autograd.grad(make("jpeg", (1, 16, 16)).forward(grey).sum(), grey)
    torch.testing.assert_close(gradient, torch.ones_like(grey))
    box = make("jpeg", (3, 9, 12), gradient="none")
    assert not box.differentiable and not box.forward(x).requires_grad
    torch.testing.assert_close(box.forward(x.detach()), through.forward(x).detach())


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 8, 24), (3, 9, 12), (2, 3, 7, 10)])
def test_jpeg_keeps_the_contract(shape):
    op = make("jpeg", shape, quality=20, low=-1.0, high=1.0)
    x = (2 * uniform(3, *shape) - 1).float()
    kept, y = x.clone(), op.forward(x)
    assert y.shape == x.shape and y.dtype == torch.float32 and torch.equal(op.forward(x), y) and torch.equal(x, kept)
    assert float(y.min()) >= -1 and float(y.max()) <= 1
    torch.testing.assert_close(torch.cat([op.forward(item) for item in x.split(1)]), y)
    assert op.to(dtype=torch.float64).forward(x.double()).dtype == torch.float64
    with pytest.raises(ConfigError, match="expects a"):
        op.forward(x[..., :-1])
    if shape[-1] % 8 == 0 and shape[-2] % 8 == 0:  # whole blocks that are coded already stay as they are
        grey = op.forward(0.2 * x)
        torch.testing.assert_close(op.forward(grey), grey, atol=1e-4, rtol=0)


def test_tables_follow_the_quality():
    assert torch.equal(quantisation(LUMINANCE, 100), torch.ones(8, 8))
    assert quantisation(LUMINANCE, 50)[0].tolist() == [16, 11, 10, 16, 24, 40, 51, 61]
    assert quantisation(LUMINANCE, 25)[0, :3].tolist() == [32, 22, 20] and quantisation(LUMINANCE, 1).max() == 255


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        ("coded-diffraction", {"masks": np.ones((2, 8, 9))}, r"expected \(masks, 8, 8\)"),
        ("ptychography", {"probe": np.zeros((3, 3))}, "no .w, w. field"),
        ("ptychography", {"positions": np.ones((3, 3))}, "whole pixels"),
        ("ptychography", {"positions": np.full((3, 2), 0.5)}, "whole pixels"),
        ("ptychography", {"positions": np.full((3, 2), 8)}, "outside the image"),
    ],
)
def test_bad_arrays_are_named(kind, given, words):
    with pytest.raises(InputError, match=words):
        make(kind, (1, 8, 8), given)


def test_arrays_belong_to_the_measurement():
    for kind in ("coded-diffraction", "ptychography"):
        names = set(family(kind).arrays)
        assert family(kind).never_invented(parse_params(kind, {})) == names
        with pytest.raises(InputError, match="has no array"):
            build(OperatorSpec(kind, {}, (1, 8, 8)))


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("coded-diffraction", {"masks": 0}),
        ("coded-diffraction", {"depth": 0.0}),
        ("ptychography", {"window": 1}),
        ("ptychography", {"overlap": 1.0}),
        ("ptychography", {"radius": 0.0}),
        ("holography", {"carrier": (0.6, 0.0)}),
        ("holography", {"reference": 0.0}),
        ("holography", {"low": 1.0, "high": 0.0}),
        ("jpeg", {"quality": 0}),
        ("jpeg", {"quality": 101}),
    ],
)
def test_bad_parameters_are_refused(kind, params):
    with pytest.raises(ConfigError, match=kind):
        parse_params(kind, params)
