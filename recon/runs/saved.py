"""What an interrupted run has done so far, in a file beside its output, and going on from there.

OUTPUT.state.npz holds the samples of the problems that are finished, the sampler's state after its last step where it
gives one (methods of volumes), and what the run is of. It is written as a whole or not at all: when the run is
interrupted, and every few minutes; it is removed when the run has succeeded. The result of a run that is resumed is
that of one that was never interrupted, bit for bit, on the same device with the same threads and chunks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from recon.config.schema import Config, RunSection
from recon.errors import ConfigError, InputError, ReconError
from recon.io.atomic import atomic_write
from recon.io.npz import open_npz, write_items
from recon.io.source import open_source
from recon.priors.catalog import prior_path, weights_sha256
from recon.runs.plan import Plan
from recon.runs.provenance import versions
from recon.samplers.base import EnsembleStats, Result, SeededNoise, State, Stats, Status, Step
from recon.samplers.volume import SliceNoise

STATE_VERSION = 1
SAVE_SECONDS = 300.0
COUNTS = ("nfe", "backprops", "operator_calls", "shared")
# how a run computes, which resuming keeps
PINNED = ("device", "threads", "chunk", "backend")


def state_name(output: Path) -> Path:
    """Return OUTPUT.state.npz."""
    return output.with_name(output.name + ".state.npz")


@dataclass(frozen=True)
class Saved:
    """What a state file holds.

    identity: what the run is of, and how it computes.  seconds: that it took.  finished: results, in order.
    state, noise: of the sampler and its noise source after the last step of the next one, or None.
    """

    identity: dict[str, Any]
    seconds: float
    finished: list[Result] = field(default_factory=list)
    state: State | None = None
    noise: Tensor | None = None

    def describe(self) -> str:
        """Return how far the run is, in words."""
        steps = 0 if self.state is None else len(self.state["residuals"])
        done = f"{len(self.finished)} finished" if self.finished else ""
        return " and ".join(part for part in (done, f"{steps} steps" if steps else "") if part)


@final
class Keeper:
    """Takes in what a run has done, and saves it when told to and every few minutes."""

    def __init__(
        self,
        path: Path,
        identity: dict[str, Any],
        found: Saved | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """path: of the state file.  found: what to go on from."""
        self.path, self.identity, self.clock = path, identity, clock
        self.started = self.saved = clock()
        self.before = found.seconds if found is not None else 0.0
        self.finished = list(found.finished) if found is not None else []
        self.state, self.noise = (found.state, found.noise) if found is not None else (None, None)

    @property
    def seconds(self) -> float:
        """Time since the run began, without pauses."""
        return self.before + self.clock() - self.started

    def known(self, number: int) -> Result | None:
        """Return a problem's result, where it is finished."""
        return self.finished[number] if number < len(self.finished) else None

    def reached(self, step: Step, noise: SeededNoise | SliceNoise) -> None:
        """Take in a step, and the state of the noise source after it."""
        if step.state is not None:
            self.state, self.noise = step.state, noise.state()
        if self.clock() - self.saved >= SAVE_SECONDS:
            self.saved = self.clock()
            # a full disk now must not end a run that may yet succeed
            with suppress(ReconError):
                self.save()

    def finish(self, result: Result) -> None:
        """Take in the result of a problem's samples."""
        self.finished.append(result)
        self.state = self.noise = None

    def save(self) -> bool:
        """Write the state file; return whether there was anything to write."""
        if not self.finished and self.state is None:
            return False
        with atomic_write(self.path, force=True) as stream:
            write_items(stream, self._items())
        self.saved = self.clock()
        return True

    def remove(self) -> None:
        """Remove the state file, if there is one."""
        self.path.unlink(missing_ok=True)

    def _items(self) -> dict[str, np.ndarray]:
        counts = [{name: getattr(r.stats, name) for name in COUNTS} for r in self.finished]
        facts = {
            "StateVersion": STATE_VERSION,
            "Identity": self.identity,
            "Seconds": self.seconds,
            "Finished": counts,
        }
        items = {"meta": np.array(json.dumps(facts))}
        for number, result in enumerate(self.finished):
            found = {"samples": result.samples, "residuals": _stacked(result.stats.residuals)}
            if result.stats.ensemble is not None:
                found["spreads"] = _stacked(result.stats.ensemble.spreads)
            items |= {f"finished/{number}/{name}": _array(value) for name, value in found.items() if value is not None}
        if self.state is not None and self.noise is not None:
            items |= {f"step/{name}": _array(value) for name, value in self.state.items()}
            items["noise"] = _array(self.noise)
        return items


