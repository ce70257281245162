"""Which backend a run takes, what it records, and that it changes rounding alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from prior_jobs import config, measured, network, planned, weights

from recon.config.resolve import resolve
from recon.config.schema import RunSection
from recon.errors import ConfigError, ResourceError
from recon.priors import backends
from recon.priors.backends import missing_packages
from recon.priors.base import PriorInfo
from recon.priors.networks.drunet import DRUNet, DRUNetConfig
from recon.priors.networks.unet import UNet, UNetConfig
from recon.priors.onnx_network import OnnxNetwork
from recon.priors.preconditioned import PreconditionedDenoiser
from recon.priors.tiled import Tiled
from recon.priors.wrapper import network_of
from recon.runs.backend import WORTH_EXPORTING, choose_backend
from recon.runs.execute import execute
from recon.runs.methods import make_method
from recon.runs.plan import make_plan
from recon.runs.rerun import read_rerun

if missing_packages("onnxruntime"):
    pytest.skip("onnx or onnxruntime is not installed", allow_module_level=True)

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def unet():
    net = network(lambda: UNet(UNetConfig(1, (8, 16), (1, 1), embedding=16, groups=4)))
    return PreconditionedDenoiser(net, PriorInfo("u", 1, multiple=4), "vp")


def chosen(wanted="auto", method="dds", prior=None, device=CPU, evaluations=WORTH_EXPORTING):
    prior = unet() if prior is None else prior
    return choose_backend(RunSection(backend=wanted), method, make_method(method, {}), prior, device, evaluations)


def test_auto_takes_onnx_runtime_where_it_can_and_is_worth_it(monkeypatch):
    assert chosen() == "onnxruntime"
    assert chosen(prior=Tiled(unet(), 16, 4)) == "onnxruntime"
    assert chosen(evaluations=WORTH_EXPORTING - 1) == "eager"
    assert chosen(device=GPU) == "eager"
    for method in ("dps", "mmps", "tds"):
        assert chosen(method=method) == "eager"
    drunet = network(lambda: DRUNet(DRUNetConfig(1, (4, 8), 1)))
    assert chosen(prior=PreconditionedDenoiser(drunet, PriorInfo("d", 1, multiple=2), "direct")) == "eager"
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert chosen() == "eager"


def test_methods_that_train_the_network_take_it_as_it_is():
    assert chosen(method="d3ip") == chosen("eager", method="ddip") == "eager"
    with pytest.raises(ConfigError, match="'d3ip' trains a copy of the network, which backend 'compile' freezes"):
        chosen("compile", method="d3ip")


def test_what_is_asked_for_is_taken_or_refused(monkeypatch):
    for name in ("eager", "compile", "onnxruntime"):
        assert chosen(name, evaluations=1) == name
    assert chosen("compile", "dps") == "compile" and chosen("compile", device=GPU) == "compile"
    with pytest.raises(ConfigError, match="method 'dps' differentiates the prior"):
        chosen("onnxruntime", "dps")
    with pytest.raises(ConfigError, match="for the CPU, not cuda"):
        chosen("onnxruntime", device=GPU)
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(ResourceError, match="needs onnx, onnxruntime"):
        chosen("onnxruntime")


def test_a_method_without_a_prior_has_no_backend():
    run = RunSection(backend="onnxruntime")
    assert choose_backend(run, "tv", make_method("tv", {}), None, CPU, 0) == "eager"


def with_run(cfg, **run):
    return cfg.model_copy(update={"run": cfg.run.model_copy(update=run)})


@pytest.mark.parametrize("method", ["dds", "ddnm", "diffpir", "daps", "reddiff"])
def test_a_run_differs_by_rounding(method, tmp_path):
    base = config(weights(tmp_path), method=method)
    plans = [make_plan(with_run(base, backend=name), measured(base)) for name in ("eager", "onnxruntime")]
    assert [plan.describe()["backend"] for plan in plans] == ["eager", "onnxruntime"]
    eager, fast = (execute(plan).mean for plan in plans)
    np.testing.assert_allclose(fast, eager, rtol=1e-3, atol=1e-4 * np.abs(eager).max())
    assert np.array_equal(execute(plans[1]).mean, fast)


def test_the_plan_keeps_the_network_as_it_is(tmp_path):
    plan = make_plan(with_run(config(weights(tmp_path)), backend="onnxruntime"), measured(config(weights(tmp_path))))
    execute(plan)
    assert isinstance(network_of(plan.prior), UNet) and not isinstance(network_of(plan.prior), OnnxNetwork)


def test_the_sidecar_records_it_and_a_rerun_takes_it(tmp_path, recon, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prior = weights(tmp_path).rpartition("/")[2]
    np.save("truth.npy", np.random.default_rng(0).random((1, 16, 12)).astype(np.float32))
    assert recon("simulate", "truth.npy", "y.h5", "--preset", "denoise-dds", "-q")[0] == 0
    run = ("run", "y.h5", "out.npy", "--preset", "denoise-dds", "--prior", prior, "--set", "method.steps=2", "-q")
    code, _, err = recon(*run, "--backend", "onnxruntime")
    assert code == 0, err
    facts = json.loads((tmp_path / "out.npy.json").read_text())["Recon"]
    assert facts["Backend"] == "onnxruntime" and "onnxruntime" in facts["Versions"]
    assert recon("rerun", "out.npy.json", "again.npy", "-q")[0] == 0
    assert np.array_equal(np.load("out.npy"), np.load("again.npy"))
    assert json.loads((tmp_path / "again.npy.json").read_text())["Recon"]["Backend"] == "onnxruntime"
    code, _, err = recon(*run, "--backend", "onnx", "--force")
    assert code == 4 and "'auto', 'eager', 'compile' or 'onnxruntime'" in err
    code, out, _ = recon(*run, "--force", "--dry-run", "--json")
    assert code == 0 and json.loads(out)["backend"] == "eager"


def test_an_auto_choice_is_pinned_by_a_rerun_and_older_sidecars_are_of_eager_runs(tmp_path, recon, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prior = weights(tmp_path).rpartition("/")[2]
    np.save("truth.npy", np.random.default_rng(0).random((1, 8, 8)).astype(np.float32))
    assert recon("simulate", "truth.npy", "y.h5", "--preset", "denoise-dds", "-q")[0] == 0
    arguments = ("--preset", "denoise-dds", "--prior", prior, "--set", "method.steps=2", "--samples", "100", "-q")
    assert recon("run", "y.h5", "out.npy", *arguments)[0] == 0
    path = tmp_path / "out.npy.json"
    sidecar = json.loads(path.read_text())
    assert sidecar["Recon"]["Backend"] == "onnxruntime" and sidecar["Recon"]["Config"]["run"]["backend"] == "auto"

    def pinned(device=None):
        return read_rerun(path, tmp_path / "x.npy", None, False, ("recon",), device).request.config.run.backend

    assert pinned() == "onnxruntime" and pinned("cuda") == "auto"
    del sidecar["Recon"]["Backend"]
    path.write_text(json.dumps(sidecar))
    assert pinned() == "eager"


def test_check_names_the_backend(tmp_path, recon, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ("check", "denoise-dps", "--set", "run.backend=onnxruntime", "--prior", weights(tmp_path), "--json")
    code, out, err = recon(*arguments)
    assert code == 4 and "differentiates the prior" in out + err
    resolved = resolve("denoise-dds", sets=("run.backend=compile",), environ={})
    assert resolved.config.run.backend == "compile"


def test_an_eager_run_is_the_prior_itself(tmp_path):
    assert planned(config(weights(tmp_path))).backend == "eager"
