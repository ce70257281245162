"""The design's one direction of imports, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import recon

ROOT = Path(recon.__file__).parent
CLI = ROOT.parent / "cli"

# a room may import rooms of its own level or below
LEVELS = {
    "cli": 6,
    "runs": 5,
    **dict.fromkeys(("samplers", "baselines", "audit", "training", "views", "metrics", "io", "config"), 4),
    **dict.fromkeys(("likelihoods", "priors", "solvers", "schedules"), 3),
    "operators": 2,
    "kernels": 1,
    "data": 0,
    "errors": 0,
    "presets": 0,
    "sample_data": 0,
}
# rooms whose own level is closed to them but for these
ONLY = {"io": {"io", "data", "errors"}}
FORBIDDEN = {
    room: {"io", "runs", "cli"}
    for room in ("samplers", "operators", "priors", "metrics", "kernels", "solvers", "baselines")
}
HEAVY = {"torch", "nibabel", "skimage", "scipy", "h5py", "matplotlib", "numpy", "pydantic", "PIL"}


def imports(path: Path, package: str) -> list[tuple[str, int]]:
    """Return imported module names with the nesting depth (0: module level); type-only imports are left out."""
    tree = ast.parse(path.read_text())
    found: list[tuple[str, int]] = []

    def visit(node: ast.AST, depth: int) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                found.extend((alias.name, depth) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    parent = package.split(".")[: len(package.split(".")) - (child.level - 1)]
                    base = ".".join([*parent, base]).rstrip(".")
                found.append((base, depth))
                found.extend((f"{base}.{alias.name}", depth) for alias in child.names if base == "recon")
            inner = depth + isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            visit(child, inner)

    visit(tree, 0)
    return found


def room_of(module: str) -> str | None:
    """Return the room of a module of ours, or None."""
    parts = module.split(".")
    return parts[1] if parts[0] == "recon" and len(parts) > 1 and parts[1] in LEVELS else None


def source_files() -> list[tuple[Path, str, str]]:
    """Return (file, room, package) of every source file."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT)
        room = relative.parts[0].removesuffix(".py")
        package = ".".join(["recon", *relative.parts[:-1]])
        if room in LEVELS:
            found.append((path, room, package))
    found += [(path, "cli", "recon.cli") for path in sorted(CLI.glob("*.py"))]
    return found


@pytest.mark.parametrize(
    ("path", "room", "package"), source_files(), ids=lambda v: v.stem if isinstance(v, Path) else v
)
def test_imports_point_one_way(path: Path, room: str, package: str) -> None:
    for module, depth in imports(path, package):
        target = room_of(module)
        if target is not None:
            assert LEVELS[target] <= LEVELS[room], f"{path.name} ({room}) imports {module}"
            assert room not in ONLY or target in ONLY[room], f"{path.name} ({room}) imports {module}"
            assert target not in FORBIDDEN.get(room, ()), f"{path.name} ({room}) imports {module}"
        if room == "cli" and depth == 0:
            assert module.split(".")[0] not in HEAVY, f"{path.name} imports {module} at module level"


def test_the_check_sees_imports_in_functions_and_relative_ones(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("from .a import b\ndef f():\n    import torch\n    from recon import io\n")
    assert imports(file, "recon.samplers") == [
        ("recon.samplers.a", 0),
        ("torch", 1),
        ("recon", 1),
        ("recon.io", 1),
    ]


def test_no_source_file_is_left_out() -> None:
    rooms = {room for _, room, _ in source_files()}
    assert {"cli", "runs", "samplers", "operators", "io", "priors", "data", "errors"} <= rooms
