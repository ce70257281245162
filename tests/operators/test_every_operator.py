"""Every registered operator goes through its battery, new ones as soon as they are named; calls leave nothing behind.

Their own tests try more shapes and parameters.
"""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from battery import check_operator
from kernel_weights import layout, seeded
from nonlinear_battery import check_nonlinear, images

from recon.operators.base import LinearOperator, Operator
from recon.operators.catalog import OPERATORS
from recon.operators.learned_blur import packed
from recon.operators.registry import build, draw

RNG = np.random.default_rng(0)
SIZE = (10, 12)
KERNEL = RNG.standard_normal((3, 4))
MAPS = (RNG.standard_normal((3, *SIZE)) + 1j * RNG.standard_normal((3, *SIZE))).astype(np.complex64)
NETWORK = packed(seeded(layout(width=2, channels=1, front=1, back=1, factors=(1, 2)), 0), "weights")
IMAGE, COLOURS, VOLUME = (1, *SIZE), (3, *SIZE), (1, 4, *SIZE)
Case = tuple[dict[str, Any], tuple[int, ...], dict[str, np.ndarray]]
# where the defaults do not fit a small image, and variants by other code
CASES: dict[str, list[Case]] = {
    "inpaint": [({"size": 3}, IMAGE, {}), ({"mask": "random"}, COLOURS, {})],
    "downsample": [({"factor": 2, "filter": f}, COLOURS, {}) for f in ("bicubic", "box", "gaussian")],
    "blur": [
        ({"size": 5, "sigma": 1.0, "boundary": b, "by": way}, COLOURS, {})
        for b in ("reflect", "circular", "valid")
        for way in ("auto", "fft", "direct")
    ],
    "blur-varying": [({"size": 3, "by": way}, IMAGE, {}) for way in ("fft", "direct")],
    "lensless": [({"points": 50.0}, IMAGE, {})],
    "demosaic": [({}, COLOURS, {})],
    "colour-mix": [({}, COLOURS, {})],
    "mri": [
        ({"mask": mask, "acceleration": 2.0, "acs": 2, "complex_image": c}, IMAGE, given)
        for mask in ("random", "gaussian2d")
        for c in (False, True)
        for given in ({}, {"maps": MAPS})
    ],
    "mri-nufft": [
        ({"shots": 5, "samples": 12, "toeplitz": False, "complex_image": c}, IMAGE, given)
        for c in (False, True)
        for given in ({}, {"maps": MAPS})
    ],
    "ct": [
        ({"angles": 6}, IMAGE, {}),
        ({"angles": 5}, VOLUME, {}),
        ({"angles": 5, "model": "rotate"}, (1, 8, 8), {}),
    ],
    "ct-fan": [({"angles": 6, "curved": c}, IMAGE, {}) for c in (False, True)],
    "ct-cone": [({"angles": 5}, VOLUME, {})],
    "nonlinear-blur": [({"kernel": "gaussian", "size": 5, "by": way}, IMAGE, {}) for way in ("auto", "fft", "direct")],
    "learned-blur": [({}, (1, 8, 8), {"weights": NETWORK})],
    "slice-average": [({"factor": 2}, VOLUME, {})],
    "ptychography": [({"window": 6}, IMAGE, {})],
    "matrix": [({}, IMAGE, {"matrix": RNG.standard_normal((20, 120))})],
}
STEPS_AND_KINKS = {"jpeg", "hdr"}  # which differences do not see the slope of: they have tests of their own


def operators(kind: str) -> list[Operator]:
    return [build(draw(kind, params, shape, 0, given)) for params, shape, given in CASES.get(kind, [({}, IMAGE, {})])]


@pytest.mark.parametrize("kind", sorted(set(OPERATORS) - STEPS_AND_KINKS))
def test_the_battery(kind: str) -> None:
    for op in operators(kind):
        if isinstance(op, LinearOperator):
            check_operator(op, tol32=2e-6)
        else:
            check_nonlinear(op, 0.1, 0.9)


@pytest.mark.parametrize("kind", ["blur-varying", "nonlinear-blur"])
def test_summation_and_fft_give_the_same(kind: str) -> None:
    first, *others = operators(kind)
    x = images(first, 2, 0.1, 0.9).float()
    for other in others:
        torch.testing.assert_close(other.forward(x), first.forward(x), rtol=0, atol=1e-5)


def test_calls_leave_nothing_behind() -> None:
    """So that nothing grows with the steps of a sampler."""
    made = [op for kind in OPERATORS for op in operators(kind)]

    def step() -> int:
        for op in made:
            if isinstance(op, LinearOperator):
                x = torch.ones(1, *op.in_shape, dtype=op.in_dtype)
                op.normal(op.adjoint(op.forward(x)))
            else:
                op.forward(images(op, 1, 0.1, 0.9).float())
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    step()
    first = step()
    for _ in range(3):
        assert step() == first
