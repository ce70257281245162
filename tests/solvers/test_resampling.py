"""Effective numbers and systematic resampling."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.solvers.resampling import effective, systematic


def log(*weights: float) -> torch.Tensor:
    return torch.tensor(weights, dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("weights", "number"), [((1, 1, 1, 1), 4.0), ((1, 0, 0), 1.0), ((0.5, 0.5, 0, 0), 2.0), ((3, 1), 1.6)]
)
def test_effective_number(weights, number):
    assert float(effective(log(*weights))) == pytest.approx(number)
    assert float(effective(log(*weights) - 1e6)) == pytest.approx(number, rel=1e-6)


def test_a_known_answer():
    # upper ends .1 .5 .6 1: teeth at .125 .375 .625 .875 of u = .5
    found = systematic(log(0.1, 0.4, 0.1, 0.4), torch.tensor(0.5, dtype=torch.float64))
    assert found.tolist() == [1, 1, 3, 3]
    # and at 0 .25 .5 .75 of u = 0
    assert systematic(log(0.1, 0.4, 0.1, 0.4), torch.tensor(0.0, dtype=torch.float64)).tolist() == [0, 1, 2, 3]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-30, 3), min_size=2, max_size=40), st.floats(0, 1, exclude_max=True))
def test_every_particle_has_the_whole_part_of_its_share_or_one_more(logs, u):
    weights = torch.tensor(logs, dtype=torch.float64)
    count = len(logs)
    children = systematic(weights, torch.tensor(u, dtype=torch.float64)).bincount(minlength=count).double()
    share = count * weights.softmax(0)
    assert float(children.sum()) == count
    assert bool((children - share).abs().max() < 1 + 1e-9)


def test_children_on_average_are_the_share():
    weights = torch.randn(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    teeth = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    mean = torch.stack([systematic(weights, u).bincount(minlength=7).double() for u in teeth]).mean(0)
    assert torch.allclose(mean, 7 * weights.softmax(0), atol=2e-3)


def test_weights_that_vanish_leave_no_children():
    found = systematic(log(0, 1, 0, 1, 0), torch.tensor(0.999999, dtype=torch.float64))
    assert set(found.tolist()) == {1, 3}
    assert systematic(torch.full((3,), -math.inf, dtype=torch.float64), torch.tensor(0.1)).max() < 3
