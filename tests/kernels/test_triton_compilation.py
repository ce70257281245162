"""Every Triton kernel compiles ahead of time for the GPUs that are promised: no spills, shared memory within limits.

Triton compiles in a process of its own here, so that no test's interpreter gets in its way.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recon.kernels import triton as triton_rooms
from recon.kernels.triton.catalog import kernels
from recon.kernels.triton.resources import TARGETS

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

COMPILE = """
import json, sys
from dataclasses import asdict, replace
from recon.kernels import triton as triton_rooms
from recon.kernels.triton.catalog import kernels
from recon.kernels.triton.resources import TARGETS, compiled
target = next(t for t in TARGETS if t.name == sys.argv[1])
found = [asdict(compiled(kernel, target)) for kernel in kernels()]
"""
CROWDED = """
kernel = next(k for k in kernels() if k.function == "project_rays")
found = [asdict(compiled(replace(kernel, warps=1, constants={"BLOCK_BATCH": 16, "BLOCK_RAYS": 512}), target))]
"""
SINGLE = """
def single(kernel):
    sizes = [name for name, kind in kernel.signature.items() if kind == "i32"]
    signature = {**kernel.signature, **dict.fromkeys(sizes, "constexpr")}
    return replace(kernel, signature=signature, constants={**kernel.constants, **dict.fromkeys(sizes, 1)})
found = [asdict(compiled(single(kernel), target)) for kernel in kernels() if kernel.function in sys.argv[2:]]
"""


def compile_for(target, code, *arguments):
    environ = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", code + "print(json.dumps(found))", target, *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_kernel_compiles_without_spills_and_within_shared_memory(target):
    found = compile_for(target.name, COMPILE)
    assert [each["kernel"] for each in found] == [kernel.name for kernel in kernels()]
    for each in found:
        assert each["spills"] == 0, each
        assert each["shared"] <= target.shared, each
        assert 0 < each["registers"] <= (512 if target.backend == "hip" else 255), each


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_spills_are_seen_where_there_are_any(target):
    (crowded,) = compile_for(target, COMPILE.replace("found = ", "all_of = lambda: ") + CROWDED)
    assert crowded["spills"] > 0


@pytest.mark.slow
def test_sizes_of_one_compile_which_triton_treats_as_constants():
    """Triton's launcher makes a constant of every whole number that is 1: an image of one row, a batch of one."""
    names = {k.function for k in kernels() if k.module.rsplit(".", 1)[1] in ("rays", "parallel", "fan", "cone")}
    assert compile_for("sm_80", COMPILE.replace("found = ", "all_of = lambda: ") + SINGLE, *sorted(names))


def test_every_kernel_is_in_the_catalog():
    """A kernel stores; what it calls only returns."""
    stored = {kernel.function for kernel in kernels()}
    folder = Path(triton_rooms.__file__).parent
    found = set()
    for file in folder.glob("*.py"):
        for part in file.read_text().split("@triton.jit\ndef ")[1:]:
            if "tl.store(" in part:
                found.add(part.split("(")[0])
    assert found == stored


def test_every_kernel_is_in_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "kernels.md").read_text()
    for kernel in kernels():
        assert text.count(f"| `{kernel.name}` |") >= 2, f"run python benchmarks/gpu.py --resources for {kernel.name}"
