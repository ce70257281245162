"""The share of time outside network and operator is measured for every method of images, and adds up."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

from recon.operators.base import LinearOperator
from recon.runs.methods import SAMPLERS, method_class

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "sampler_overhead.py"
spec = spec_from_file_location("sampler_overhead", SCRIPT)
assert spec is not None and spec.loader is not None
overhead = module_from_spec(spec)
sys.modules[spec.name] = overhead
spec.loader.exec_module(overhead)


def test_every_method_of_images_is_measured():
    measured = {kind for kind, _ in overhead.METHODS.values()}
    images = {name for name in SAMPLERS if not method_class(name).volume and not method_class(name).trains_prior}
    assert images - measured == {"dps-gsg"}, "its steps are queries of the operator"


@pytest.mark.parametrize("name", overhead.METHODS)
def test_network_and_operator_take_less_than_the_whole(name):
    prior, problem = overhead.make_prior(), overhead.make_problem(32)
    total, network, operator, evaluations = overhead.timed_run(overhead.configured(name, 2), prior, problem)
    assert evaluations > 0 and operator > 0 and network > 0
    assert network + operator < total


def test_changes_to_the_operators_basis_are_the_operators():
    problem = overhead.make_problem(8)
    timed, own = overhead.TimedOperator(problem.operator), problem.operator
    assert isinstance(own, LinearOperator)
    found, spectrum = timed.svd(), own.svd()
    assert found is not None and spectrum is not None and timed.has_svd() and timed.clock.seconds == 0
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.to_v(x), spectrum.to_v(x)) and timed.clock.seconds > 0
