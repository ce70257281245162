"""From a file's measurement to a method's problem: scaling, simulation, and what INPUT resolves to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recon.config.schema import Config, ScalingSection
from recon.data import Geometry, Measurement, NoiseSpec, OperatorSpec, Volume, to_stack
from recon.errors import ConfigError, InputError
from recon.io import disk
from recon.io.registry import read_measurement, write_volume
from recon.likelihoods import Gaussian, Poisson
from recon.operators.base import LinearOperator, Operator
from recon.operators.registry import build, draw
from recon.runs.plan import make_plan
from recon.runs.problem import on_device, scale_problem, unit_norm
from recon.runs.resolve_input import resolve_input
from recon.runs.scaling import Window, data_range, find_window
from recon.runs.simulate import simulate
from recon.training.intensity import foreground_quantile, foreground_quantile_of_parts

FEW = settings(max_examples=25, deadline=None)
SHAPE = (1, 24, 20)
OPERATORS: dict[str, dict[str, Any]] = {
    "blur": {"size": 5, "sigma": 1.0},
    "mri": {"acceleration": 2.0, "acs": 0.2},
    "ct": {"angles": 9},
    "downsample": {"factor": 2},
}


class Squared(Operator):
    """A black box: y = x^2."""

    in_shape = out_shape = SHAPE
    differentiable = False

    def _forward(self, x: Tensor) -> Tensor:
        return x**2


def config(kind: str = "denoise", noise: dict[str, Any] | None = None, **sections: Any) -> Config:
    params = sections.pop("params", OPERATORS.get(kind, {}))
    run = {"device": "cpu", "threads": 1, **sections.pop("run", {})}
    content = {"operator": {"kind": kind, **params}, "noise": noise or {"sigma": 0.0}, "method": {"name": "cg"}}
    return Config.model_validate({**content, "run": run, **sections})


def operator(kind: str) -> LinearOperator:
    op = build(draw(kind, OPERATORS.get(kind, {}), SHAPE, 0))
    assert isinstance(op, LinearOperator)
    return op


def head(rows: int = 24, columns: int = 20, top: float = 200.0) -> np.ndarray:
    """A smooth bright ellipse on black, float32."""
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    radius = (x / 0.8) ** 2 + (y / 0.8) ** 2
    return (top * (1 - 0.5 * radius) * (radius < 1)).astype(np.float32)


def truth(array: np.ndarray, axes: tuple[str, ...] = ("y", "x"), **geometry: Any) -> Volume:
    return Volume(array, Geometry(axes, **geometry))


def relative(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


# --- the problem in the method's units


@FEW
@given(
    st.sampled_from(sorted(OPERATORS)),
    st.floats(0.1, 500),
    st.floats(-2, 2),
    st.sampled_from([None, 0.3, 40.0]),
    st.integers(0, 99),
)
def test_the_problem_holds_for_the_scaled_image(kind, a, b_over_a, norm, seed):
    """v = a u + b and y = A v give (A/norm) u = (y - b A 1)/(a norm)."""
    op, b = operator(kind), a * b_over_a
    u = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(seed))
    y = op.forward(a * u + b)
    scaled = scale_problem(op, y, NoiseSpec("gaussian", sigma=3.0), a, b, norm)
    seen = scaled.problem.operator.forward(u)
    assert relative(seen, scaled.problem.y) < 2e-5
    assert relative(seen, op.forward(u) / (norm or 1)) < 1e-6
    assert relative(scaled.a * u + scaled.b, a * u + b) == 0
    likelihood = scaled.problem.likelihood
    assert isinstance(likelihood, Gaussian) and likelihood.sigma == pytest.approx(3.0 / (a * (norm or 1)))


@pytest.mark.parametrize("kind", sorted(OPERATORS))
def test_a_unit_norm_is_1(kind):
    op = operator(kind)
    norm = unit_norm(op)
    assert norm is not None
    y = op.forward(torch.ones(1, *SHAPE))
    scaled = scale_problem(op, y, NoiseSpec("none"), 2.0, 0.0, norm).problem.operator
    # the exact norm, from the dense matrix with complex outputs as two real ones
    columns = scaled.forward(torch.eye(480).reshape(480, *SHAPE)).flatten(1)
    matrix = torch.view_as_real(columns).flatten(1) if columns.is_complex() else columns
    assert float(torch.linalg.matrix_norm(matrix, 2)) == pytest.approx(1, abs=2e-3)
    assert unit_norm(Squared()) is None


@FEW
@given(st.floats(0.5, 100), st.floats(0, 2), st.floats(0.1, 50), st.sampled_from([None, 4.0]))
def test_the_poisson_rate_is_that_of_the_image_in_its_own_units(a, b_over_a, gain, norm):
    op, b = operator("blur"), a * b_over_a
    u = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1)) + 0.5
    rate = gain * op.forward(a * u + b)
    counts = torch.poisson(rate, torch.Generator().manual_seed(2))
    scaled = scale_problem(op, counts / gain, NoiseSpec("poisson", gain=gain), a, b, norm).problem
    assert isinstance(scaled.likelihood, Poisson)
    z = scaled.operator.forward(u)
    assert relative(scaled.likelihood.rate(z), rate) < 1e-4
    exact = (rate - counts * rate.log()).sum()
    assert float(scaled.likelihood.loss(z, scaled.y)) == pytest.approx(float(exact), rel=1e-3, abs=1e-3 * rate.numel())


def test_exact_data_stay_exact():
    scaled = scale_problem(operator("blur"), torch.ones(1, *SHAPE), NoiseSpec("none"), 3.0, 1.0)
    assert scaled.problem.likelihood == Gaussian(0.0)


def test_a_nonlinear_operator_keeps_its_units():
    op, y = Squared(), torch.rand(1, *SHAPE)
    scaled = scale_problem(op, y, NoiseSpec("gaussian", sigma=0.2), 1.0, 0.0)
    assert scaled.problem.operator is op and scaled.problem.y is y and scaled.problem.likelihood == Gaussian(0.2)
    counting = scale_problem(op, y, NoiseSpec("poisson", gain=9.0), 1.0, 0.0).problem.likelihood
    assert isinstance(counting, Poisson)
    torch.testing.assert_close(counting.rate(y), 9 * y.clamp_min(counting.floor / 9))


@FEW
@given(st.floats(0.1, 500), st.floats(-2, 2))
def test_a_nonlinear_problem_holds_for_the_scaled_image(a, b_over_a):
    """v = a u + b and y = A(v) give A(a u + b)/a = y/a, with noise and counts scaled alike."""
    op, b = Squared(), a * b_over_a
    u = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0))
    y = op.forward(a * u + b)
    scaled = scale_problem(op, y, NoiseSpec("gaussian", sigma=3.0), a, b)
    assert relative(scaled.problem.operator.forward(u), scaled.problem.y) < 1e-6
    assert not scaled.problem.operator.differentiable
    assert isinstance(scaled.problem.likelihood, Gaussian)
    assert scaled.problem.likelihood.sigma == pytest.approx(3.0 / a)
    counting = scale_problem(op, y, NoiseSpec("poisson", gain=9.0), a, b).problem
    assert isinstance(counting.likelihood, Poisson)
    expected = (9 * y).clamp_min(counting.likelihood.floor)
    assert relative(counting.likelihood.rate(counting.operator.forward(u)), expected) < 1e-5


def test_a_nonlinear_operator_has_no_norm():
    with pytest.raises(ConfigError, match="non-linear operator has no norm"):
        scale_problem(Squared(), torch.ones(1, *SHAPE), NoiseSpec(), 1.0, 0.0, 3.0)


def test_on_device_keeps_the_problem():
    problem = scale_problem(operator("blur"), torch.rand(1, *SHAPE), NoiseSpec("poisson", gain=1.0), 2.0, 1.0).problem
    moved = on_device(problem, torch.device("cpu"))
    x = torch.rand(1, *SHAPE)
    torch.testing.assert_close(moved.operator.forward(x), problem.operator.forward(x))
    assert torch.equal(moved.y, problem.y)
    assert torch.equal(moved.likelihood.loss(x, moved.y), problem.likelihood.loss(x, problem.y))


# --- the window of image values


@FEW
@given(st.floats(-100, 100), st.floats(0.1, 1000), st.floats(-2, 0), st.floats(0.5, 3))
def test_a_window_maps_the_ends_of_the_range_to_its_own(low, width, bottom, span):
    a, b = Window(low, low + width, "").affine((bottom, bottom + span))
    assert a * bottom + b == pytest.approx(low, abs=1e-9 * (abs(low) + width + a))
    assert a * (bottom + span) + b == pytest.approx(low + width, rel=1e-9, abs=1e-6)


def test_a_declared_range_is_the_window_and_a_fixed_one_goes_before_it():
    geometry = Geometry(("y", "x"), value_range=(0.0, 255.0))
    y = torch.rand(1, *SHAPE)
    declared = find_window(ScalingSection(), geometry, operator("blur"), y)
    assert (declared.low, declared.high) == (0, 255) and "declared" in declared.source
    fixed = find_window(ScalingSection(mode="fixed", low=-5, high=40), geometry, operator("blur"), y)
    assert (fixed.low, fixed.high) == (-5, 40) and "fixed" in fixed.source
    assert find_window(ScalingSection(mode="fixed", low=-1, high=1), None, Squared(), y).high == 1
    assert find_window(ScalingSection(), geometry, Squared(), y).high == 255


@pytest.mark.parametrize("kind", [*sorted(OPERATORS), "denoise"])
def test_the_estimate_is_near_the_truth_and_scales_with_the_data(kind):
    op = operator(kind)
    image = torch.from_numpy(head())[None, None]
    y = op.forward(image)
    found = find_window(ScalingSection(), None, op, y)
    assert found.low == 0
    assert found.high == pytest.approx(foreground_quantile(head()), rel=0.25 if kind == "mri" else 0.1)
    for factor in (1e-4, 37.0):
        assert find_window(ScalingSection(), None, op, factor * y).high == pytest.approx(factor * found.high, rel=1e-3)


def test_the_estimate_starts_from_the_low_that_is_given():
    op = operator("denoise")
    y = torch.from_numpy(head())[None, None] + 1000
    found = find_window(ScalingSection(low=1000.0), None, op, y)
    assert found.low == 1000 and found.high == pytest.approx(1000 + foreground_quantile(head()), rel=0.02)


@pytest.mark.parametrize("kind", sorted(OPERATORS))
def test_no_scale_can_be_estimated_from_zero_data(kind):
    op = operator(kind)
    with pytest.raises(InputError, match="zero everywhere"):
        find_window(ScalingSection(), None, op, torch.zeros(2, *op.out_shape, dtype=op.out_dtype))


def test_no_scale_can_be_estimated_through_a_black_box():
    with pytest.raises(InputError, match="non-linear") as caught:
        find_window(ScalingSection(), None, Squared(), torch.rand(1, *SHAPE))
    assert "scaling.mode=fixed" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"mode": "fixed"}, "needs scaling.high"),
        ({"mode": "fixed", "low": 5.0, "high": 5.0}, "must be below"),
        ({"mode": "fixed", "low": 5.0, "high": 1.0}, "must be below"),
        ({"mode": "fixed", "high": float("inf")}, "must be below"),
        ({"mode": "auto", "high": 5.0}, "has no effect"),
    ],
)
def test_a_mode_and_limits_that_do_not_fit_are_refused(section, words):
    with pytest.raises(ConfigError, match=words):
        find_window(ScalingSection(**section), None, operator("blur"), torch.rand(1, *SHAPE))


def test_the_range_of_relative_noise_is_the_declared_one_or_the_foreground_quantile():
    assert data_range(head(), Geometry(("y", "x"), value_range=(10.0, 250.0))) == 240
    assert data_range(head(), Geometry(("y", "x"))) == pytest.approx(foreground_quantile(head()))


# --- simulation


@pytest.mark.parametrize(
    ("kind", "declared"), [("denoise", None), ("denoise", (0.0, 255.0)), ("mri", None), ("mri", (0.0, 255.0))]
)
def test_noise_is_sigma_times_the_range_in_each_real_number(kind, declared):
    """Over 128 x 128 numbers the standard error of a standard deviation is 0.6 %; tolerance 2 %."""
    image = truth(head(128, 128), value_range=declared)
    params = {"params": {"acceleration": 1.0}} if kind == "mri" else {}
    noisy = simulate(image, config(kind, {"sigma": 0.05}, **params))
    clean = simulate(image, config(kind, {"kind": "none"}, **params))
    sigma = 0.05 * (255 if declared else foreground_quantile(head(128, 128)))
    assert noisy.noise == NoiseSpec("gaussian", sigma=pytest.approx(sigma))
    n = (noisy.y - clean.y).ravel()
    parts = [n.real, n.imag] if np.iscomplexobj(n) else [n]
    assert len(parts) == (2 if kind == "mri" else 1)
    for part in parts:
        assert part.std() == pytest.approx(sigma, rel=0.02) and abs(part.mean()) < 0.04 * sigma
    if kind == "mri":
        assert abs(np.corrcoef(*parts)[0, 1]) < 0.04


@pytest.mark.parametrize(
    ("kind", "noise"),
    [("mri", {"sigma": 0.1}), ("inpaint", {"sigma": 0.1}), ("inpaint", {"kind": "poisson", "peak": 100.0})],
)
def test_nothing_is_measured_outside_the_support(kind, noise):
    made = simulate(truth(head() + 50), config(kind, noise))
    assert made.operator is not None
    mask = np.broadcast_to(made.operator.arrays["mask"], SHAPE[1:]).astype(bool)
    assert 0 < mask.sum() < mask.size
    assert not made.y[..., ~mask].any() and (made.y[..., mask] != 0).mean() > 0.9


def test_exact_data_are_the_forward_map():
    made = simulate(truth(head()), config("blur", {"kind": "none"}))
    assert made.noise == NoiseSpec("none") and made.operator is not None
    seen = build(made.operator).forward(torch.from_numpy(head())[None, None])
    np.testing.assert_array_equal(made.y, seen.numpy())
    assert made.y.dtype == np.float32


@pytest.mark.parametrize("index", [0, 2, -1])
@pytest.mark.parametrize("kind", ["denoise", "mri"])
def test_a_slice_alone_has_the_measurement_that_it_has_in_the_volume(kind, index):
    """The same noise, also where no range is declared and the slices differ in brightness; the affine moves along."""
    stack = np.stack([head(), 3 * head(), 0.1 * head()])
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    whole = simulate(truth(stack, ("z", "y", "x"), affine=affine), config(kind, {"sigma": 0.1}))
    one = simulate(truth(stack, ("z", "y", "x"), affine=affine), config(kind, {"sigma": 0.1}), index=index)
    assert one.y.shape[0] == 1 and whole.y.shape[0] == 3
    np.testing.assert_array_equal(one.y[0], whole.y[index])
    assert one.noise == whole.noise and one.geometry is not None
    assert one.geometry.affine[2, 3] == 2 * (index % 3)
    assert one.provenance["first_item"] == index % 3


def test_noise_differs_between_slices_and_seeds_and_is_repeatable():
    stack = truth(np.stack([head(), head()]), ("z", "y", "x"))
    first = simulate(stack, config(noise={"sigma": 0.1}))
    again = simulate(stack, config(noise={"sigma": 0.1}))
    other = simulate(stack, config(noise={"sigma": 0.1}, run={"seed": 1}))
    np.testing.assert_array_equal(first.y, again.y)
    assert not (first.y[0] == first.y[1]).any() and not (first.y == other.y).any()


def test_poisson_counts_have_the_mean_and_variance_of_their_rate():
    """Counts of rate 40 at 16384 pixels: standard errors 0.05 of the mean, 0.44 of the variance."""
    flat = np.full((128, 128), 80.0, np.float32)
    made = simulate(truth(flat, value_range=(0.0, 200.0)), config(noise={"kind": "poisson", "peak": 100.0}))
    assert made.noise == NoiseSpec("poisson", gain=0.5)
    counts = made.y * 0.5
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-4)
    assert counts.mean() == pytest.approx(40, abs=0.25) and counts.var() == pytest.approx(40, abs=2.2)


@pytest.mark.parametrize(("kind", "image"), [("denoise", head() - 50), ("mri", head())])
def test_poisson_noise_needs_rates(kind, image):
    with pytest.raises(InputError, match="real, non-negative") as caught:
        simulate(truth(image), config(kind, {"kind": "poisson"}))
    assert "noise.kind=gaussian" in str(caught.value.hint)


def test_an_operator_file_is_kept_and_completed():
    mask = (np.arange(20) % 3 == 0).astype(np.uint8)
    file = OperatorSpec("mri", {"axis": "x"}, (), {"mask": mask})
    made = simulate(truth(head()), config("blur"), spec=file)
    assert made.operator is not None
    assert made.operator.kind == "mri" and made.operator.in_shape == SHAPE and made.operator.params["axis"] == "x"
    np.testing.assert_array_equal(made.operator.arrays["mask"], mask)
    drawn = simulate(truth(head()), config("blur"), spec=OperatorSpec("mri", {"acceleration": 3.0}, SHAPE))
    assert drawn.operator is not None and "mask" in drawn.operator.arrays


@pytest.mark.parametrize(
    ("volume", "spec", "index", "words"),
    [
        (truth(head()), OperatorSpec("denoise", {}, (1, 8, 8)), None, r"images of shape \(1, 8, 8\)"),
        (truth(np.where(head() > 100, np.nan, head())), None, None, "NaN"),
        (truth(np.zeros((0, 4, 4)), ("z", "y", "x")), None, None, "empty"),
        (truth(head().astype(np.complex64)), None, None, "complex, but operator 'denoise'"),
        (truth(np.zeros((2, 2, 4, 4)), ("n", "z", "y", "x")), None, 1, "items .* and slices"),
        (truth(head()), None, 0, "no slices"),
    ],
)
def test_truths_that_cannot_be_measured_are_refused(volume, spec, index, words):
    with pytest.raises(InputError, match=words):
        simulate(volume, config("denoise"), index, spec)


def test_a_complex_truth_goes_through_a_complex_operator():
    image = head() * np.exp(1j * np.linspace(0, 1, 20)).astype(np.complex64)
    made = simulate(truth(image), config("mri", params={"complex_image": True, "acceleration": 1.0}))
    power = np.linalg.norm(made.y) / np.linalg.norm(image)
    assert power == pytest.approx(1, rel=1e-5)  # an orthonormal transform of all of it


# --- what INPUT resolves to


def test_the_operator_file_goes_before_the_measurement_and_both_before_the_preset():
    measured = simulate(truth(head()), config("mri", {"sigma": 0.01}))
    assert measured.operator is not None
    alone = resolve_input(measured, config("mri", {"sigma": 0.5}), None)
    assert alone.spec.params == measured.operator.params and alone.spec.in_shape == SHAPE
    np.testing.assert_array_equal(alone.spec.arrays["mask"], measured.operator.arrays["mask"])
    assert alone.noise is measured.noise and alone.notices == []

    preset = resolve_input(measured, config("mri", params={"acceleration": 8.0}), None)
    assert preset.spec.params["acceleration"] == 2.0
    assert [n for n in preset.notices if "acceleration = 2.0 of the measurement file is used, not 8.0 of the pr" in n]
    other_kind = resolve_input(measured, config("blur"), None)
    assert (
        other_kind.spec.kind == "mri" and "'mri' of the measurement file is used, not 'blur'" in other_kind.notices[0]
    )

    mask = np.ones(20, np.uint8)
    file = OperatorSpec("mri", {"acceleration": 1.0}, (), {"mask": mask})
    over = resolve_input(measured, config("blur"), file)
    assert over.spec.params["acceleration"] == 1.0 and over.spec.in_shape == SHAPE
    np.testing.assert_array_equal(over.spec.arrays["mask"], mask)
    text = "\n".join(over.notices)
    assert "acceleration = 1.0 of the operator file is used, not 2.0 of the measurement file" in text
    assert "array mask of the operator file is used" in text


def test_lists_and_tuples_of_parameters_are_no_conflict():
    params = {"mix": "matrix", "matrix": [[0.5, 0.5]]}
    measured = simulate(truth(np.stack([head()] * 2), ("c", "y", "x")), config("colour-mix", params=params))
    assert resolve_input(measured, config("colour-mix", params=params), None).notices == []


def test_an_operator_file_without_the_mask_takes_that_of_the_measurement():
    measured = simulate(truth(head()), config("mri"))
    assert measured.operator is not None
    found = resolve_input(measured, config("mri"), OperatorSpec("mri", {"complex_image": True}, ()))
    assert found.operator.in_dtype == torch.complex64
    np.testing.assert_array_equal(found.spec.arrays["mask"], measured.operator.arrays["mask"])
    assert any("array mask comes from the measurement file" in n for n in found.notices)


def test_an_operator_without_image_shape_in_the_measurement_is_completed():
    """docs/formats.md: in_shape is empty where it is unknown."""
    measured = simulate(truth(head()), config("mri"))
    assert measured.operator is not None
    bare = replace(measured, operator=replace(measured.operator, in_shape=()), geometry=None)
    found = resolve_input(bare, config("mri"), None)
    assert found.spec.in_shape == SHAPE
    np.testing.assert_array_equal(found.spec.arrays["mask"], measured.operator.arrays["mask"])


@pytest.mark.parametrize("shape", [(24, 20), (1, 24, 20), (1, 1, 24, 20), (3, 1, 24, 20)])
def test_shape_is_inferred_from_a_bare_array(shape):
    y = np.broadcast_to(head(), shape)
    found = resolve_input(Measurement(y), config("denoise", {"sigma": 0.1}), None)
    assert found.spec.in_shape == SHAPE
    assert found.measurement.y.shape == (shape[0] if len(shape) == 4 else 1, *SHAPE)
    assert found.measurement.y.dtype == np.float32
    text = "\n".join(found.notices)
    assert "operator comes from the preset (denoise)" in text and "noise comes from the preset (sigma" in text
    assert f"image shape {SHAPE} inferred" in text


@pytest.mark.parametrize("kind", ["mri", "ct", "blur", "denoise"])
def test_noise_of_the_preset_is_relative_to_the_image_and_not_to_its_data(kind):
    """The level that a simulation of this image with the same preset has, to 15 %."""
    chosen = config(kind, {"sigma": 0.01})
    measured = simulate(truth(head(48, 40)), chosen)
    bare = replace(measured, noise=None, geometry=None)
    found = resolve_input(bare, chosen, None)
    assert measured.noise is not None
    assert found.noise.sigma == pytest.approx(measured.noise.sigma, rel=0.15)
    assert found.window is not None and make_plan(chosen, bare).window == found.window
    counted = resolve_input(bare, config(kind, {"kind": "none"}), None)
    assert counted.noise == NoiseSpec("none") and counted.window is None


def test_noise_of_the_preset_is_relative_to_a_declared_or_fixed_range():
    picture = Measurement(head()[None, None], geometry=Geometry(("y", "x"), value_range=(0.0, 1000.0)))
    assert resolve_input(picture, config(noise={"sigma": 0.02}), None).noise.sigma == pytest.approx(20)
    fixed = config(noise={"kind": "poisson", "peak": 60.0}, scaling={"mode": "fixed", "high": 300.0})
    assert resolve_input(picture, fixed, None).noise == NoiseSpec("poisson", gain=pytest.approx(0.2))


@pytest.mark.parametrize(
    ("kind", "params", "side"),
    [
        ("denoise", {}, 20),
        ("downsample", {"factor": 2, "filter": "box"}, 40),
        ("downsample", {"factor": 4, "filter": "bicubic"}, 80),
        ("downsample", {"factor": 2, "filter": "gaussian"}, 40),
        ("blur", {"size": 5, "sigma": 1.0, "boundary": "valid"}, 24),
        ("blur", {"size": 5, "sigma": 1.0, "boundary": "reflect"}, 20),
    ],
)
def test_pixels_of_the_image_lie_where_the_operator_sees_them(kind, params, side):
    """A ramp that has each pixel's own world coordinate as value is measured as the world coordinate of each datum."""
    affine = np.array([[2.0, 0.3, 0, 5], [0.1, -3.0, 0, 7], [0, 0, 1, 0], [0, 0, 0, 1]])
    geometry = Geometry(("y", "x"), affine, (3.0, 2.0), "mm")
    picture = Measurement(head(20, 20)[None, None], geometry=geometry)
    found = resolve_input(picture, config(kind, {"sigma": 0.1}, params=params), None)
    image = found.measurement.geometry
    assert image is not None and image.affine is not None and image.spacing is not None
    assert found.spec.in_shape == (1, side, side) and image.axes == ("y", "x") and image.units == "mm"
    np.testing.assert_allclose(
        image.spacing, [3.0 * params.get("factor", 1) ** -1, 2.0 * params.get("factor", 1) ** -1]
    )

    def world(affine: np.ndarray, n: int) -> np.ndarray:
        y, x = np.mgrid[:n, :n]
        return np.einsum("ij,jyx->iyx", affine[:2], np.stack([x, y, 0 * x, 0 * x + 1]).astype(float))

    ramps = torch.from_numpy(world(image.affine, side))[:, None].float()
    seen = found.operator.forward(ramps)[:, 0].numpy()
    inner = (slice(None), slice(4, -4), slice(4, -4))  # away from mirrored borders
    np.testing.assert_allclose(seen[inner], world(affine, 20)[inner], atol=2e-4)
    np.testing.assert_array_equal(affine, picture.geometry.affine)  # type: ignore[union-attr]


