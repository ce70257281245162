"""Fan-beam and cone-beam CT as operators: battery, defaults, known answers, refusals."""

import json

import numpy as np
import pytest
import torch
from battery import check_operator

from recon.data import OperatorSpec
from recon.errors import ConfigError, InputError
from recon.operators.registry import build, draw, parse_params

FANS = [
    {"angles": 9},
    {"angles": 8, "curved": True, "start": -20.0, "arc": 200.0, "pixel_size": 0.3, "detector_offset": 0.4},
    {"angles": 7, "detectors": 5, "allow_truncation": True, "source_distance": 30.0, "detector_distance": 45.0},
]
CONES = [
    {"angles": 5},
    {"angles": 6, "arc": -220.0, "pixel_size": 0.5, "slice_distance": 0.8, "row_offset": 0.3, "column_offset": -0.7},
    {"angles": 4, "detector_rows": 2, "detector_columns": 4, "allow_truncation": True, "row_pitch": 2.0},
]


def make(kind, shape, given=None, **params):
    return build(draw(kind, params, (1, *shape), 0, given))


@pytest.mark.parametrize("kernels", ["", "reference"])
@pytest.mark.parametrize("params", FANS)
@pytest.mark.parametrize("shape", [(12, 12), (9, 14)])
def test_fan_battery(monkeypatch, kernels, shape, params):
    monkeypatch.setenv("RECON_KERNELS", kernels)
    check_operator(make("ct-fan", shape, **params))


@pytest.mark.parametrize("kernels", ["", "reference"])
@pytest.mark.parametrize("params", CONES)
@pytest.mark.parametrize("shape", [(5, 9, 8), (1, 6, 7)])
def test_cone_battery(monkeypatch, kernels, shape, params):
    monkeypatch.setenv("RECON_KERNELS", kernels)
    check_operator(make("ct-cone", shape, **params))


def test_defaults_see_the_whole_image():
    fan, cone = make("ct-fan", (20, 30)), make("ct-cone", (6, 20, 30))
    assert fan.out_shape[:2] == (1, 360) and fan.geometry.overhang() <= 0
    assert cone.geometry.overhang() <= 0 and cone.geometry.fan().overhang() <= 0
    assert make("ct-fan", (20, 30), detector_offset=11.0).geometry.overhang() <= 0
    ones = torch.ones(1, 1, 6, 20, 30)
    assert bool((cone.adjoint(torch.ones(1, *cone.out_shape)) > 0).all()) and bool((cone.forward(ones) >= 0).all())


def test_the_middle_slice_of_a_cone_is_a_fan():
    geometry = {"source_distance": 40.0, "detector_distance": 70.0, "detector_offset": 0.4, "detectors": 60}
    fan = make("ct-fan", (16, 15), angles=11, detector_pitch=1.2, **geometry)
    cone = make(
        "ct-cone",
        (5, 16, 15),
        angles=11,
        detector_rows=3,
        detector_columns=60,
        column_pitch=1.2,
        column_offset=0.4,
        source_distance=40.0,
        detector_distance=70.0,
        allow_truncation=True,
    )
    x = torch.randn(1, 1, 5, 16, 15, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cone.forward(x)[:, :, :, 1], fan.forward(x[:, :, 2]), rtol=0, atol=1e-4)


def test_lengths_are_in_millimetres():
    x = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    lengths = {"source_distance": 40.0, "detector_distance": 60.0, "detector_pitch": 1.1, "detector_offset": 0.3}
    plain = make("ct-fan", (12, 12), angles=5, **lengths)
    halved = make("ct-fan", (12, 12), angles=5, pixel_size=0.5, **{k: v / 2 for k, v in lengths.items()})
    torch.testing.assert_close(halved.forward(x), 0.5 * plain.forward(x))
    torch.testing.assert_close(halved.pinv(halved.forward(x)), plain.pinv(plain.forward(x)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind, shape", [("ct-fan", (16, 16)), ("ct-cone", (4, 16, 16))])
def test_wrong_geometries_are_named(kind, shape):
    radians = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    for params, given, message in (
        ({}, {"angles": radians}, "radians"),
        ({"source_distance": 9.0}, None, "inside the image"),
        ({"source_distance": 30.0, "detector_distance": 25.0}, None, "not beyond the axis"),
        ({"angles": 3}, {"angles": np.zeros(4)}, "angles = 3"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            make(kind, shape, given, **params)
        assert caught.value.hint and "\n" not in caught.value.message
    too_few = {"detectors": 10} if kind == "ct-fan" else {"detector_columns": 10}
    with pytest.raises(ConfigError, match="miss up to") as caught:
        make(kind, shape, **too_few)
    assert "allow_truncation" in caught.value.hint
    with pytest.raises(InputError, match="shape"):
        make(kind, shape, {"angles": np.zeros((2, 2))})
    with pytest.raises(ConfigError, match="expects"):
        draw(kind, {}, (3, *shape), 0)
    with pytest.raises(InputError, match="'angles'"):
        build(OperatorSpec(kind, {}, (1, *shape), {}))


def test_a_cone_that_is_too_steep_or_too_low_is_refused():
    with pytest.raises(ConfigError, match="degrees steep"):
        make("ct-cone", (40, 8, 8), source_distance=12.0)
    with pytest.raises(ConfigError, match="miss up to"):
        make("ct-cone", (20, 8, 8), detector_rows=4)


@pytest.mark.parametrize("kind", ["ct-fan", "ct-cone"])
@pytest.mark.parametrize(
    "params", [{"angles": 0}, {"pixel_size": 0.0}, {"arc": 400.0}, {"source_distance": -1.0}, {"start": float("nan")}]
)
def test_bad_parameters_are_refused(kind, params):
    with pytest.raises(ConfigError):
        parse_params(kind, params)


@pytest.mark.parametrize("kind, shape", [("ct-fan", (9, 8)), ("ct-cone", (3, 9, 8))])
def test_a_specification_rebuilds_the_same_operator(kind, shape):
    spec = draw(kind, {"angles": 7, "start": 3.0}, (1, *shape), 0)
    again = OperatorSpec(spec.kind, json.loads(json.dumps(spec.params)), spec.in_shape, spec.arrays)
    x = torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(build(spec).forward(x), build(again).forward(x))
