"""Every Triton kernel with a signature to compile it for: what the ahead-of-time check and `docs/kernels.md` list.

A new kernel joins both by one entry here. Nothing in this file imports Triton.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from recon.kernels.parallel import ParallelGeometry
from recon.kernels.scans import ConeGeometry, FanGeometry
from recon.kernels.triton.work import Work, adjoint_work, forward_work, weighing_work

HERE = "recon.kernels.triton"


@dataclass(frozen=True)
class Kernel:
    """A kernel as it is compiled for a GPU.

    module, function: where it is.  signature: Triton's type of each argument, "constexpr" for a constant.
    constants: their values.  warps: of 32 threads in a program (64 on AMD).  case: in words, the problem that `bytes`
    and `flops` are of: what goes between memory and chip at least, and floating-point work without that of indices.
    """

    module: str
    function: str
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    case: str
    bytes: float
    flops: float
    warps: int = 4

    @property
    def name(self) -> str:
        """The kernel's name with its constants, such as "project_rays[1, 128]"."""
        return f"{self.function}[{', '.join(str(value) for value in self.constants.values())}]"

    def load(self) -> Any:
        """Import the kernel: a `triton.JITFunction`, or an interpreted one where TRITON_INTERPRET is set."""
        return getattr(import_module(self.module), self.function)


def typed(**arguments: str | int | bool) -> tuple[dict[str, str], dict[str, Any]]:
    """Return signature and constants: a text is a type ("*fp32", "i32"), a number the value of a constant."""
    signature = {name: kind if isinstance(kind, str) else "constexpr" for name, kind in arguments.items()}
    return signature, {name: value for name, value in arguments.items() if not isinstance(value, str)}


def kernels() -> tuple[Kernel, ...]:
    """Return every kernel of this package, with the block sizes that a GPU uses."""
    return (*_parallel(), *_fan(), *_cone(), *_vectors())


IMAGE = (256, 256)
VIEWS, DETECTORS = np.arange(180.0), 363
PARALLEL = ParallelGeometry(IMAGE, VIEWS, DETECTORS)
FANS = {curved: FanGeometry(IMAGE, 2 * VIEWS, DETECTORS, 1.6, 600.0, 900.0, curved=curved) for curved in (False, True)}
CONE = ConeGeometry((64, 64, 64), 6 * VIEWS[:60], (80, 100), (1.5, 1.5), 200.0, 300.0)
SIZES: dict[str, str | int] = {"rows": "i32", "columns": "i32"}
POSITIONS: dict[str, str | int] = {"start": "*i64", "slope": "*i64"}
SCAN: dict[str, str | int] = {"views": "i32", "detectors": "i32", "batch": "i32"}
TILE: dict[str, str | int] = {"BLOCK_ROWS": 16, "BLOCK_COLUMNS": 32}


def _kernel(module: str, function: str, arguments: Mapping[str, str | int], case: str, work: Work) -> Kernel:
    return Kernel(f"{HERE}.{module}", function, *typed(**arguments), case, work.bytes, work.flops)


def _parallel() -> list[Kernel]:
    project = dict.fromkeys(("image", "turned", "data"), "*fp32") | POSITIONS | {"height": "*fp64"} | SIZES
    gather = {"image": "*fp32", "data": "*fp32", "lines": "*i64", "scales": "*fp64", "places": "*i32"} | SIZES | SCAN
    found = []
    for batch in (1, 4):
        case = f"parallel, 256 x 256, 180 views of 363, batch {batch}"
        types = {**project, "rays": "i32", "batch": "i32", "BLOCK_BATCH": batch, "BLOCK_RAYS": 128}
        found.append(_kernel("rays", "project_rays", types, case, forward_work(PARALLEL, batch)))
        types = {**gather, "NEIGHBOURS": 2, "BLOCK_BATCH": batch, **TILE}
        found.append(_kernel("parallel", "backproject_parallel", types, case, adjoint_work(PARALLEL, batch)))
    return found


