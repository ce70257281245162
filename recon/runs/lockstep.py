"""Runs side by side, each in a thread of its own, whose calls of the network are answered together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from torch import nn

from recon.priors.base import Denoiser
from recon.priors.gathered import Gathering
from recon.priors.wrapper import innermost, network_of, with_network
from recon.runs.execute import Accelerate
from recon.samplers.base import Method

Run = TypeVar("Run")
# images that go through the network together on a GPU
IMAGES = 16


def choose_together(wanted: int, method: Method, chunk: int, device: torch.device) -> int:
    """Return how many inputs of a batch go through the network together.

    On a CPU one, since several are no faster there; on a GPU as many as make 16 images of `chunk` samples each.
    One as well for methods that differentiate or train the prior, and for those whose samples or slices are one
    problem and fill the network by themselves.
    """
    alone = method.differentiates_prior or method.trains_prior or method.ensemble or method.joint
    if alone or not method.uses_prior:
        return 1
    return wanted or (1 if device.type == "cpu" else max(1, IMAGES // chunk))


def in_lockstep(runs: Sequence[Callable[[Accelerate], Run]], accelerate: Accelerate) -> list[Run | Exception]:
    """Return the result of each run, or what it raised; one that fails stops no other.

    runs: functions of how their prior gets its backend.  accelerate: that of a run by itself, for all of them.
    What stops this thread, such as an interrupt, stops the runs at their next call of the network.
    """
    if len(runs) == 1:
        try:
            return [runs[0](accelerate)]
        except Exception as err:
            return [err]
    gathering, one = Gathering(len(runs)), threading.Lock()

    def run(member: int) -> Run:
        def gathered(prior: Denoiser, backend: str, threads: int) -> Denoiser:
            with one:
                prior = accelerate(prior, backend, threads)
            if not isinstance(getattr(innermost(prior), "network", None), nn.Module):
                gathering.leave(member)
                return prior
            return with_network(prior, gathering.network(member, network_of(prior)))

        try:
            return runs[member](gathered)
        finally:
            gathering.leave(member)

    with ThreadPoolExecutor(len(runs)) as pool:
        futures: list[Future[Run]] = [pool.submit(run, member) for member in range(len(runs))]
        try:
            wait(futures)
        except BaseException:
            gathering.stop()
            raise
    return [_ended(future.exception()) or future.result() for future in futures]


def _ended(err: BaseException | None) -> Exception | None:
    """Return what a run raised; raise it where it is meant to end the program."""
    if err is not None and not isinstance(err, Exception):
        raise err
    return err
