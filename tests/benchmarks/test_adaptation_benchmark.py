"""The benchmark of fitted priors: its objects, and a row from a tiny run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "adaptation.py"


@pytest.mark.slow
def test_a_row_of_a_tiny_volume(tmp_path):
    tiny = "--object head --prior fashion32 --size 32 --slices 2 --steps 2 --set adapt_steps=1 --set slices=1"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--problem", "mri-x4", *tiny.split()],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    header, _, row = done.stdout.strip().splitlines()
    cells = dict(zip(*([c.strip() for c in line.split("|")[1:-1]] for line in (header, row)), strict=True))
    assert cells["volume"] == "2x32x32" and cells["evaluations"] == "4, 5" and cells["backwards"] == "1"
    gain = float(cells["d3ip, dB"]) - float(cells["dds-3d, dB"])
    assert abs(float(cells["gain, dB"]) - gain) < 0.011


def test_objects_change_slowly_along_z(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import adaptation

    for volume in (adaptation.phantom(32, 6, 1), adaptation.head(32, 6)):
        assert volume.shape == (6, 32, 32) and volume.min() >= 0 and volume.max() <= 1
        steps = [float(np.abs(volume[k] - volume[0]).mean()) for k in (1, 5)]
        assert 0 < steps[0] < steps[1]
    assert np.array_equal(adaptation.phantom(16, 2, 3), adaptation.phantom(16, 2, 3))
