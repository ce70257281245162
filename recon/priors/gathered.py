"""One network for runs that go on side by side: their calls are gathered and answered by one evaluation.

    F(x_1, c_1), ..., F(x_K, c_K)  =  F([x_1 ... x_K], [c_1 ... c_K]) cut apart again

Each run keeps its own thread, problem, noise and steps; the network alone sees the images of all of them. Calls whose
images differ in size or type are answered one after the other, and a call that is alone in its kind gives the bits of
a run by itself. No gradients pass.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

# images that are evaluated together at most
MOST_IMAGES = 64


class Stopped(Exception):
    """The runs were told to stop."""


@dataclass
class _Call:
    """A run's call of the network, and its answer once there is one."""

    network: nn.Module
    inputs: tuple[Tensor, ...]
    out: Tensor | None = None
    error: Exception | None = None

    @property
    def answered(self) -> bool:
        return self.out is not None or self.error is not None

    @property
    def kind(self) -> tuple[Any, ...]:
        """What calls must share to be answered together."""
        return (id(self.network), *((t.shape[1:], t.dtype, t.device) for t in self.inputs))


@final
class Gathering:
    """The calls of some runs, by number: answered as soon as every run that has not left waits for an answer."""

    def __init__(self, members: int) -> None:
        self._members, self._calls = set(range(members)), dict[int, _Call]()
        self._changed, self._stopped = threading.Condition(), False

    def network(self, member: int, network: nn.Module) -> GatheredNetwork:
        """Return the network as one of the runs calls it."""
        return GatheredNetwork(self, member, network)

    def evaluate(self, member: int, network: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return the network's answer to a run. Raises what the network raised, and Stopped."""
        call = _Call(network, inputs)
        with self._changed:
            self._calls[member] = call
            self._answer()
            self._changed.wait_for(lambda: call.answered or self._stopped)
        if call.error is not None:
            raise call.error
        if call.out is None:
            raise Stopped
        return call.out

    def leave(self, member: int) -> None:
        """Wait no longer for a run that has ended."""
        with self._changed:
            self._members.discard(member)
            self._answer()

    def stop(self) -> None:
        """End all runs at their next call."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _answer(self) -> None:
        """Answer all calls if none is missing, in the order of the runs."""
        if self._stopped or not self._calls or not self._members <= self._calls.keys():
            return
        for calls in _together([self._calls[member] for member in sorted(self._calls)]):
            _evaluate(calls)
        self._calls.clear()
        self._changed.notify_all()


def _together(calls: list[_Call]) -> Iterator[list[_Call]]:
    """Yield calls of one kind, at most `MOST_IMAGES` images of them."""
    kinds: dict[tuple[Any, ...], list[_Call]] = {}
    for call in calls:
        kinds.setdefault(call.kind, []).append(call)
    for alike in kinds.values():
        step = max(1, MOST_IMAGES // max(len(call.inputs[0]) for call in alike))
        yield from (alike[i : i + step] for i in range(0, len(alike), step))


@torch.no_grad()
def _evaluate(calls: list[_Call]) -> None:
    """Answer calls of one kind; where that fails, each by itself, so that one fails for none of the others."""
    try:
        inputs = [torch.cat(each) for each in zip(*(c.inputs for c in calls), strict=True)]
        outs = calls[0].network(*inputs).split([len(c.inputs[0]) for c in calls])
    except Exception as err:
        if len(calls) == 1:
            calls[0].error = err
            return
        for call in calls:
            _evaluate([call])
        return
    for call, out in zip(calls, outs, strict=True):
        call.out = out


@final
class GatheredNetwork(nn.Module):
    """A network whose calls are those of one run among several."""

    def __init__(self, gathering: Gathering, member: int, network: nn.Module) -> None:
        super().__init__()
        self.config: Any = network.config
        # not a submodule: it is that of all runs
        self._gathering, self._member, self._source = gathering, member, (network,)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._gathering.evaluate(self._member, self._source[0], inputs)
