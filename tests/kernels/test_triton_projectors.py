"""The Triton projectors: in the interpreter, in processes of their own, and where they are chosen."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recon.errors import ResourceError
from recon.kernels import dispatch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FORCED = {"RECON_KERNELS": "triton"}
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def python(*arguments, **environ):
    """Run Python in a process that interprets Triton only if told so."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "RECON_KERNELS")}
    return subprocess.run([sys.executable, *arguments], env=inherited | environ, capture_output=True, text=True)


@needs_triton
@pytest.mark.parametrize("part", ["images", "volumes"])
def test_kernels_agree_with_the_reference_in_the_interpreter(part):
    file = Path(__file__).with_name("interpreted_projectors.py")
    done = python("-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-k", part, str(file), TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


@needs_triton
def test_a_gpu_takes_triton_and_the_cpu_only_its_interpreter():
    assert dispatch.choose(CUDA, {}).backend == "triton"
    assert dispatch.choose(CPU, {"TRITON_INTERPRET": "1"}).backend != "triton"
    with pytest.raises(ResourceError, match="works on a GPU"):
        dispatch.choose(CPU, FORCED)
    assert dispatch.choose(CPU, {**FORCED, "TRITON_INTERPRET": "1"}).backend == "triton"
    assert "not on mps" in dispatch.unavailable("triton", torch.device("mps"), {})


def test_without_triton_a_gpu_takes_the_reference_and_says_why(monkeypatch):
    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: None)
    choice = dispatch.choose(CUDA, {})
    assert choice.backend == "reference" and "not installed" in choice.reason and "[gpu]" in choice.reason
    with pytest.raises(ResourceError, match="not installed"):
        dispatch.choose(CUDA, FORCED)


def test_an_old_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(dispatch.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(dispatch.torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(dispatch, "_without_triton", lambda: "")
    assert dispatch.unavailable("triton", CUDA, {}) == "Triton needs compute capability 8.0, this GPU has 7.5"


@needs_triton
def test_an_operator_that_is_not_moved_to_a_gpu_says_so():
    code = """
import torch
from recon.errors import ResourceError
from recon.operators import registry
operator = registry.build(registry.draw("ct", {"angles": 3, "detectors": 11}, (1, 7, 6), seed=0))
try:
    operator.forward(torch.ones(1, 1, 7, 6))
except ResourceError as err:
    print(err, "|", err.hint)
"""
    done = python("-c", code, **FORCED)
    assert "is on cpu" in done.stdout and "unset RECON_KERNELS" in done.stdout, done.stdout + done.stderr


def test_triton_is_not_imported_until_it_projects():
    code = """
import sys
import recon.kernels.dispatch, recon.kernels.triton.catalog, recon.kernels.triton.resources
import recon.operators.tomography as t, torch
recon.kernels.dispatch.choose(torch.device("cuda"))
recon.kernels.triton.catalog.kernels()
assert "triton" not in sys.modules, "imported"
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
