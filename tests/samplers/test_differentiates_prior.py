"""Methods say whether they differentiate the prior; what they do is what they say, whatever their settings."""

from __future__ import annotations

import typing
from dataclasses import fields

import pytest
import torch
from sampler_doubles import Convolutional

from recon.data import Problem
from recon.errors import ReconError
from recon.likelihoods import Gaussian
from recon.operators.inpaint import Inpaint
from recon.priors.base import Denoiser, Prediction, PriorInfo, per_item
from recon.runs.methods import BASELINES, SAMPLERS, make_method, method_class
from recon.samplers.base import SeededNoise

SHAPE = (1, 4, 4)
SMALL = {
    "steps": 3, "adapt_steps": 2, "levels": 3, "iterations": 3, "inner_steps": 2, "prior_steps": 3, "ode_steps": 2,
    "particles": 4, "draws": 2, "queries": 2,
}  # fmt: skip


class Watched(Denoiser):
    """The denoiser of N(0, I), which notes whether its answers are asked for with their graph."""

    info = PriorInfo(name="watched", channels=1)

    def __init__(self):
        self.graphs = []

    def _denoise(self, x, sigma, cond):
        found = x / (1 + per_item(sigma, x) ** 2)
        self.graphs.append(found.requires_grad)
        return Prediction(found)


def variants(name):
    """Yield the method with small settings, and with each choice of each of its settings that are choices."""
    hints, small = typing.get_type_hints(method_class(name)), {}
    for field in fields(method_class(name)):
        if field.name in SMALL:
            small[field.name] = SMALL[field.name]
    yield small
    for field in fields(method_class(name)):
        kind = hints[field.name]
        choices = (
            (False, True) if kind is bool else [c for part in (kind, *typing.get_args(kind)) for c in literals(part)]
        )
        yield from (small | {field.name: choice} for choice in choices)


def literals(kind):
    return typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()


def asked(name, params):
    """Return the method, and whether each of its network calls wanted a graph; None for settings that do not fit."""
    mask = (torch.rand(4, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    operator, prior = Inpaint(SHAPE, mask), Convolutional(1) if method_class(name).trains_prior else Watched()
    y = operator.forward(torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1)))
    try:
        method = make_method(name, params)
        method.sample(prior, Problem(operator, y, Gaussian(0.1)), None, SeededNoise(0, [0, 1]), (2, *SHAPE))
    except ReconError:
        return None
    return method, prior.graphs


@pytest.mark.parametrize("name", SAMPLERS)
def test_methods_differentiate_the_prior_where_they_say_so(name):
    ran = 0
    for params in variants(name):
        found = asked(name, params)
        if found is None:
            continue
        ran += 1
        method, graphs = found
        assert graphs and any(graphs) == method.differentiates_prior, params
    assert ran >= 1


def test_both_kinds_are_there_and_daps_is_of_both():
    said = {name: make_method(name, {}).differentiates_prior for name in SAMPLERS}
    assert (
        said["dps"]
        and said["mmps"]
        and said["d3ip"]
        and said["ddip"]
        and not said["dds"]
        and not said["ddnm"]
        and not said["daps"]
    )
    assert make_method("daps", {"conditional": "tweedie"}).differentiates_prior
    assert not any(make_method(name, {}).differentiates_prior for name in BASELINES)
