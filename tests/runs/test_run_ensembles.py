"""Ensembles through plan, execution and files: members, their number, chunks and what the sidecar tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recon.config.schema import Config
from recon.data import Geometry, Measurement, Volume
from recon.errors import NumericalError
from recon.io.registry import read_volume, write_measurement
from recon.priors.base import PriorInfo
from recon.priors.networks.unet import UNet, UNetConfig
from recon.priors.store import save_prior
from recon.runs.check import check
from recon.runs.execute import Diverged, execute
from recon.runs.methods import SAMPLERS, method_class
from recon.runs.plan import make_plan
from recon.runs.reconstruct import RunRequest, reconstruct
from recon.runs.simulate import simulate

TINY = UNetConfig(channels=(8, 16), blocks=(1, 1), embedding=16, groups=4)
SIDE = 8
METHODS: dict[str, dict[str, Any]] = {
    "enkg": {"particles": 6, "batch": 4, "steps": 6, "ode_steps": 2},
    "tds": {"particles": 6, "batch": 4, "steps": 6},
}


@pytest.fixture
def prior(tmp_path: Path) -> str:
    path = tmp_path / "tiny.safetensors"
    save_prior(path, UNet(TINY).state_dict(), TINY, 0.5, PriorInfo("tiny", 1, multiple=TINY.multiple), torch.float32)
    return str(path)


def config(prior: str, method: str, kind: str = "inpaint", run: dict[str, Any] | None = None, **params: Any) -> Config:
    return Config.model_validate(
        {
            "operator": {"kind": kind},
            "method": {"name": method, **METHODS.get(method, {}), **params},
            "noise": {"sigma": 0.05},
            "prior": {"name": prior},
            "scaling": {"mode": "fixed", "low": 0.0, "high": 100.0},
            "run": {"device": "cpu", "threads": 1, **(run or {})},
        }
    )


def measured(cfg: Config, items: int = 1) -> Measurement:
    images = np.random.default_rng(0).uniform(10, 90, (items, SIDE, SIDE)).astype(np.float32)
    volume = Volume(images, Geometry(("n", "y", "x"))) if items > 1 else Volume(images[0], Geometry(("y", "x")))
    return simulate(volume, cfg)


def test_these_are_the_ensemble_methods():
    assert {name for name in SAMPLERS if method_class(name).ensemble} == set(METHODS)


@pytest.mark.parametrize("kind", ["inpaint", "phase-retrieval"])
@pytest.mark.parametrize("method", METHODS)
def test_samples_are_members_of_one_ensemble(prior, method, kind):
    """N of an ensemble of 6: the first N of the same members, whatever N."""
    found = {}
    for samples in (1, 3, 6):
        cfg = config(prior, method, kind, {"samples": samples})
        plan = make_plan(cfg, measured(cfg))
        assert (plan.samples, plan.members, plan.chunk) == (samples, 6, 6)
        outcome = execute(plan)
        assert outcome.samples.shape == (samples, 1, 1, SIDE, SIDE)
        assert outcome.nfe == 6 * plan.method.network_calls == plan.describe()["network_evaluations"]
        found[samples] = outcome
    for samples in (1, 3):
        np.testing.assert_array_equal(found[samples].samples, found[6].samples[:samples])
        assert found[samples].ensemble_spread == found[6].ensemble_spread
    assert len(found[6].ensemble_spread) == 1 and found[6].ensemble_spread[0] >= 0
    # few particles under a twist may all descend from one
    assert method == "tds" or found[6].ensemble_spread[0] > 0


@pytest.mark.parametrize("method", METHODS)
def test_more_samples_than_particles_make_a_larger_ensemble(prior, method):
    cfg = config(prior, method, run={"samples": 9})
    plan = make_plan(cfg, measured(cfg))
    assert (plan.members, plan.chunk) == (9, 9)
    assert len(execute(plan).samples) == 9


@pytest.mark.parametrize("method", METHODS)
def test_a_chunk_never_splits_an_ensemble(prior, method):
    """`run.chunk` batches samples that do not know each other; an ensemble batches its own network calls."""
    cfg = config(prior, method, run={"samples": 4, "chunk": 1})
    plan = make_plan(cfg, measured(cfg))
    assert plan.chunk == plan.members == 6
    whole = config(prior, method, run={"samples": 4})
    np.testing.assert_array_equal(execute(plan).samples, execute(make_plan(whole, measured(whole))).samples)


@pytest.mark.parametrize("method", METHODS)
def test_the_spread_is_that_of_all_members_in_image_units(prior, method):
    cfg = config(prior, method, run={"samples": 6})
    outcome = execute(make_plan(cfg, measured(cfg)))
    expected = float(np.sqrt(outcome.samples[:, 0].var(axis=0, ddof=1).mean()))
    assert outcome.ensemble_spread[0] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_each_item_has_an_ensemble_of_its_own(prior):
    cfg = config(prior, "enkg", run={"samples": 2})
    outcome = execute(make_plan(cfg, measured(cfg, items=3)))
    assert outcome.samples.shape == (2, 3, 1, SIDE, SIDE) and len(set(outcome.ensemble_spread)) == 3


@pytest.mark.parametrize(("method", "spreads"), [("enkg", 1), ("tds", 1), ("dps", 0)])
def test_the_sidecar_tells_of_the_ensemble(prior, tmp_path, method, spreads):
    cfg = config(prior, method, run={"samples": 2}, steps=6)
    write_measurement(tmp_path / "y.h5", measured(cfg))
    request = RunRequest(tmp_path / "y.h5", tmp_path / "out.npy", cfg, "inpaint-random", command=("recon", "run"))
    reconstruct(request, lambda plan: None, None)
    sidecar = json.loads((tmp_path / "out.npy.json").read_text())["Recon"]
    assert len(sidecar["EnsembleSpread"]) == spreads and all(v >= 0 for v in sidecar["EnsembleSpread"])
    assert sidecar["Plan"]["members"] == (6 if spreads else 2) and sidecar["SampleIndices"] == [0, 1]
    assert read_volume(tmp_path / "out_samples.npy", axes="n,y,x").array.shape == (2, SIDE, SIDE)


def test_a_check_counts_the_members(prior):
    findings, estimate = check(config(prior, "enkg", "denoise"), None)
    assert all(f.ok for f in findings), findings
    assert estimate["network_evaluations"] % 6 == 0 and estimate["network_evaluations"] > 6


# what is left of a run that diverges


@pytest.mark.parametrize(("samples", "items"), [(1, 1), (3, 2)])
def test_what_diverged_leaves_its_last_good_state(prior, samples, items):
    """One image, the mean of its samples' last good states in image units; no item after it is tried."""
    cfg = config(prior, "dps", run={"samples": samples, "chunk": 1}, steps=60, zeta=1e9, clip=False)
    with pytest.raises(Diverged, match="'dps' diverged") as caught:
        execute(make_plan(cfg, measured(cfg, items)))
    assert isinstance(caught.value, NumericalError) and "method.zeta" in str(caught.value.hint)
    last = caught.value.last
    assert last is not None and last.samples.shape == (1, 1, 1, SIDE, SIDE)
    assert np.isfinite(last.samples).all() and last.samples.std() > 0 and last.nfe == 25
    assert np.abs(last.samples).max() < 1e5
