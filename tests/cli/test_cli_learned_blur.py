"""The learned blur by operator file: simulate, info, run; damaged and unfit weights, each with its exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kernel_weights import layout, seeded

from recon.cli.exits import finish
from recon.errors import ReconError

TOML = 'kind = "learned-blur"\n[params]\n{params}\n[arrays]\nweights = "{weights}"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tensors: dict[str, Any] = seeded(layout(width=2, channels=1, front=1, back=1, factors=(1, 2)), 0)
    tensors["kernel_extractor.model.1.weight"] = torch.zeros(3)
    torch.save({key: value.float() for key, value in tensors.items()}, tmp_path / "net.pth")
    (tmp_path / "blur.toml").write_text(TOML.format(params="", weights="net.pth"))
    image = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    np.save(tmp_path / "truth.npy", image)
    return tmp_path


def simulated(call: Any, folder: Path, output: str = "y.h5", operator: str = "blur.toml") -> str:
    files = str(folder / "truth.npy"), str(folder / output)
    return str(call("simulate", *files, "-p", "deblur-nonlinear", "--operator", str(folder / operator), "-q"))


def ended(call: Any, capsys: Any, *arguments: str) -> tuple[int, str]:
    """Return the exit code and what a failed command says."""
    with pytest.raises(ReconError) as caught:
        call(*arguments)
    code = finish(caught.value, debug=False)
    return code, capsys.readouterr().err


def test_simulate_and_run_with_weights_from_a_file(call: Any, folder: Path) -> None:
    simulated(call, folder)
    (folder / "net.pth").unlink()  # the measurement is all that a run needs
    facts = json.loads(call("info", str(folder / "y.h5"), "--json"))
    assert facts["operator"]["kind"] == "learned-blur" and set(facts["operator"]["arrays"]) == {"weights", "code"}
    files = str(folder / "y.h5"), str(folder / "x.npy")
    settings = "--set", "method.steps=2", "--set", "prior.name=fashion32", "--set", "run.device=cpu"
    found = call("run", *files, "-p", "deblur-nonlinear", "--method", "dps", *settings, "--json", "-q")
    assert json.loads(found)["status"] == "ok"
    assert np.load(folder / "x.npy", allow_pickle=False).shape == (32, 32)


def test_the_seed_draws_the_code_and_formats_of_weights_agree(call: Any, folder: Path) -> None:
    state = torch.load(folder / "net.pth", weights_only=True)
    wrapped = {"state_dict": {f"module.{key}": value for key, value in state.items()}}
    torch.save(wrapped, folder / "old.pt", _use_new_zipfile_serialization=False)
    (folder / "old.toml").write_text(TOML.format(params='code = "normal"', weights="old.pt"))
    simulated(call, folder), simulated(call, folder, "old.h5", "old.toml")
    facts = json.loads(call("info", str(folder / "old.toml"), "--json"))
    assert facts["operator"]["arrays"]["weights"]["dtype"] == "uint8"
    import h5py

    with h5py.File(folder / "y.h5") as one, h5py.File(folder / "old.h5") as two:
        for key in ("y", "operator/arrays/weights", "operator/arrays/code"):
            assert np.array_equal(one[key][()], two[key][()]), key


def test_a_code_may_be_a_tensor_in_a_file(call: Any, folder: Path) -> None:
    torch.save(torch.full((1, 4, 2, 2), 0.5), folder / "code.pth")
    text = (folder / "blur.toml").read_text() + 'code = "code.pth"\n'
    (folder / "given.toml").write_text(text.replace("[arrays]", 'code = "array"\n[arrays]'))
    simulated(call, folder, operator="given.toml")
    import h5py

    with h5py.File(folder / "y.h5") as file:
        assert np.array_equal(file["operator/arrays/code"][()], np.full((4, 2, 2), 0.5, np.float32))


def test_weights_that_cannot_be_used_end_with_their_code(call: Any, capsys: Any, folder: Path) -> None:
    good = (folder / "net.pth").read_bytes()
    state = torch.load(folder / "net.pth", weights_only=True)
    (folder / "short.pth").write_bytes(good[: len(good) // 2])
    torch.save({key: value for key, value in state.items() if key != "recon_trunk.1.bias"}, folder / "lacks.pth")
    torch.save({"conv.weight": torch.zeros(2, 2)}, folder / "other.pth")
    torch.save(state | {"feature_extractor.0.bias": torch.full((2,), torch.nan)}, folder / "nan.pth")
    torch.save(torch.nn.Linear(2, 2), folder / "module.pth")
    cases = (
        ("short.pth", 3, "short.pth"),
        ("lacks.pth", 4, "no tensor recon_trunk.1.bias"),
        ("other.pth", 4, "holds no network of a learned blur"),
        ("nan.pth", 3, "not finite"),
        ("module.pth", 4, "holds no network of a learned blur"),
        ("missing.pth", 7, "missing.pth"),
    )
    for name, code, message in cases:
        (folder / "bad.toml").write_text(TOML.format(params="", weights=name))
        files = str(folder / "truth.npy"), str(folder / "bad.h5")
        operator = "--operator", str(folder / "bad.toml")
        found, err = ended(call, capsys, "simulate", *files, "-p", "deblur-nonlinear", *operator)
        assert (found, message in err) == (code, True), (name, found, err)
        assert err.startswith("recon: error: ") and len(err.strip().splitlines()) <= 2, err
        assert not (folder / "bad.h5").exists()


def test_complex_images_and_other_channels_are_refused(call: Any, capsys: Any, folder: Path) -> None:
    operator = "-p", "deblur-nonlinear", "--operator", str(folder / "blur.toml")
    np.save(folder / "complex.npy", np.ones((32, 32), np.complex64))
    np.save(folder / "colour.npy", np.ones((32, 32, 3), np.float32))
    for name, code, message in (("complex", 3, "takes real images"), ("colour", 4, "(1, Y, X), got (3, 32, 32)")):
        files = str(folder / f"{name}.npy"), str(folder / "bad.h5")
        axes = ("--axes", "y,x,c") if name == "colour" else ()
        found, err = ended(call, capsys, "simulate", *files, *operator, *axes)
        assert (found, message in err) == (code, True), (found, err)


def test_the_preset_needs_no_weights(call: Any, folder: Path) -> None:
    files = str(folder / "truth.npy"), str(folder / "y.h5")
    call("simulate", *files, "-p", "deblur-nonlinear", "--set", "operator.size=7", "-q")
    facts = json.loads(call("info", str(folder / "y.h5"), "--json"))
    assert facts["operator"]["kind"] == "nonlinear-blur"
