"""Batches: the same files as single runs, one opening of the prior, failures that stop nothing, and going on."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recon.config.schema import Config
from recon.data import Geometry, Volume
from recon.errors import OutputExistsError
from recon.io.registry import read_volume, write_measurement
from recon.priors import backends
from recon.priors.base import PriorInfo
from recon.priors.gathered import Gathering
from recon.priors.networks.unet import UNet, UNetConfig
from recon.priors.store import save_prior
from recon.runs import backend, lockstep
from recon.runs import batch as module
from recon.runs.batch import BatchRequest, run_batch
from recon.runs.manifest import read_manifest
from recon.runs.methods import make_method
from recon.runs.reconstruct import RunRequest, reconstruct
from recon.runs.rerun import read_rerun
from recon.runs.simulate import simulate

TINY = UNetConfig(channels=(8, 16), blocks=(1, 1), embedding=16, groups=4)


def config(method: str = "cg", prior: str = "brain-mri") -> Config:
    return Config.model_validate(
        {
            "operator": {"kind": "denoise"},
            "method": {"name": method} | ({"steps": 3} if method == "dds" else {}),
            "noise": {"sigma": 0.05},
            "prior": {"name": prior},
            "scaling": {"mode": "fixed", "low": 0.0, "high": 1.0},
            "run": {"device": "cpu", "threads": 1},
        }
    )


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Three measurements and a file that is none."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for index, name in enumerate("abc"):
        image = np.random.default_rng(index).uniform(0, 1, (16, 16)).astype(np.float32)
        write_measurement(folder / f"{name}.h5", simulate(Volume(image, Geometry(("y", "x"))), config()))
    return folder


def request(scans: Path, out: Path, **rest) -> BatchRequest:
    out.mkdir(exist_ok=True)
    given = {"config": config(), "preset": "test"} | rest
    return BatchRequest(items=read_manifest(str(scans), ".npy"), folder=out, **given)


def run(asked: BatchRequest) -> list[module.BatchResult]:
    return list(run_batch(asked, lambda number, item: None, lambda plan: None, None))


def test_a_batch_writes_what_single_runs_write(scans, tmp_path):
    results = run(request(scans, tmp_path / "out"))
    assert [(r.item.source.name, r.status) for r in results] == [("a.h5", "ok"), ("b.h5", "ok"), ("c.h5", "ok")]
    for name in "abc":
        alone = tmp_path / f"{name}-alone.npy"
        reconstruct(RunRequest(scans / f"{name}.h5", alone, config(), "test"), lambda plan: None, None)
        assert (tmp_path / "out" / f"{name}.npy").read_bytes() == alone.read_bytes()
        assert (tmp_path / "out" / f"{name}.npy.json").is_file()


def test_the_prior_is_opened_once(scans, tmp_path, monkeypatch):
    weights = tmp_path / "tiny.safetensors"
    info = PriorInfo("tiny", 1, multiple=TINY.multiple)
    save_prior(weights, UNet(TINY).state_dict(), TINY, 0.5, info, torch.float32)
    opened = []
    real = module.open_prior
    monkeypatch.setattr(module, "open_prior", lambda path: opened.append(path) or real(path))
    results = run(request(scans, tmp_path / "out", config=config("dds", str(weights))))
    assert [r.status for r in results] == ["ok"] * 3
    assert opened == [weights]


def test_a_batch_exports_its_network_once_where_all_items_together_are_worth_it(scans, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    weights, out = tmp_path / "tiny.safetensors", tmp_path / "out"
    info = PriorInfo("tiny", 1, multiple=TINY.multiple)
    save_prior(weights, UNet(TINY).state_dict(), TINY, 0.5, info, torch.float32)
    asked, plans, made = request(scans, out, config=config("dds", str(weights))), [], []
    real = backends.with_backend
    monkeypatch.setattr(backends, "with_backend", lambda *given: made.append(given[1]) or real(*given))

    def taken(**rest):
        plans.clear()
        list(run_batch(replace(asked, **rest), lambda number, item: None, plans.append, None))
        return [plan.backend for plan in plans]

    monkeypatch.setattr(backend, "WORTH_EXPORTING", 3 * 3)
    assert taken() == ["onnxruntime"] * 3 and made.count("onnxruntime") == 1
    (out / "b.npy.json").unlink()
    assert taken(skip_existing=True) == ["onnxruntime"], "one that goes on keeps to what it began with"
    monkeypatch.setattr(backend, "WORTH_EXPORTING", 3 * 3 + 1)
    assert taken(force=True) == ["eager"] * 3
    facts = read_rerun(out / "a.npy.json", tmp_path / "x.npy", None, False, ("recon",), None).request.config
    assert facts.run.backend == "eager"


def test_a_failure_stops_nothing_unless_asked(scans, tmp_path):
    (scans / "b.h5").write_bytes(b"nothing of ours")
    results = run(request(scans, tmp_path / "out"))
    assert [r.status for r in results] == ["ok", "failed", "ok"]
    assert results[1].json()["exit_code"] == 3 and "b.h5" in results[1].json()["error"]
    assert not (tmp_path / "out" / "b.npy").exists()
    assert [r.status for r in run(request(scans, tmp_path / "fast", fail_fast=True))] == ["ok", "failed"]
    assert not (tmp_path / "fast" / "c.npy").exists()


def test_a_bug_in_one_item_does_not_lose_the_others(scans, tmp_path, monkeypatch):
    def broken(single, *rest):
        if single.source.name == "a.h5":
            raise ZeroDivisionError("division by zero")
        return reconstruct(single, *rest)

    monkeypatch.setattr(module, "reconstruct", broken)
    results = run(request(scans, tmp_path / "out"))
    assert [r.status for r in results] == ["failed", "ok", "ok"]
    assert results[0].json()["error"] == "unexpected ZeroDivisionError: division by zero"


def test_what_is_finished_is_left_and_the_rest_done(scans, tmp_path):
    out = tmp_path / "out"
    run(request(scans, out))
    (out / "b.npy.json").unlink()  # as if killed between image and sidecar
    before = (out / "a.npy").stat().st_mtime_ns
    results = run(request(scans, out, skip_existing=True))
    assert {r.item.source.name: r.status for r in results} == {"a.h5": "skipped", "b.h5": "ok", "c.h5": "skipped"}
    assert (out / "a.npy").stat().st_mtime_ns == before
    with pytest.raises(OutputExistsError):
        run(request(scans, out))
    assert all(r.status == "ok" for r in run(request(scans, out, force=True)))


def test_an_item_has_its_own_seed_and_truth(scans, tmp_path):
    truth = np.random.default_rng(0).uniform(0, 1, (16, 16)).astype(np.float32)
    np.save(scans / "truth.npy", truth)
    shutil.copy(scans / "a.h5", scans / "d.h5")
    manifest = scans / "list.csv"
    manifest.write_text("input,output,truth,seed\na.h5,one/a.npy,truth.npy,1\nd.h5,one/d.npy,,2\n")
    asked = BatchRequest(read_manifest(str(manifest), ".npy"), tmp_path / "out", config(), "test")
    (tmp_path / "out").mkdir()
    first, second = run(asked)
    assert first.report is not None and "psnr" in first.report.metrics
    seeds = [json.loads((tmp_path / "out" / "one" / f"{n}.npy.json").read_text())["Recon"]["Config"] for n in "ad"]
    assert [s["run"]["seed"] for s in seeds] == [1, 2]
    assert second.status == "ok" and read_volume(tmp_path / "out" / "one" / "d.npy").array.shape == (16, 16)


@pytest.fixture
def seen(monkeypatch) -> list[int]:
    """How many images the network sees at each call."""
    found: list[int] = []
    forward = UNet.forward
    monkeypatch.setattr(UNet, "forward", lambda self, x, *rest: (found.append(len(x)), forward(self, x, *rest))[1])
    return found


def together(scans: Path, out: Path, tmp_path: Path, count: int) -> BatchRequest:
    """Return a request for three steps of `dds` on inputs of which `count` may go through the network together."""
    weights = tmp_path / "tiny.safetensors"
    if not weights.exists():
        torch.manual_seed(0)
        info = PriorInfo("tiny", 1, multiple=TINY.multiple)
        save_prior(weights, UNet(TINY).state_dict(), TINY, 0.5, info, torch.float32)
    asked = config("dds", str(weights))
    run = asked.run.model_copy(update={"together": count, "backend": "eager"})
    return request(scans, out, config=asked.model_copy(update={"run": run}))


def test_inputs_that_go_together_give_what_each_gives_alone(scans, tmp_path, seen):
    results = run(together(scans, tmp_path / "joint", tmp_path, 3))
    assert [r.status for r in results] == ["ok"] * 3 and seen == [3, 3, 3]
    seen.clear()
    run(together(scans, tmp_path / "alone", tmp_path, 1))
    assert seen == [1] * 9
    for name in "abc":
        joint, alone = (np.load(tmp_path / folder / f"{name}.npy") for folder in ("joint", "alone"))
        assert np.abs(joint - alone).max() < 1e-5 * np.abs(alone).max()
        plan = json.loads((tmp_path / "joint" / f"{name}.npy.json").read_text())["Recon"]["Plan"]
        assert plan["items_together"] == 3
    again = read_rerun(tmp_path / "joint" / "a.npy.json", tmp_path / "again.npy", None, False, ())
    assert any("3 inputs of a batch" in line for line in again.notices)
    alone_sidecar = tmp_path / "alone" / "a.npy.json"
    assert not read_rerun(alone_sidecar, tmp_path / "again.npy", None, False, ()).notices


def test_inputs_of_other_sizes_and_those_that_fail_do_not_hold_up_the_others(scans, tmp_path, seen):
    large = np.random.default_rng(5).uniform(0, 1, (24, 16)).astype(np.float32)
    write_measurement(scans / "d.h5", simulate(Volume(large, Geometry(("y", "x"))), config()))
    (scans / "b.h5").write_bytes(b"nothing of ours")
    asked = together(scans, tmp_path / "out", tmp_path, 4)
    results = run(asked)
    assert [(r.item.source.name, r.status) for r in results] == [
        ("a.h5", "ok"),
        ("b.h5", "failed"),
        ("c.h5", "ok"),
        ("d.h5", "ok"),
    ]
    assert seen == [2] * 3 + [1] * 3
    assert read_volume(tmp_path / "out" / "d.npy").array.shape == (24, 16)


def test_an_input_that_fails_on_the_way_leaves_the_others_going(scans, tmp_path, seen, monkeypatch):
    def broken(single, *rest):
        accelerate = rest[-1]

        def failing(prior, backend, threads):
            accelerate(prior, backend, threads)
            raise ZeroDivisionError("division by zero")

        return reconstruct(single, *rest[:-1], failing if single.source.name == "b.h5" else accelerate)

    monkeypatch.setattr(module, "reconstruct", broken)
    results = run(together(scans, tmp_path / "out", tmp_path, 3))
    assert [r.status for r in results] == ["ok", "failed", "ok"] and seen == [2] * 3
    assert not (tmp_path / "out" / "b.npy").exists()


def test_large_files_and_one_a_group_run_by_themselves(scans, tmp_path, monkeypatch):
    items = request(scans, tmp_path / "out").items
    assert [len(group) for group in module._groups(items, 2)] == [2, 1]
    assert [len(group) for group in module._groups(items, 1)] == [1, 1, 1]
    monkeypatch.setattr(module, "SMALL_BYTES", 10)
    assert [len(group) for group in module._groups(items, 2)] == [1, 1, 1]


def test_an_interrupt_stops_the_runs_that_go_together(scans, tmp_path, seen, monkeypatch):
    asked = together(scans, tmp_path / "out", tmp_path, 3)

    stopped, stop = threading.Event(), Gathering.stop

    def interrupted(futures):
        raise KeyboardInterrupt

    # no run gets further than its plan before it is told to stop
    monkeypatch.setattr(module, "reconstruct", lambda *rest: stopped.wait(30) and reconstruct(*rest))
    monkeypatch.setattr(Gathering, "stop", lambda self: (stop(self), stopped.set()))
    monkeypatch.setattr(lockstep, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(asked)
    assert not seen and not list((tmp_path / "out").glob("*.npy"))


@pytest.mark.parametrize(
    ("name", "wanted", "chunk", "device", "expected"),
    [
        ("dds", 0, 1, "cpu", 1),
        ("dds", 5, 1, "cpu", 5),
        ("dds", 0, 4, "cuda", 4),
        ("dds", 0, 1, "cuda", 16),
        ("dps", 5, 1, "cuda", 1),
        ("dds-3d", 5, 1, "cuda", 1),
        ("tv", 5, 1, "cuda", 1),
    ],
)
def test_how_many_inputs_go_together(name, wanted, chunk, device, expected):
    assert lockstep.choose_together(wanted, make_method(name, {}), chunk, torch.device(device)) == expected


COMMAND = (sys.executable, "-c", "from recon.cli.main import app; app()", "batch")


def batch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)


def test_the_command_lists_failures_and_exits_with_9(scans, tmp_path):
    (scans / "b.h5").write_bytes(b"nothing of ours")
    common = (str(scans), str(tmp_path / "out"), "-p", "denoise-dds", "-m", "cg", "--extension", ".npy")
    done = batch(*common, "--json", "-q")
    assert done.returncode == 9
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["status"] for line in lines] == ["ok", "failed", "ok"]
    assert "1 of 3 failed" in done.stderr and "--skip-existing" in done.stderr
    again = batch(*common, "--skip-existing", "--part", "1/3")
    assert (again.returncode, again.stdout.split()[0]) == (0, "skipped")


def test_a_batch_that_was_killed_redoes_only_what_is_unfinished(scans, tmp_path):
    for number in range(30):
        shutil.copy(scans / "a.h5", scans / f"d{number:02d}.h5")
    common = [str(scans), str(tmp_path / "out"), "-p", "denoise-dds", "-m", "cg", "--extension", ".npy", "--json", "-q"]
    with subprocess.Popen([*COMMAND, *common], stdout=subprocess.PIPE, text=True) as killed:
        first = json.loads(killed.stdout.readline())
        killed.kill()
    assert first["status"] == "ok" and killed.returncode == -signal.SIGKILL
    done = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.json")}
    assert 1 <= len(done) < 33
    again = batch(*common, "--skip-existing")
    assert again.returncode == 0, again.stderr
    lines = [json.loads(line) for line in again.stdout.splitlines()]
    assert sorted(line["status"] for line in lines) == ["ok"] * (33 - len(done)) + ["skipped"] * len(done)
    assert all((tmp_path / "out" / name).read_bytes() == content for name, content in done.items())
    same = {(tmp_path / "out" / f"{name}.npy").read_bytes() for name in ("a", "d00", "d15", "d29")}
    assert len(same) == 1 and len(list((tmp_path / "out").glob("*.npy"))) == 33


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--extension", ".xyz"), 2, "no image format"),
        (("--part", "3/2"), 2, "k/n"),
        (("--set", "method.steps=x"), 4, "steps"),
    ],
)
def test_the_command_refuses_before_any_work(scans, tmp_path, arguments, code, message):
    done = batch(str(scans), str(tmp_path / "out"), "-p", "denoise-dds", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
