"""The random walk and its accept test."""

import torch
from chain_doubles import double_well, gaussian, normal, well_moments

from recon.solvers.metropolis import accepts, choose, random_walk


def test_accept_probability_is_that_of_the_ratio():
    for ratio, expected in ((0.0, 1.0), (3.0, 1.0), (-0.5, 0.6065), (-3.0, 0.0498)):
        taken = accepts(torch.full((40000,), ratio, dtype=torch.float64), normal(0))
        assert abs(float(taken.double().mean()) - expected) < 5 * (expected * (1 - expected) / 40000) ** 0.5 + 1e-12


def test_what_is_not_a_number_is_never_accepted():
    bad = torch.tensor([float("nan"), -float("inf"), float("inf")])
    assert accepts(bad, normal(0)).tolist() == [False, False, True]


def test_choose_takes_whole_items():
    new, old = torch.ones(3, 2, 2), torch.zeros(3, 2, 2)
    assert choose(torch.tensor([True, False, True]), new, old).sum((1, 2)).tolist() == [4, 0, 4]


def test_walk_samples_the_density():
    x = random_walk(lambda u: gaussian(0.5)(u)[0], torch.zeros(20000, 2, dtype=torch.float64), 0.9, 80, normal(1))
    assert abs(float(x.x.var()) / 0.5 - 1) < 5 * (2 / 40000) ** 0.5
    assert x.accepted.shape == (20000,) and 0.3 < float(x.accepted.mean()) < 0.8
    start = torch.ones(20000, 1, dtype=torch.float64)
    start[::2] = -1
    well = random_walk(lambda u: double_well(u)[0], start, 0.5, 200, normal(2)).x
    second, fourth = well_moments()
    assert abs(float((well**2).mean()) - second) < 5 * ((fourth - second**2) / 20000) ** 0.5


def test_complex_state_counts_as_two_numbers():
    x = random_walk(lambda u: gaussian(0.5)(u)[0], torch.zeros(20000, 1, dtype=torch.complex128), 0.9, 80, normal(1)).x
    parts = torch.view_as_real(x)
    assert abs(float(parts.var()) / 0.5 - 1) < 5 * (2 / 40000) ** 0.5


def test_nothing_is_read_off_the_device(monkeypatch):
    def forbidden(self, *args, **kwargs):
        raise AssertionError("a value was read off a tensor")

    for name in ("item", "__bool__", "__float__", "__int__", "__index__", "tolist", "numpy", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, forbidden)
    chain = random_walk(lambda u: gaussian(0.5)(u)[0], torch.zeros(4, 2), 0.5, 5, normal(1))
    monkeypatch.undo()
    assert bool(chain.x.any())
