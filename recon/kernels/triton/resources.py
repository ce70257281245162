"""What every kernel takes of a GPU, by compiling it ahead of time: no GPU is needed.

Registers and spills are those of the final machine code: cuobjdump's for NVIDIA (a thread's local memory, in bytes),
the code object's notes for AMD (registers).
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recon.errors import ResourceError
from recon.kernels.triton.catalog import Kernel


@dataclass(frozen=True)
class Target:
    """A GPU to compile for: Triton's names, the shared memory that a program may take, and what the chip can do.

    bandwidth: of its memory, in byte/s; flops: float32 outside the matrix units, per second. Both as published.
    """

    name: str
    backend: str
    arch: int | str
    warp: int
    shared: int
    chip: str
    bandwidth: float
    flops: float


TARGETS = (
    Target("sm_80", "cuda", 80, 32, 163 * 1024, "A100 80 GB", 2.039e12, 19.5e12),
    Target("sm_90", "cuda", 90, 32, 227 * 1024, "H100 SXM", 3.35e12, 66.9e12),
    Target("gfx942", "hip", "gfx942", 64, 64 * 1024, "MI300X", 5.3e12, 163.4e12),
)


@dataclass(frozen=True)
class Resources:
    """What a kernel takes on a target: registers of a thread, spills (registers or bytes), shared memory in bytes."""

    kernel: str
    target: str
    registers: int
    spills: int
    shared: int


def compiled(kernel: Kernel, target: Target) -> Resources:
    """Return what the kernel takes on the target. Raises ResourceError in a process that interprets Triton."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = kernel.load()
    if not isinstance(function, triton.JITFunction):
        raise ResourceError("Triton interprets here and cannot compile", "unset TRITON_INTERPRET")
    signature = {name: kernel.signature[name] for name in function.arg_names}
    source = ASTSource(function, signature, dict(kernel.constants))
    options = {"num_warps": kernel.warps, "enable_fp_fusion": True}
    built = triton.compile(source, target=GPUTarget(target.backend, target.arch, target.warp), options=options)
    found = _nvidia(built.asm["cubin"]) if target.backend == "cuda" else _amd(built.asm["amdgcn"])
    return Resources(kernel.name, target.name, *found, built.metadata.shared)


def _nvidia(cubin: bytes) -> tuple[int, int]:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [os.fspath(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return _number(r"REG:(\d+)", text), _number(r"STACK:(\d+)", text) + _number(r"LOCAL:(\d+)", text)


def _amd(code: str) -> tuple[int, int]:
    return _number(r"\.vgpr_count:\s+(\d+)", code), sum(
        _number(rf"\.{kind}_spill_count:\s+(\d+)", code) for kind in ("vgpr", "sgpr")
    )


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if not found:
        raise ResourceError(f"no '{pattern}' in the compiled kernel's description", "use triton 3.7")
    return int(found.group(1))


def resource_table(found: Sequence[tuple[Kernel, Sequence[Resources]]]) -> str:
    """Return a table in Markdown: registers, spills and shared memory of each kernel on each target."""
    names = [target.name for target in TARGETS]
    rows = [(f"`{kernel.name}`", *(f"{r.registers} / {r.spills} / {r.shared}" for r in of)) for kernel, of in found]
    return markdown(("kernel", *names), rows)


def roofline_table(kernels: Sequence[Kernel]) -> str:
    """Return a table in Markdown: bytes, operations, and an estimate of the least time on each chip, unmeasured."""
    rows = []
    for kernel in kernels:
        intensity = kernel.flops / kernel.bytes
        bounds = (
            f"{1e6 * max(kernel.bytes / t.bandwidth, kernel.flops / t.flops):.2g} us, "
            + ("arithmetic" if intensity > t.flops / t.bandwidth else "memory")
            for t in TARGETS
        )
        counts = f"{kernel.bytes / 1e6:.3g}", f"{kernel.flops / 1e6:.3g}", f"{intensity:.3g}"
        rows.append((f"`{kernel.name}`", kernel.case, *counts, *bounds))
    return markdown(("kernel", "case", "MB", "MFLOP", "FLOP/byte", *(target.chip for target in TARGETS)), rows)


def markdown(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
