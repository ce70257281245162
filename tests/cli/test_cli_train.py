"""`recon train`: weights, report and card from one command."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from recon.errors import OutputExistsError, ResourceError, UsageError

CONFIG = """
name = "tiny"
description = "squares"
crop = 16
batch = 2
steps = 2
ema = [0.1, 0.9]
[network]
in_channels = 3
channels = [8, 16]
blocks = [1, 1]
embedding = 16
groups = 4
[data]
kind = "images"
shortest = 16
test_size = 16
[[data.train]]
path = "a.png"
source = "synthetic"
licence = "CC0-1.0"
[[data.test]]
path = "b.png"
source = "synthetic"
licence = "CC0-1.0"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "tiny.toml").write_text(CONFIG)
    rng = np.random.default_rng(0)
    for name in "ab":
        Image.fromarray(rng.integers(0, 256, (24, 24, 3)).astype(np.uint8)).save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_command_trains_exports_reports_and_writes_the_card(call, folder):
    out = call("train", "tiny.toml", "w.safetensors", "--card", "tiny.md", "--ema", "1", "--report", "--json", "-q")
    found = json.loads(out)
    assert found["step"] == 2 and found["outputs"] == {
        "weights": "w.safetensors",
        "card": "tiny.md",
        "samples": "tiny-samples.png",
    }
    assert {row["sigma"] for row in found["report"]} == {0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0}
    assert set(found["report"][0]["baselines"]) == {"nl_means"} and set(found["held_out_loss"]) == {"0.1", "0.9"}
    assert (folder / "w.safetensors").is_file() and (folder / "training-runs" / "tiny" / "state.safetensors").is_file()
    card = (folder / "tiny.md").read_text()
    assert "--resume --minutes 0 --ema 1 --report`" in card and "(tiny-samples.png)" in card
    again = ("train", "tiny.toml", "w2.safetensors", "--resume", "--minutes", "0", "--report")
    table = call(*again)
    assert "nl_means (oracle) dB" in table and "held-out loss" in table and "status   ok" in table
    with pytest.raises(OutputExistsError, match=r"tiny\.md"):
        call(*again[:2], "w3.safetensors", "--card", "tiny.md")


def test_what_cannot_end_well_is_refused_before_any_training(call, folder):
    with pytest.raises(ResourceError):
        call("train", "tiny.toml", "w.safetensors", "--card", "tiny.md", "--pictures", "nowhere")
    with pytest.raises(UsageError, match="float8"):
        call("train", "tiny.toml", "w.safetensors", "--dtype", "float8")
    assert not (folder / "training-runs").exists()
