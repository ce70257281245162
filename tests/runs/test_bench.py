"""The bench of `recon doctor`: operations in closed form, ratios that follow from them, and what is printed."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from recon.priors.backends import missing_packages
from recon.priors.base import PriorInfo
from recon.priors.edm import EDMDenoiser
from recon.runs import bench as module
from recon.runs.bench import bench, forward_gflop, installed_backends


class Convolution(nn.Module):
    """One convolution of 3x3 from 1 to 1 channels, after a wait."""

    config = SimpleNamespace()

    def __init__(self, wait=0.0):
        super().__init__()
        self.conv, self.wait = nn.Conv2d(1, 1, 3, padding=1), wait

    def forward(self, x, c):
        time.sleep(self.wait)
        return self.conv(x)


def prior(wait=0.0):
    return EDMDenoiser(Convolution(wait), PriorInfo("one", 1))


def test_operations_are_counted_in_closed_form():
    x = torch.zeros(2, 1, 20, 30)
    assert forward_gflop(prior(), x) == pytest.approx(2 * 9 * 2 * 20 * 30 / 1e9)


def test_rates_follow_from_operations_and_seconds(monkeypatch):
    monkeypatch.setattr(module, "MATRIX", 64)
    found = bench(prior(0.02), ("eager",), ((8, 8), (16, 24)), (1, 3), rounds=5)
    assert found.threads == torch.get_num_threads() and found.library in ("torch", "oneDNN")
    assert [(s.size, s.batch) for s in found.speeds] == [((8, 8), 1), ((8, 8), 3), ((16, 24), 1), ((16, 24), 3)]
    for speed in found.speeds:
        assert 0.02 <= speed.seconds < 2
        assert speed.gflop == pytest.approx(18 * speed.batch * speed.size[0] * speed.size[1] / 1e9)
        assert speed.gflops == pytest.approx(speed.gflop / speed.seconds)
        assert speed.ratio == pytest.approx(speed.gflops / found.peak_gflops)
    assert found.best.gflops == max(speed.gflops for speed in found.speeds)


def test_the_median_is_over_the_rounds_and_the_peak_is_the_fastest(monkeypatch):
    # every call is timed by a clock that tells these seconds in turn: products, then the network, in each round
    told = iter([4.0, 7.0, 2.0, 9.0, 8.0, 1.0])
    monkeypatch.setattr(module, "_products", lambda: {"torch": lambda: None})
    monkeypatch.setattr(module, "_timed", lambda action: next(told))
    found = bench(prior(), ("eager",), ((8, 8),), rounds=3)
    assert found.speeds[0].seconds == 7.0
    assert found.peak_gflops == pytest.approx(2e-9 * module.MATRIX**3 / 2.0)


def test_only_what_is_installed_is_timed(monkeypatch):
    both = ("eager",) if missing_packages("onnxruntime") else ("eager", "onnxruntime")
    assert installed_backends() == both
    monkeypatch.setattr(module, "missing_packages", lambda name: ["onnx"] if name == "onnxruntime" else [])
    assert installed_backends() == ("eager",)


def test_doctor_prints_it(recon, monkeypatch):
    monkeypatch.setattr(module, "MATRIX", 64)
    monkeypatch.setattr(module, "bench", lambda prior, names: bench(prior, names, ((32, 48),), rounds=1))
    threads = torch.get_num_threads()
    try:
        code, out, err = recon("doctor", "--bench", "--json")
        assert code == 0, err
        found = json.loads(out)["bench"]
        assert found["peak_gflops"] > 0 and found["best_ratio"] == max(s["ratio"] for s in found["speeds"])
        assert [s["backend"] for s in found["speeds"]] == list(installed_backends())
        code, out, _ = recon("doctor", "--bench")
        assert code == 0 and "matrix products" in out and "32x48" in out and "GFLOP/s" in out
        code, out, _ = recon("doctor", "--json")
        assert "bench" not in json.loads(out)
    finally:
        torch.set_num_threads(threads)
