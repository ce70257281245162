"""The commands of the README and the quickstart, run in order in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from command import RECON, environment

ROOT = Path(__file__).parents[2]


def blocks(document: str) -> list[str]:
    """Return the shell blocks of a document."""
    return re.findall(r"^```sh\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


def run_block(text: str, folder: Path) -> None:
    """Run a block with the installed command first on the path, with few steps, stopping at the first failure."""
    text = re.sub(r"(--preset mri-x4-dds)(?! --method)", r"\1 --set method.steps=3", text)
    path = f"{RECON.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env=environment(few=False) | {"PATH": path, "RECON_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_readme_opens_with_the_two_commands():
    lines = blocks("README.md")[0].splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("recon demo") and "pip install ." in lines[0]
    assert lines[1].endswith("pytest") and ".[test]" in lines[1]


@pytest.mark.slow
def test_the_readme_commands_run(tmp_path):
    run_block(blocks("README.md")[1], tmp_path)
    assert (tmp_path / "recon.png").is_file()
    assert (tmp_path / "again.nii.gz").read_bytes() == (tmp_path / "recon.nii.gz").read_bytes()


@pytest.mark.slow
def test_the_quickstart_commands_run(tmp_path):
    for number, block in enumerate(blocks("docs/quickstart.md")):
        # thresholds hold for full settings, and this run takes three steps
        run_block(block.replace("psnr<25", "psnr<5"), tmp_path)
        assert number or (tmp_path / "recon_std.nii.gz").is_file()
    assert (tmp_path / "recon.npy").stat().st_size > 100_000


def test_every_linked_file_is_there():
    for document in ("README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))):
        folder = (ROOT / document).parent
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / document).read_text()):
            assert (folder / target).exists(), f"{document} links to {target}"
