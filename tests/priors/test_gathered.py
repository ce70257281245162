"""Gathered calls of a network: answered together where they are alike, by themselves where they are not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from recon.priors import gathered as module
from recon.priors.gathered import Gathering, Stopped


class Scaling(nn.Module):
    """F(x, c) = c x, that notes the batches it sees and fails on values above 100."""

    def __init__(self) -> None:
        super().__init__()
        self.config, self.seen = SimpleNamespace(out_channels=1), []

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        self.seen.append(len(x))
        if float(x.max()) > 100:
            raise ValueError("too large")
        return c.reshape(-1, 1, 1, 1) * x


def answers(network: nn.Module, inputs: list[list[tuple[Tensor, Tensor]]]) -> list[list[Tensor] | Exception]:
    """Return what each run is answered: run m makes the calls of inputs[m]."""
    gathering = Gathering(len(inputs))

    def run(member: int) -> list[Tensor]:
        mine = gathering.network(member, network)
        try:
            return [mine(*each) for each in inputs[member]]
        finally:
            gathering.leave(member)

    with ThreadPoolExecutor(len(inputs)) as pool:
        futures = [pool.submit(run, member) for member in range(len(inputs))]
        return [future.exception() or future.result() for future in futures]


def image(value: float, size: int = 4, batch: int = 1) -> Tensor:
    return torch.full((batch, 1, size, size), value)


def test_calls_of_one_kind_are_one_evaluation_and_each_run_gets_its_own():
    network = Scaling()
    calls = [[(image(m + 1.0, batch=m + 1), torch.full((m + 1,), 10.0**m))] * 2 for m in range(3)]
    found = answers(network, calls)
    assert network.seen == [6, 6]
    for member, outs in enumerate(found):
        for out in outs:
            assert torch.equal(out, image((member + 1) * 10.0**member, batch=member + 1))


def test_other_sizes_are_evaluated_by_themselves():
    network = Scaling()
    found = answers(network, [[(image(1.0, size), torch.ones(1))] for size in (4, 8, 4)])
    assert sorted(network.seen) == [1, 2]
    assert [tuple(outs[0].shape[-2:]) for outs in found] == [(4, 4), (8, 8), (4, 4)]


def test_a_run_that_ends_early_is_not_waited_for():
    network = Scaling()
    found = answers(network, [[(image(1.0), torch.ones(1))] * count for count in (1, 3, 2)])
    assert [len(outs) for outs in found] == [1, 3, 2]
    assert sum(network.seen) == 6


def test_a_call_that_fails_fails_for_no_other():
    found = answers(Scaling(), [[(image(v), torch.ones(1))] for v in (1.0, 1000.0, 2.0)])
    assert isinstance(found[1], ValueError)
    assert torch.equal(found[0][0], image(1.0)) and torch.equal(found[2][0], image(2.0))


def test_values_that_are_not_finite_stay_with_their_run():
    torch.manual_seed(0)
    network = Scaling()
    network.conv = nn.Conv2d(1, 1, 3, padding=1).requires_grad_(False)
    network.forward = lambda x, c: network.conv(x)
    found = answers(network, [[(image(v), torch.ones(1))] for v in (1.0, float("nan"))])
    assert torch.isfinite(found[0][0]).all() and torch.isnan(found[1][0]).all()


def test_no_more_images_at_once_than_are_allowed(monkeypatch):
    monkeypatch.setattr(module, "MOST_IMAGES", 4)
    network = Scaling()
    answers(network, [[(image(float(m), batch=2), torch.ones(2))] for m in range(5)])
    assert sorted(network.seen) == [2, 4, 4]


def test_runs_that_are_stopped_end_at_their_next_call():
    gathering = Gathering(2)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(gathering.network(0, Scaling()), image(1.0), torch.ones(1))
        gathering.stop()
        with pytest.raises(Stopped):
            waiting.result()
    with pytest.raises(Stopped):
        gathering.network(1, Scaling())(image(1.0), torch.ones(1))