def _fan() -> list[Kernel]:
    gather = {"image": "*fp32", "data": "*fp32"} | POSITIONS | {"poses": "*fp32", "curve": "*fp32"} | SIZES | SCAN
    found = []
    for curved, batch in ((False, 1), (False, 4), (True, 1)):
        case = f"{'curved' if curved else 'flat'} fan, 256 x 256, 180 views of 363, batch {batch}"
        types = {**gather, "CURVED": curved, "BLOCK_BATCH": batch, **TILE}
        found.append(_kernel("fan", "backproject_fan", types, case, adjoint_work(FANS[curved], batch)))
    return found


def _cone() -> list[Kernel]:
    case = "cone, 64 x 64 x 64, 60 views of 80 x 100"
    panel = {"detector_rows": "i32", "detector_columns": "i32", "views": "i32"}
    lengths, depths = ({name: "*fp64" for name in pair} for pair in (("height", "tilt"), ("depth", "deepening")))
    grid, stack = {"slices": "i32"} | SIZES | panel, {"stack": "*fp64"}
    volumes, data = dict.fromkeys(("volume", "turned", "data"), "*fp32"), {"data": "*fp32", "weighed": "*fp32"}
    project = volumes | POSITIONS | lengths | depths | stack | grid | TILE
    weigh = data | lengths | stack | panel | TILE
    gather = {"volume": "*fp32", "data": "*fp32"} | POSITIONS | depths | stack
    gather |= {"poses": "*fp32", "curve": "*fp32"} | grid | {"density": "fp32"}
    gather |= {"BLOCK_SLICES": 8, "BLOCK_ROWS": 1, "BLOCK_COLUMNS": 32}
    return [
        _kernel("cone", "project_cone", project, case, forward_work(CONE)),
        _kernel("cone", "weigh_cone", weigh, case, weighing_work(CONE)),
        _kernel("cone", "backproject_cone", gather, case, adjoint_work(CONE)),
    ]


def _vectors() -> list[Kernel]:
    numbers = 256.0 * 256
    block: dict[str, str | int] = {"BLOCK": 1024}
    size: dict[str, str | int] = {"size": "i32"}
    planes: dict[str, str | int] = {"slices": "i32", "plane": "i32", "AROUND": False}

    def pick(*names: str) -> dict[str, str | int]:
        return {name: "*fp32" if len(name) == 1 else "*fp64" for name in names}

    def tensors(*names: str) -> dict[str, str | int]:
        return dict.fromkeys(names, "*fp32")

    def numbered(*names: str) -> dict[str, str | int]:
        return {each: "fp32" for name in names for each in (name, f"{name}_rest")}

    def vector(function: str, arguments: Mapping[str, str | int], moves: float, flops: float, case: str) -> Kernel:
        work = Work(4 * moves * numbers, flops * numbers)
        return _kernel("fused", function, {**block, **arguments}, f"{case}, 256 x 256", work)

    advance = pick("x", "r", "p", "q", "shift", "weight", "square", "limit", "curvatures", "sums")
    terms = tensors("out", "a", "b", "c", "d") | numbered("wa", "wb", "wc", "wd") | size | {"COUNT": 3}
    moved = tensors("corrected", "following", "x", "clean", "base", "change", "noise") | numbered("keep", "fresh")
    halves = tensors("split", "following", "x", "dual") | {"threshold": "fp32", "rest": "fp32"} | planes
    coils = tensors("images", "x", "maps") | {"coils": "i32", "pixels": "i32", "BLOCK": 256}
    return [
        vector("dot_blocks", pick("p", "q", "shift", "weight", "sums") | size, 2, 5, "curvature of CG"),
        vector("advance_blocks", advance | size, 6, 9, "x and residual of CG"),
        vector("add_blocks", {"sums": "*fp64", "found": "*fp64", "blocks": "i32"}, 0.002, 0.001, "sums of 64 blocks"),
        vector("turn_blocks", pick("r", "p", "square", "limit", "sums", "reduced") | size, 3, 2, "direction of CG"),
        vector("combine_blocks", terms, 4, 5, "renoising"),
        vector("guide_blocks", moved | size | {"CHANGED": True, "NOISY": True}, 7, 6, "guidance and renoising"),
        vector("shrink_blocks", halves, 5, 6, "shrinkage of TV"),
        vector("spread_blocks", coils, 34, 48, "8 coils, multiplication by maps"),
        vector("gather_blocks", coils, 34, 64, "8 coils, combination"),
    ]