def test_a_grey_picture_of_a_colour_image_gets_a_channel_axis():
    picture = Measurement(head()[None, None], geometry=Geometry(("y", "x"), None, (3.0, 2.0), value_range=(0, 255)))
    found = resolve_input(picture, config("colour-mix", {"sigma": 0.1}, params={"mix": "luma"}), None)
    geometry = found.measurement.geometry
    assert geometry is not None and geometry.axes == ("y", "x", "c") and geometry.spacing == (3.0, 2.0, 1.0)
    assert geometry.value_range == (0, 255)


def test_a_picture_of_a_sinogram_is_no_picture_of_the_image():
    measured = simulate(truth(head()), config("ct", {"sigma": 0.01}))
    picture = Measurement(measured.y, geometry=Geometry(("y", "x"), np.eye(4), (1.0, 1.0), "mm", (0.0, 65535.0)))
    found = resolve_input(picture, config("ct", {"sigma": 0.01}), OperatorSpec("ct", OPERATORS["ct"], SHAPE))
    assert found.measurement.geometry is None and any("data of 'ct'" in n for n in found.notices)
    assert make_plan(config("ct"), found.measurement).window.high == pytest.approx(foreground_quantile(head()), rel=0.1)


def test_an_operator_in_the_file_means_that_the_geometry_is_the_images():
    measured = simulate(truth(head(), value_range=(0.0, 255.0)), config("ct"))
    assert resolve_input(measured, config("ct"), None).measurement.geometry is measured.geometry


