"""Runs that are interrupted save what is done, and go on to the same bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recon.config.schema import Config
from recon.data import Geometry, Volume
from recon.errors import ConfigError, InputError, ResourceError
from recon.io.registry import write_measurement
from recon.priors.base import PriorInfo
from recon.priors.networks.unet import UNet, UNetConfig
from recon.priors.store import save_prior
from recon.runs import saved
from recon.runs.reconstruct import RunRequest, reconstruct
from recon.runs.saved import Keeper, read_saved, state_name
from recon.runs.simulate import simulate
from recon.samplers.base import Result, SeededNoise, Stats, Status, Step

TINY = UNetConfig(channels=(8, 16), blocks=(1, 1), embedding=16, groups=4)
METHODS: dict[str, dict[str, Any]] = {
    "dds-3d": {"steps": 5, "weighting": "matched"},
    "diffusion-mbir": {"steps": 5},
    "dds": {"steps": 3},
    "d3ip": {"steps": 4, "adapt_steps": 2, "start": "noise", "weighting": "matched"},
    "ddip": {"steps": 2, "adapt_steps": 2},
}


class Stop(BaseException):
    """A signal's exception, as the command line has it."""


def weights() -> dict[str, torch.Tensor]:
    """Weights of an untrained network, none of them zero."""
    return {k: v + 0.05 * torch.randn_like(v) for k, v in UNet(TINY).state_dict().items()}


@pytest.fixture
def request_of(tmp_path: Path):
    file = tmp_path / "tiny.safetensors"
    torch.manual_seed(0)
    save_prior(file, weights(), TINY, 0.5, PriorInfo("tiny", 1, multiple=TINY.multiple), torch.float32)

    def make(method: str, name: str = "out.npy", **changes: Any) -> RunRequest:
        content = {
            "operator": {"kind": "mri", "acceleration": 2.0},
            "method": {"name": method, **METHODS[method], **changes},
            "noise": {"sigma": 0.01},
            "prior": {"name": str(file)},
            "run": {"device": "cpu", "threads": 1, "samples": 2},
        }
        cfg = Config.model_validate(content)
        if not (tmp_path / "y.h5").exists():
            array = np.random.default_rng(0).uniform(10, 90, (3, 8, 8)).astype(np.float32)
            write_measurement(tmp_path / "y.h5", simulate(Volume(array, Geometry(("z", "y", "x"))), cfg))
        return RunRequest(tmp_path / "y.h5", tmp_path / name, cfg, "p", keep_state=True)

    return make


def interrupt_after(steps: int, error: type[BaseException] = Stop):
    count = 0

    def report(progress):
        nonlocal count
        count += 1
        if count == steps:
            raise error

    return report


def outputs(folder: Path, stem: str) -> dict[str, np.ndarray]:
    return {kind: np.load(folder / f"{stem}{kind}.npy") for kind in ("", "_std", "_samples")}


def ignore(plan):
    pass


@pytest.mark.parametrize("method", METHODS)
def test_any_interruption_is_made_good_bit_for_bit(request_of, tmp_path, method):
    whole = request_of(method, "whole.npy")
    reconstruct(whole, ignore, None)
    expected = outputs(tmp_path, "whole")
    # two samples of a volume, or of each of three images
    steps = METHODS[method]["steps"] * (6 if method in ("dds", "ddip") else 2)
    for stop in range(1, steps + 1, 1 if method == "dds-3d" else 4):
        run = request_of(method)
        with pytest.raises(Stop) as caught:
            reconstruct(run, ignore, interrupt_after(stop))
        state = state_name(tmp_path / "out.npy")
        # of methods of images, what is finished is kept: the step that was under way is done again
        kept = method != "dds" or stop > METHODS["dds"]["steps"]
        assert state.exists() == kept
        assert getattr(caught.value, "__notes__", []) == (
            ["state saved in out.npy.state.npz; go on with --resume"] if kept else []
        )
        assert sorted(p.name for p in tmp_path.glob("out*")) == (["out.npy.state.npz"] if kept else [])
        told, done = [], []
        reconstruct(
            replace(run, resume=True),
            lambda plan, told=told: told.extend(plan.notices),
            lambda p, d=done: d.append(p.done),
        )
        if method != "dds" and stop < steps:
            assert done[0] == stop + 1, "no step is done twice"
        assert any(("going on from" if kept else "nothing to resume") in line for line in told)
        for kind, array in outputs(tmp_path, "out").items():
            assert np.array_equal(array, expected[kind]), kind
        assert not state.exists(), "success removes the state"
        for path in tmp_path.glob("out*"):
            path.unlink()


