"""Every sampler with every operator: it runs, or `check_pairing` refuses it and says why.

New methods and operators are covered as soon as they are registered, at tiny settings: every whole number above 4 in a
method's settings becomes 4, every one in an operator's is left alone.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from kernel_weights import layout, seeded
from sampler_doubles import Convolutional, Saturating, generator
from torch import Tensor

from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian
from recon.operators.base import LinearOperator, Operator
from recon.operators.catalog import OPERATORS
from recon.operators.learned_blur import packed
from recon.operators.registry import build, draw
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.runs.methods import SAMPLERS, make_method, method_class, missing_needs
from recon.runs.plan import check_pairing
from recon.runs.problem import unit_norm
from recon.samplers.base import Method, SeededNoise, Status

FEW = 4
RNG = np.random.default_rng(0)
MAPS = (RNG.standard_normal((2, 8, 8)) + 1j * RNG.standard_normal((2, 8, 8))).astype(np.complex64)
MASK = (RNG.random((8, 8)) < 0.6).astype(np.uint8)
NETWORK = packed(seeded(layout(width=2, channels=1, front=1, back=1, factors=(1, 2)), 0), "weights")
# operators that need more than their kind, and variants that offer other things
VARIANTS: dict[str, list[tuple[str, dict[str, Any], tuple[int, ...], dict[str, np.ndarray]]]] = {
    "downsample": [
        ("bicubic", {"factor": 2}, (1, 8, 8), {}),
        ("box", {"factor": 2, "filter": "box"}, (1, 8, 8), {}),
        ("kernel", {"factor": 2, "filter": "gaussian"}, (1, 8, 8), {}),
    ],
    "blur": [
        ("circular", {"size": 3, "boundary": "circular"}, (1, 8, 8), {}),
        ("separable", {"size": 3}, (1, 8, 8), {}),
        ("motion", {"size": 3, "kernel": "motion"}, (1, 8, 8), {}),
    ],
    "colour-mix": [("luma", {"mix": "luma"}, (3, 8, 8), {})],
    "mri": [
        ("real", {"mask": "given"}, (1, 8, 8), {"mask": MASK}),
        ("complex", {"mask": "given", "complex_image": True}, (1, 8, 8), {"mask": MASK}),
        ("coils", {"mask": "given", "maps": "given", "complex_image": True}, (1, 8, 8), {"mask": MASK, "maps": MAPS}),
        ("coils, real", {"mask": "given", "maps": "given"}, (1, 8, 8), {"mask": MASK, "maps": MAPS}),
    ],
    "mri-nufft": [
        ("radial", {"shots": 4, "samples": 8}, (1, 8, 8), {}),
        ("coils", {"shots": 3, "samples": 8, "complex_image": True}, (1, 8, 8), {"maps": MAPS / 4}),
    ],
    "nonlinear-blur": [("motion", {"size": 3}, (1, 8, 8), {})],
    "learned-blur": [("small", {}, (1, 8, 8), {"weights": NETWORK})],
    "blur-varying": [("gaussian", {"size": 3}, (1, 8, 8), {})],
    "lensless": [("points", {"points": 50.0}, (1, 8, 8), {})],
    "demosaic": [("rggb", {}, (3, 8, 8), {})],
    "ptychography": [("small", {"window": 6}, (1, 8, 8), {})],
    "jpeg": [("through", {"quality": 80}, (1, 8, 8), {}), ("black box", {"gradient": "none"}, (1, 8, 8), {})],
    "ct": [("few views", {"angles": 6}, (1, 8, 8), {}), ("turned", {"angles": 6, "model": "rotate"}, (1, 8, 8), {})],
    "slice-average": [("pairs", {"factor": 2}, (1, 4, 8, 8), {})],
    "ct-cone": [("few views", {"angles": 4}, (1, 2, 8, 8), {})],
    "matrix": [("dense", {}, (1, 8, 8), {"matrix": RNG.standard_normal((20, 64)) / 8})],
}


class BlackBox(Operator):
    """y = tanh(M x) that only says its values."""

    differentiable = False

    def __init__(self, base: Operator) -> None:
        self.base, self.in_shape, self.out_shape = base, base.in_shape, base.out_shape

    def _forward(self, x: Tensor) -> Tensor:
        return self.base.forward(x.detach()).detach()


def smooth() -> Operator:
    return Saturating(torch.randn(20, 64, generator=generator(0)) / 8, (1, 8, 8))


def registered(kind: str, params: dict[str, Any], shape: tuple[int, ...], given: dict[str, np.ndarray]) -> Operator:
    return build(draw(kind, params, shape, 0, given))


CASES: dict[str, tuple[str, Any]] = {
    "non-linear": ("custom", smooth),
    "black box": ("custom", lambda: BlackBox(smooth())),
}
for kind in OPERATORS:
    for label, *rest in VARIANTS.get(kind, [("defaults", {}, (1, 8, 8), {})]):
        CASES[f"{kind}, {label}"] = (kind, lambda kind=kind, rest=rest: registered(kind, *rest))


def small(name: str) -> Method:
    """Return the method with few steps of everything."""
    chosen = {
        field.name: FEW
        for field in fields(method_class(name))  # type: ignore[arg-type]
        if type(field.default) is int and field.default > FEW
    }
    return make_method(name, chosen)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_pairing_runs_or_is_refused(name, case):
    kind, make = CASES[case]
    operator, method = make(), small(name)
    missing = missing_needs(type(method), operator)
    if missing:
        with pytest.raises(ConfigError, match=f"'{name}' needs {', '.join(missing)}, which operator '{kind}'"):
            check_pairing(name, method, operator, kind)
        return
    check_pairing(name, method, operator, kind)
    if kind.startswith("ct") and isinstance(operator, LinearOperator):
        operator = operator * (1 / unit_norm(operator))  # as the presets of tomography have it
    shape = operator.in_shape
    gaussian = GaussianPrior(power_law_spectrum(shape, 2.0, 0.4))
    truth = gaussian.sample(1, generator(1), operator.in_dtype)
    trained = Convolutional(shape[0], operator.in_dtype.is_complex)
    prior = trained if method.trains_prior else gaussian
    y = operator.forward(truth)
    y = y + 0.05 * torch.randn(y.shape, dtype=y.dtype, generator=generator(2))
    if operator.support is not None:
        y = y * operator.support
    steps: list[int] = []
    result = method.sample(
        prior,
        Problem(operator, y, Gaussian(0.05)),
        None,
        SeededNoise(0, range(4)),
        (4, *shape),
        lambda step: steps.append(step.index),
    )
    assert result.samples.shape == (4, *shape)
    assert result.samples.dtype == operator.in_dtype
    assert bool(
        torch.isfinite(torch.view_as_real(result.samples) if result.samples.is_complex() else result.samples).all()
    )
    assert result.status is Status.OK
    assert steps and len(steps) <= 64, "the settings of this test do not shorten this method"
    assert result.stats.nfe > 0


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_runs_with_some_operator(name):
    operators = [make() for _, make in CASES.values()]
    runs = sum(not missing_needs(method_class(name), operator) for operator in operators)
    assert runs >= 5


def test_the_cases_differ_in_what_they_offer():
    """Each need is both met and missed by some operator of the matrix, so that refusals are tried."""

    class Asks:
        def __init__(self, need: str) -> None:
            self.needs = frozenset({need})

    operators = [make() for _, make in CASES.values()]
    assert "CartesianMRI" in {type(op).__name__ for op in operators if isinstance(op, LinearOperator)}
    assert {kind for kind, _ in CASES.values()} >= set(OPERATORS)
    for need in ("gradient", "linear", "adjoint", "pinv", "svd", "slices"):
        missed = [bool(missing_needs(Asks(need), op)) for op in operators]  # type: ignore[arg-type]
        assert any(missed) and not all(missed), need


def test_methods_that_only_ask_for_values_run_with_every_operator():
    """Black boxes are not refused: where a method can do with a gradient or without, it chooses."""
    free = [name for name in SAMPLERS if method_class(name).needs == {"forward"}]
    assert {"enkg", "dps-gsg", "daps", "pnpdm"} <= set(free)
    for name in free:
        for kind, make in CASES.values():
            check_pairing(name, small(name), make(), kind)


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("non-linear", "black box")])
def test_whether_there_is_an_svd_is_told_as_it_is(case):
    operator = CASES[case][1]()
    if isinstance(operator, LinearOperator):
        assert operator.has_svd() == (operator.svd() is not None)
        assert (2.0 * operator).has_svd() == operator.has_svd()


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("non-linear", "black box")])
def test_whether_there_is_a_pseudo_inverse_is_told_as_it_is(case):
    operator = CASES[case][1]()
    if isinstance(operator, LinearOperator):
        found = operator.pinv(torch.zeros(1, *operator.out_shape, dtype=operator.out_dtype)) is not None
        assert operator.has_pinv() == found
        assert (2.0 * operator).has_pinv() == found


@pytest.mark.parametrize("case", ["ct, few views", "mri, real", "mri, coils"])
def test_a_plan_computes_no_pseudo_inverse(case, monkeypatch):
    """Whether a method may run is known without the pseudo-inverse, which tomography has to filter and project for."""
    operator = CASES[case][1]()

    def refuse(self: LinearOperator, y: Tensor) -> None:
        raise AssertionError("inverted")

    monkeypatch.setattr(type(operator), "pinv", refuse)
    assert missing_needs(method_class("fbp"), operator) == (["pinv"] if case == "mri, coils" else [])


@pytest.mark.parametrize("kind", ["separable", "dense"])
def test_a_plan_factorises_no_matrix(kind, monkeypatch):
    """Whether ddrm or ddnm may run is known before the work of an SVD, which large images would notice."""
    cases = {"separable": "blur, separable", "dense": "matrix, dense"}
    operator = CASES[cases[kind]][1]()

    def refuse(matrix: Tensor) -> None:
        raise AssertionError("factorised")

    for module in ("separable", "matrix"):
        monkeypatch.setattr(f"recon.operators.{module}.complete_svd", refuse)
    with pytest.raises(AssertionError, match="factorised"):
        operator.svd()
    for name in SAMPLERS:
        check_pairing(name, small(name), operator, kind)
