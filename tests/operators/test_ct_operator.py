"""Parallel-beam CT as an operator: battery, random geometries, known answers, refusals."""

import json

import numpy as np
import pytest
import torch
from battery import check_operator, inner, norm
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.data import OperatorSpec
from recon.errors import ConfigError, InputError
from recon.kernels.reference import StoredMatrix, StreamedMatrix
from recon.operators.ct import default_detectors
from recon.operators.registry import build, draw, family, parse_params


def make(shape, given=None, **params):
    return build(draw("ct", params, (1, *shape), 0, given))


def disc(shape, radius, x0=0.0, y0=0.0):
    fine = (np.arange(5) - 2) / 5
    y, x = ((np.add.outer(np.arange(n), fine) - (n - 1) / 2).ravel() for n in shape)
    inside = np.add.outer((-y - y0) ** 2, (x - x0) ** 2) < radius**2
    image = inside.reshape(shape[0], 5, shape[1], 5).mean((1, 3))
    return torch.from_numpy(image).float()[None, None]


@pytest.mark.parametrize("shape", [(16, 16), (15, 15), (9, 14), (1, 6)])
@pytest.mark.parametrize(
    "params",
    [
        {"angles": 12},
        {"angles": 9, "start": -20.0, "arc": 100.0, "detector_spacing": 0.7, "pixel_size": 0.3},
        {"angles": 8, "arc": 360.0, "detector_offset": 1.25, "detectors": 5, "allow_truncation": True},
    ],
)
def test_battery(shape, params):
    check_operator(make(shape, **params))


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 24),
    columns=st.integers(1, 24),
    angles=st.lists(st.floats(-360, 360), min_size=1, max_size=7),
    spacing=st.floats(0.4, 2.5),
    offset=st.floats(-3, 3),
)
def test_adjoint_of_any_geometry(rows, columns, angles, spacing, offset):
    op = make((rows, columns), {"angles": np.array(angles)}, detector_spacing=spacing, detector_offset=offset)
    generator = torch.Generator().manual_seed(0)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        a = op.to(dtype=dtype)
        x = torch.randn(2, *a.in_shape, dtype=dtype, generator=generator)
        for y in (a.forward(x), torch.randn(2, *a.out_shape, dtype=dtype, generator=generator)):
            # a single ray may sum to almost nothing: then the other product is the scale
            bound = tolerance * max(norm(a.forward(x)) * norm(y), norm(x) * norm(a.adjoint(y)))
            assert abs(inner(a.forward(x), y) - inner(x, a.adjoint(y))) <= bound


def test_a_disc_projects_to_its_chords_and_back_to_its_density():
    op = make((96, 96))
    image = disc((96, 96), 30, x0=10, y0=-6)
    y = op.forward(image)
    theta = np.radians(op.geometry.angles)[:, None]
    s = op.geometry.detector_axis() - (10 * np.cos(theta) - 6 * np.sin(theta))
    chords = 2 * np.sqrt(np.maximum(30**2 - s**2, 0))
    assert np.linalg.norm(y[0, 0].numpy() - chords) < 0.01 * np.linalg.norm(chords)
    fbp = op.pinv(y)[0, 0]
    centre = fbp[50:58, 54:62]  # around the disc's centre, 10 right of and 6 below the image's
    assert abs(float(centre.mean()) - 1) < 0.01 and float((centre - 1).abs().max()) < 0.02


def test_parameters_make_evenly_spaced_angles():
    assert np.array_equal(make((8, 8), angles=4).geometry.angles, [0, 45, 90, 135])
    assert np.array_equal(make((8, 8), angles=120, arc=120.0).geometry.angles, np.arange(120))
    assert np.array_equal(make((8, 8), angles=3, start=30.0, arc=-90.0).geometry.angles, [30, 0, -30])
    assert make((8, 8)).out_shape == (1, 180, 12)