def read_saved(path: Path) -> Saved | None:
    """Return what a state file holds, None where there is none. Raises InputError for a file that is no state."""
    if not path.is_file():
        return None
    with open_source(path) as source, open_npz(source) as file:
        if "meta" not in file.keys():
            raise InputError(f"{path.name} is no state of an interrupted run", "remove it")
        facts = file.json("meta")
        arrays = {key: file.array(key) for key in file.keys() if key != "meta"}
    try:
        if facts["StateVersion"] != STATE_VERSION:
            raise InputError(f"{path.name} has state version {facts['StateVersion']}, expected {STATE_VERSION}")
        finished = [_result(arrays, number, counts) for number, counts in enumerate(facts["Finished"])]
        step = {k.removeprefix("step/"): torch.from_numpy(v) for k, v in arrays.items() if k.startswith("step/")}
        noise = torch.from_numpy(arrays["noise"]) if step else None
        return Saved(dict(facts["Identity"]), float(facts["Seconds"]), finished, step or None, noise)
    except (KeyError, TypeError, ValueError) as err:
        raise InputError(f"{path.name} is no state of an interrupted run, or damaged", "remove it") from err


def identity(plan: Plan, input_sha256: str, operator_sha256: str | None) -> dict[str, Any]:
    """Return what a run is of and how it computes, JSON-able: two runs that agree in it give the same bits.

    input_sha256, operator_sha256: of the input and the operator file.
    """
    config = plan.config.model_dump(mode="json")
    sections = {name: config[name] for name in ("operator", "noise", "prior", "method", "scaling", "scan")}
    names = [] if plan.prior is None else [plan.config.prior.name, plan.config.prior.auxiliary]
    weights = [weights_sha256(prior_path(name)) for name in names if name is not None]
    return {
        **sections,
        "samples": plan.samples,
        "seed": plan.config.run.seed,
        "input": input_sha256,
        "operator file": operator_sha256,
        "weights": weights,
        "versions": versions(plan.backend),
        **{name: str(plan.device) if name == "device" else getattr(plan, name) for name in PINNED},
    }


def pinned(config: Config, saved: Saved, name: str) -> Config:
    """Return the configuration with the device, threads, chunk and backend of a state; name: of its file."""
    run = config.run.model_dump() | {key: saved.identity.get(key) for key in PINNED}
    try:
        return config.model_copy(update={"run": RunSection.model_validate(run)})
    except ValueError as err:
        raise InputError(f"{name} is no state of an interrupted run, or damaged", "remove it") from err


def check_identity(saved: Saved, now: Mapping[str, Any], name: str) -> None:
    """Raise ConfigError unless a state is of this very run. name: of its file."""
    then = saved.identity
    differ = sorted(key for key in {*then, *now} if then.get(key) != now.get(key))
    if differ:
        raise ConfigError(
            f"{name} is of another run: it differs in {', '.join(differ)}",
            "repeat the interrupted command with --resume added, or leave out --resume to start over",
        )


def on_device(state: State | None, device: torch.device) -> State | None:
    """Return a sampler's state on a device."""
    return None if state is None else {name: value.to(device) for name, value in state.items()}


def _result(arrays: Mapping[str, np.ndarray], number: int, counts: dict[str, int]) -> Result:
    def tensor(name: str) -> Tensor | None:
        found = arrays.get(f"finished/{number}/{name}")
        return None if found is None else torch.from_numpy(found)

    samples, residuals, spreads = tensor("samples"), tensor("residuals"), tensor("spreads")
    if samples is None:
        raise KeyError("samples")
    ensemble = None if spreads is None else EnsembleStats(list(spreads))
    known = [] if residuals is None else list(residuals)
    nfe, backprops, calls, shared = (int(counts[name]) for name in COUNTS)
    return Result(samples, Status.OK, Stats(nfe, backprops, calls, known, ensemble, shared))


def _stacked(values: list[Tensor]) -> Tensor | None:
    return torch.stack(values) if values else None


def _array(value: Tensor | None) -> np.ndarray:
    assert value is not None
    return np.ascontiguousarray(value.detach().cpu().numpy())
