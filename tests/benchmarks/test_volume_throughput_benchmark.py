"""The benchmark of a volume's throughput: its row, and its limit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "volume_throughput.py"


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "code"), [("1000", 0), ("0", 1)])
def test_the_ratio_is_that_of_the_printed_times(limit: str, code: int) -> None:
    tiny = "--slices 3 --size 32 --steps 2 --repeats 1 --set method.cg_iterations=1 --limit"
    done = subprocess.run([sys.executable, str(SCRIPT), *tiny.split(), limit], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    header, _, row = done.stdout.strip().splitlines()
    cells = dict(zip(*([c.strip() for c in line.split("|")[1:-1]] for line in (header, row)), strict=True))
    assert cells["volume"] == "3x32x32" and cells["steps"] == "2"
    expected = float(cells["volume, s"]) / (3 * float(cells["one slice, s"]))
    assert float(cells["ratio"]) == pytest.approx(expected, rel=0.1)
    assert ("the ratio is above 0.0" in done.stderr) == bool(code)