@pytest.mark.parametrize("side, count", [(256, 364), (255, 361), (1, 3), (64, 92)])
def test_default_detectors_cover_the_diagonal_in_step_with_the_pixels(side, count):
    assert default_detectors((side, side)) == default_detectors((side, max(1, side // 2))) == count
    assert make((5, 9), angles=3).geometry.overhang() <= 0
    assert make((5, 9), angles=3, detector_spacing=0.37, detector_offset=2.2).geometry.overhang() <= 0


def test_radians_are_refused():
    radians = np.linspace(0, np.pi, 30, endpoint=False)
    with pytest.raises(ConfigError, match="radians") as caught:
        make((8, 8), {"angles": radians})
    assert "degrees" in caught.value.hint
    with pytest.raises(ConfigError, match="radians"):
        make((8, 8), arc=3.14159)
    assert make((8, 8), {"angles": np.degrees(radians)}).out_shape[1] == 30
    assert make((8, 8), {"angles": radians[:7]}).out_shape[1] == 7


def test_a_detector_that_misses_the_image_is_refused():
    with pytest.raises(ConfigError, match="miss up to") as caught:
        make((16, 16), detectors=16)
    assert "allow_truncation" in caught.value.hint and "24" in caught.value.hint
    assert make((16, 16), detectors=16, allow_truncation=True).out_shape == (1, 180, 16)
    assert make((16, 16), {"angles": np.array([0.0, 90])}, detectors=16).out_shape == (1, 2, 16)
    with pytest.raises(ConfigError, match="offset 9"):
        make((16, 16), detectors=24, detector_offset=9.0)


def test_a_large_scan_stores_no_matrix(monkeypatch):
    monkeypatch.setenv("RECON_KERNELS", "reference")
    stored, streamed = make((16, 16)), make((16, 16), memory_gb=1e-5)
    assert isinstance(stored.projector, StoredMatrix) and isinstance(streamed.projector, StreamedMatrix)
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(streamed.forward(x), stored.forward(x), rtol=0, atol=1e-5)
    y = stored.forward(x)
    torch.testing.assert_close(streamed.adjoint(y), stored.adjoint(y), rtol=0, atol=1e-3)
    check_operator(make((9, 7), angles=5, memory_gb=1e-6))


def test_slices_of_a_volume_are_projected_one_by_one():
    stack = build(draw("ct", {"angles": 7, "detector_offset": 0.4}, (1, 5, 9, 8), 0))
    single = make((9, 8), angles=7, detector_offset=0.4)
    assert stack.out_shape == (1, 5, *single.out_shape[1:])
    x = torch.randn(2, 1, 5, 9, 8, generator=torch.Generator().manual_seed(0))
    y = stack.forward(x)
    for b in range(2):
        for z in range(5):
            torch.testing.assert_close(y[b : b + 1, :, z], single.forward(x[b : b + 1, :, z]), rtol=0, atol=1e-5)
            torch.testing.assert_close(stack.pinv(y)[b : b + 1, :, z], single.pinv(y[b : b + 1, :, z]))
    check_operator(stack)


def test_complex_images_are_projected_by_parts():
    op = make((9, 8), angles=7)
    x = torch.randn(2, 1, 9, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    y = op.forward(x)
    torch.testing.assert_close(y, torch.complex(op.forward(x.real), op.forward(x.imag)))
    torch.testing.assert_close(op.adjoint(y), torch.complex(op.adjoint(y.real), op.adjoint(y.imag)))


def test_bad_arrays_and_parameters_are_refused():
    for angles, message in (
        (np.zeros((3, 3)), "shape"),
        (np.array([0, np.nan]), "non-finite"),
        (np.array([]), "empty"),
    ):
        with pytest.raises(InputError, match=message):
            make((8, 8), {"angles": angles})
    with pytest.raises(ConfigError, match="angles = 5"):
        make((8, 8), {"angles": np.array([0.0, 90.0])}, angles=5)
    with pytest.raises(InputError, match="'angles'"):
        build(OperatorSpec("ct", {}, (1, 8, 8), {}))
    with pytest.raises(ConfigError, match=r"\(1, Y, X\)"):
        draw("ct", {}, (3, 8, 8), 0)
    for params in (
        {"angles": 0},
        {"detectors": 0},
        {"detector_spacing": 0.0},
        {"pixel_size": -1.0},
        {"arc": 0.0},
        {"arc": 400.0},
        {"start": float("nan")},
        {"memory_gb": 0.0},
    ):
        with pytest.raises(ConfigError):
            parse_params("ct", params)


def test_a_specification_rebuilds_the_same_operator():
    spec = draw("ct", {"angles": 7, "start": 3.0, "detector_offset": 0.4}, (1, 12, 9), 0)
    assert spec.arrays["angles"].dtype == np.float64
    again = OperatorSpec(spec.kind, json.loads(json.dumps(spec.params)), spec.in_shape, spec.arrays)
    x = torch.randn(2, 1, 12, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(build(spec).forward(x), build(again).forward(x))


@settings(max_examples=50, deadline=None)
@given(side=st.integers(1, 700), spacing=st.sampled_from([0.5, 1.0, 1.7]), offset=st.sampled_from([0.0, 0.3]))
def test_reads_the_square_image_from_a_default_detector(side, spacing, offset):
    fam = family("ct")
    params = parse_params("ct", {"detector_spacing": spacing, "detector_offset": offset})
    found = fam.reads_shape(params, {}, (1, 60, default_detectors((side, side), spacing, offset)))
    assert found is not None and abs(found[1] - side) <= (1 if spacing <= 1 else 2)
    assert default_detectors(found[1:], spacing, offset) == default_detectors((side, side), spacing, offset)
    if spacing == 1 and offset == 0:
        assert found == (1, side, side)


def test_reads_no_shape_where_it_cannot_be_known():
    fam = family("ct")
    read = lambda y, arrays=None, **params: fam.reads_shape(parse_params("ct", params), arrays or {}, y)  # noqa: E731
    assert read((1, 60, 363), detectors=363) == (1, 256, 256)
    assert read((1, 60, 363)) is None
    assert read((60, 364)) is None
    assert read((1, 60, 364), allow_truncation=True) is None
    assert read((1, 60, 364), angles=30) is None
    assert read((1, 60, 364), {"angles": np.zeros(60)}) == (1, 256, 256)
    assert read((1, 60, 1), detectors=1) is None
