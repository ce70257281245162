"""Images of a run as they come: the same values in memory and on disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon.io import disk
from recon.metrics.uncertainty import mean_and_std
from recon.runs.collected import Collected, Shelf, means, spreads


@pytest.fixture(params=["memory", "disk"])
def place(request, monkeypatch) -> str:
    """Where large arrays lie; on disk, all are large."""
    if request.param == "disk":
        monkeypatch.setattr(disk, "LEAST_BYTES", 1)
    return str(request.param)


def stacks(samples: int) -> list[np.ndarray]:
    rng = np.random.default_rng(samples)
    return [rng.normal(size=(samples, n, 1, 4, 3)).astype(np.float32) for n in (2, 1, 3)]


def test_items_come_together_in_order(place):
    collected, made = Collected(6), stacks(2)
    for stack in made:
        collected.add(stack)
    assert np.array_equal(collected.all(), np.concatenate(made, axis=1))
    assert isinstance(collected.array, np.memmap) == (place == "disk")


def test_one_item_alone_is_not_copied():
    collected, (only, *_) = Collected(2), stacks(1)
    collected.add(only)
    assert collected.all().base is only or collected.all() is only


def test_an_end_with_fewer_samples_leaves_the_means(place):
    collected, made = Collected(9), stacks(3)
    for stack in made[:2]:
        collected.add(stack)
    collected.end_with(made[2][:1])
    expected = [stack.mean(0, keepdims=True) for stack in (*made[:2], made[2][:1])]
    np.testing.assert_allclose(collected.all(), np.concatenate(expected, axis=1), rtol=1e-6)
    first = Collected(9)
    first.end_with(made[0])
    np.testing.assert_allclose(first.all(), made[0].mean(0, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("kind", [np.float32, np.complex64])
def test_means_and_spreads_are_those_of_the_whole(place, kind):
    samples = np.random.default_rng(0).normal(size=(4, 5, 1, 6, 7)).astype(kind)
    mean, std = mean_and_std(samples)
    assert np.array_equal(means(samples), mean) and np.array_equal(spreads(samples), std)
    assert np.array_equal(means(samples[:1]), samples[0])


def test_a_shelf_keeps_copies(place):
    shelf = Shelf(3, 2)
    given = [torch.full((n, 1, 4), float(n)) for n in (2, 2, 1)]
    kept = [shelf.put(number, one) for number, one in enumerate(given)]
    given[0].zero_()
    assert [one.shape for one in kept] == [(2, 1, 4), (2, 1, 4), (1, 1, 4)]
    assert [float(one.max()) for one in kept] == [2.0, 2.0, 1.0]