MASK = np.ones(20, np.uint8)


@pytest.mark.parametrize(
    ("y", "kind", "noise", "words"),
    [
        (head().astype(np.complex64), "denoise", {}, "complex, but the operator gives real"),
        (head().astype(np.complex64), "mri", {}, "needs its mask"),
        (head(), "inpaint", {}, "needs its mask"),
        (np.full((24, 20), np.nan), "denoise", {}, "480 values that are NaN"),
        (np.full((24, 20), 1e300), "denoise", {}, "beyond single precision"),
        (np.zeros((0, 1, 24, 20)), "denoise", {}, "empty"),
        (np.zeros((24, 20)), "denoise", {"sigma": 0.1}, "zero everywhere"),
        (np.zeros((2, 2, 2, 24, 20)), "denoise", {}, "cannot be known from a measurement of shape"),
        (head() - 100, "denoise", {"kind": "poisson"}, "real, non-negative"),
    ],
)
def test_measurements_that_cannot_be_used_are_refused(y, kind, noise, words):
    with pytest.raises(InputError, match=words) as caught:
        resolve_input(Measurement(y), config(kind, noise), None)
    if "mask" in words:
        assert "--operator" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("y", "noise", "words"),
    [
        (np.ones((1, 1, 24, 20), np.complex64), NoiseSpec("poisson", gain=1.0), "real, non-negative"),
        (np.ones((1, 1, 24, 21), np.complex64), None, r"shape \(1, 1, 24, 21\), but the operator gives \(1, 24, 20\)"),
    ],
)
def test_data_that_do_not_fit_the_operator_of_their_file_are_refused(y, noise, words):
    measured = Measurement(y, OperatorSpec("mri", {}, SHAPE, {"mask": MASK}), noise)
    with pytest.raises(InputError, match=words):
        resolve_input(measured, config("mri"), None)


