"""No sampler computes a pseudo-inverse that it does not declare, or leaves the precision that it was given."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from sampler_doubles import Convolutional, generator

from recon.data import Problem
from recon.likelihoods import Gaussian
from recon.operators.base import LinearOperator
from recon.operators.inpaint import Inpaint
from recon.priors.base import Denoiser, Prediction, PriorInfo, per_item
from recon.runs.methods import SAMPLERS, make_method, method_class
from recon.samplers.base import SeededNoise

STEPS = ("steps", "levels", "iterations")
SMALL = {"adapt_steps": 2, "inner_steps": 3, "prior_steps": 5, "ode_steps": 2, "particles": 8, "draws": 2, "queries": 4}
# one pseudo-inverse for the first image, as published, where the setting `start` says so
START = {"reddiff", "d3ip"}


class Half(LinearOperator):
    """The upper half of an image; counts its pseudo-inverses, and has no singular value decomposition."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.in_shape, self.out_shape = (1, 4, 4), (1, 2, 4)
        self.in_dtype = self.out_dtype = dtype
        self.inverted = 0

    def _forward(self, x):
        return x[..., :2, :]

    def _adjoint(self, y):
        return torch.cat((y, torch.zeros_like(y)), -2)

    def pinv(self, y):
        self.inverted += 1
        return self._adjoint(y)


class Shrink(Denoiser):
    """The denoiser of N(0, I); remembers the types that it was asked with."""

    info = PriorInfo(name="shrink", channels=1)

    def __init__(self) -> None:
        self.types: set[torch.dtype] = set()

    def _denoise(self, x, sigma, cond):
        self.types |= {x.dtype, sigma.dtype}
        return Prediction(x / (1 + per_item(sigma, x) ** 2))


def run(name, steps, dtype):
    """Return the operator, the types that the prior saw, and those of the reported states."""
    operator: LinearOperator = Half(dtype)
    if "svd" in method_class(name).needs:
        operator = Inpaint((1, 4, 4), (torch.arange(16).reshape(4, 4) % 3 > 0).to(dtype))
    names = [field.name for field in fields(method_class(name))]
    settings = {key: value for key, value in SMALL.items() if key in names}
    method = make_method(name, settings | {next(key for key in STEPS if key in names): steps})
    prior = Convolutional(1) if method.trains_prior else Shrink()
    y = operator.forward(torch.randn(1, 1, 4, 4, dtype=dtype, generator=generator(1)))
    seen: set[torch.dtype] = set()
    result = method.sample(
        prior,
        Problem(operator, y, Gaussian(0.1)),
        None,
        SeededNoise(0, [0, 1]),
        (2, 1, 4, 4),
        lambda step: seen.update(t.dtype for t in (step.x0, *(step.state or {}).values()) if t.is_floating_point()),
    )
    residuals = {residual.dtype for residual in result.stats.residuals}
    return operator, getattr(prior, "types", set()), seen | residuals | {result.samples.real.dtype}


@pytest.mark.parametrize("name", [name for name in SAMPLERS if "svd" not in method_class(name).needs])
def test_no_pseudo_inverse_is_hidden(name):
    few, many = (run(name, steps, torch.float32)[0].inverted for steps in (4, 9))
    if name == "ddnm":
        assert 0 < few < many  # the count counts
    else:
        assert few == many == (name in START)


@pytest.mark.parametrize("name", SAMPLERS)
def test_single_precision_stays_single(name):
    _, asked, reported = run(name, 4, torch.float32)
    assert asked <= {torch.float32} and reported == {torch.float32}


@pytest.mark.parametrize("name", SAMPLERS)
def test_double_precision_stays_double(name):
    if method_class(name).trains_prior:
        pytest.skip("its network is in single precision")
    _, asked, reported = run(name, 4, torch.float64)
    assert asked == {torch.float64} and reported == {torch.float64}