@pytest.mark.parametrize("method", ["dds-3d", "d3ip"])
def test_statistics_of_a_resumed_run_are_those_of_a_whole_one(request_of, tmp_path, method):
    facts = []
    for name, stop in (("whole.npy", None), ("out.npy", 7)):
        run = request_of(method, name)
        if stop:
            with pytest.raises(Stop):
                reconstruct(run, ignore, interrupt_after(stop))
            run = replace(run, resume=True)
        reconstruct(run, ignore, None)
        facts.append(json.loads((tmp_path / f"{name}.json").read_text())["Recon"])
    assert facts[0]["NFE"] == facts[0]["Plan"]["network_evaluations"]
    for key in ("NFE", "Backprops", "OperatorCalls", "Residual", "Chunk", "Threads"):
        assert facts[0][key] == facts[1][key]


def test_a_state_of_another_run_is_refused_and_kept(request_of, tmp_path):
    with pytest.raises(Stop):
        reconstruct(request_of("dds-3d"), ignore, interrupt_after(2))
    other = replace(request_of("dds-3d", gamma=2.0), resume=True)
    with pytest.raises(ConfigError, match="of another run: it differs in method"):
        reconstruct(other, ignore, None)
    write_measurement(
        tmp_path / "z.h5",
        simulate(Volume(np.full((3, 8, 8), 50.0, np.float32), Geometry(("z", "y", "x"))), other.config),
    )
    with pytest.raises(ConfigError, match="it differs in input"):
        reconstruct(replace(request_of("dds-3d"), resume=True, source=tmp_path / "z.h5"), ignore, None)
    assert state_name(tmp_path / "out.npy").exists()
    told: list[str] = []
    reconstruct(request_of("dds-3d"), lambda plan: told.extend(plan.notices), None)
    assert any("not used: --resume goes on from it" in line for line in told)


def test_how_the_interrupted_run_computed_is_kept(request_of, tmp_path):
    run = request_of("dds-3d")
    chunked = replace(run, config=run.config.model_copy(update={"run": run.config.run.model_copy(update={"chunk": 3})}))
    with pytest.raises(Stop):
        reconstruct(chunked, ignore, interrupt_after(3))
    plans = []
    reconstruct(replace(run, resume=True), plans.append, None)
    assert plans[0].chunk == 3


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_a_file_that_is_no_state_is_refused(request_of, tmp_path, content):
    path = state_name(tmp_path / "out.npy")
    if content is None:
        np.savez(path.open("wb"), y=np.zeros(3))
    else:
        path.write_bytes(content)
    with pytest.raises(InputError):
        reconstruct(replace(request_of("dds-3d"), resume=True), ignore, None)


def test_errors_and_runs_that_keep_no_state_leave_nothing(request_of, tmp_path):
    with pytest.raises(ValueError):
        reconstruct(request_of("dds-3d"), ignore, interrupt_after(3, ValueError))
    with pytest.raises(Stop):
        reconstruct(replace(request_of("dds-3d"), keep_state=False), ignore, interrupt_after(3))
    assert not list(tmp_path.glob("out*"))


def test_a_state_is_saved_every_few_minutes(tmp_path, monkeypatch):
    now, noise = [0.0], SeededNoise(0, [0])
    keeper = Keeper(tmp_path / "a.state.npz", {"seed": 1}, clock=lambda: now[0])

    def reach(minutes):
        now[0] += 60 * minutes
        state = {"x": torch.full((2,), now[0]), "residuals": torch.zeros(3, 1)}
        keeper.reached(Step(0, 9, 1.0, torch.zeros(1), state), noise)

    reach(4.9)
    assert read_saved(keeper.path) is None
    reach(0.2)
    found = read_saved(keeper.path)
    assert found is not None and found.state is not None and found.describe() == "3 steps"
    assert found.state["x"].tolist() == [306.0] * 2 and found.seconds == 306.0
    monkeypatch.setattr(saved, "atomic_write", refuse)
    reach(6)  # a full disk now is no reason to stop
    with pytest.raises(ResourceError):
        keeper.save()
    monkeypatch.undo()
    assert read_saved(keeper.path) is not None, "the last good state is still there"


def refuse(*args, **kwargs):
    raise ResourceError("cannot write: the disk is full")


def test_complex_samples_and_ensembles_keep_their_bits(tmp_path):
    keeper = Keeper(tmp_path / "a.state.npz", {})
    samples = torch.randn(2, 1, 3, 3, dtype=torch.complex64)
    keeper.finish(Result(samples, Status.OK, Stats(nfe=5, residuals=[torch.ones(2), torch.zeros(2)])))
    assert keeper.save()
    found = read_saved(keeper.path)
    assert found is not None and found.state is None and found.describe() == "1 finished"
    result = found.finished[0]
    assert torch.equal(result.samples, samples) and result.stats.nfe == 5
    assert [r.tolist() for r in result.stats.residuals] == [[1, 1], [0, 0]]
    keeper.remove()
    assert read_saved(keeper.path) is None