def test_poisson_data_need_a_gain():
    with pytest.raises(InputError, match="gain above 0"):
        resolve_input(Measurement(head(), noise=NoiseSpec("poisson")), config(), None)


def test_the_first_images_do_not_depend_on_how_many_go_together(monkeypatch):
    from recon.runs import scaling

    op = operator("blur")
    y = op.forward(torch.rand(5, *op.in_shape, generator=torch.Generator().manual_seed(0)))
    whole = scaling.first_reconstruction(op, y)
    monkeypatch.setattr(scaling, "TOGETHER", 2 * torch.Size(op.in_shape).numel())
    assert whole.shape == (5, *op.in_shape)
    torch.testing.assert_close(scaling.first_reconstruction(op, y), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("quantile", [0.995, 0.5, 1.0])
def test_the_quantile_of_parts_is_that_of_the_whole(quantile):
    rng = np.random.default_rng(3)
    values = np.where(rng.random((7, 40, 30)) < 0.4, 0, rng.normal(3, 1, (7, 40, 30)))
    whole = foreground_quantile(values, quantile)
    assert foreground_quantile_of_parts(lambda: values, quantile) == pytest.approx(whole, rel=1e-12)
    assert foreground_quantile_of_parts(lambda: 0 * values, quantile) == 1.0
    assert foreground_quantile_of_parts(lambda: values[:1, :1, :1] + 5, quantile) == pytest.approx(values[0, 0, 0] + 5)


def test_a_window_is_the_same_from_images_on_disk(monkeypatch):
    op = operator("blur")
    y = op.forward(torch.rand(5, *op.in_shape, generator=torch.Generator().manual_seed(0)))
    held = find_window(ScalingSection(low=0.1), None, op, y).high
    monkeypatch.setattr(disk, "LEAST_BYTES", 1)
    assert find_window(ScalingSection(low=0.1), None, op, y).high == pytest.approx(held, rel=1e-6)


def test_a_measurement_on_disk_resolves_to_the_values_of_one_in_memory(tmp_path, monkeypatch):
    asked = config("denoise")
    image = np.random.default_rng(0).integers(0, 99, (4, 16, 12)).astype(np.int16)
    geometry = Geometry(("z", "y", "x"))
    held = resolve_input(Measurement(to_stack(Volume(image, geometry)), geometry=geometry), asked, None)
    monkeypatch.setattr(disk, "LEAST_BYTES", 1)
    write_volume(tmp_path / "large.npy", Volume(image, geometry))
    found = resolve_input(read_measurement(tmp_path / "large.npy", "z,y,x"), asked, None)
    assert isinstance(found.measurement.y, np.memmap) and found.measurement.y.dtype == np.float32
    assert np.array_equal(found.measurement.y, held.measurement.y)
