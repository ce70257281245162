"""Damaged, hostile and mismatched files of every family from the command line: exit codes, one line, bounded memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from checkpoint_files import FIXTURES, unpack, unpack_folder
from safetensors.torch import load_file, save_file

FILES = sorted(file.name.removesuffix(".xz") for file in FIXTURES.glob("*.xz") if not file.name.endswith(".tar.xz"))
FOLDERS = sorted(file.name.removesuffix(".tar.xz") for file in FIXTURES.glob("*.tar.xz"))
MEGABYTE = 2**20


@pytest.fixture
def refused(recon, tmp_path, monkeypatch):
    """Show a file, and run with it: both end with this code and one line that holds `word`; nothing is written."""
    monkeypatch.chdir(tmp_path)
    np.save("image.npy", np.zeros((1, 8, 8), np.float32))
    assert recon("simulate", "image.npy", "y.h5", "--preset", "denoise-dds", "-q")[0] == 0

    def check(name, code, word=""):
        for arguments in (
            ("priors", "show", name),
            ("run", "y.h5", "out.npy", "--preset", "denoise-dds", "--prior", name, "-q"),
        ):
            tracemalloc.start()
            found, out, err = recon(*arguments)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            lines = err.splitlines()
            assert found == code and not out and word in err, (arguments, found, err)
            assert lines[0].startswith("recon: error: ") and len(lines) <= 2 and len(lines[0]) < 400
            assert peak < 100 * MEGABYTE, f"{peak / MEGABYTE:.0f} MB"
        assert not any((tmp_path / name).exists() for name in ("out.npy", "out.npy.json", "sentinel"))

    return check


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_cut_is_unreadable(name, tmp_path, refused):
    path = unpack(name, tmp_path)
    whole = path.read_bytes()
    for part in (0.02, 0.5, 0.999):
        path.write_bytes(whole[: int(part * len(whole))])
        refused(f"./{path.name}", 3)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_whose_files_were_cut_is_unreadable(name, tmp_path, refused):
    folder = unpack_folder(name, tmp_path)
    # model_index.json names the pipeline's parts, and is not needed
    for file in sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "model_index.json"):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        refused(f"./{folder.name}", 3)
        file.write_bytes(whole)


def states(content):
    """Return every mapping of names to tensors inside a checkpoint."""
    inner = [state for value in content.values() if isinstance(value, dict) for state in states(value)]
    return [content, *inner] if any(isinstance(value, torch.Tensor) for value in content.values()) else inner


# a tensor of each family that its network cannot do without, and another shape for it
MISFITS = {
    "ffdnet-grey.pth": "model.2.weight",
    "drunet-grey.pth": "m_body.0.res.2.weight",
    "adm-learned.pt": "out.2.weight",
    "torchcfm.pt": "out.2.weight",
    "diffunet.pt": "out.2.weight",
    "inversebench-adm.pt": "model.out_conv.weight",
    "score-sde-skip.pth": None,
    "rectified-flow.pth": None,
}


@pytest.mark.parametrize("damage", ["shape", "missing"])
@pytest.mark.parametrize("name", MISFITS)
def test_tensors_that_do_not_fit_are_a_mismatch(name, damage, tmp_path, refused):
    path, key = unpack(name, tmp_path), MISFITS[name]
    content = torch.load(path, weights_only=True)
    if key is None:
        # the average, which is what is read, is a list of tensors
        shadow = content["ema"]["shadow_params"]
        shadow[3] = torch.ones(2, 2)
        if damage == "missing":
            del shadow[-1]
    else:
        places = [state for state in states(content) if any(k.endswith(key) for k in state)]
        assert places
        for state in places:
            for full in [k for k in state if k.endswith(key)]:
                del state[full]
                if damage == "shape":
                    state[full] = torch.ones(2, 5, 3, 3)
    torch.save(content, path)
    refused(f"./{path.name}", 4)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_whose_weights_do_not_fit_is_a_mismatch(name, tmp_path, refused):
    folder = unpack_folder(name, tmp_path)
    (file,) = [*folder.rglob("*.safetensors"), *folder.rglob("*.bin")]
    stored = file.suffix == ".safetensors"
    tensors = load_file(file) if stored else torch.load(file, weights_only=True)
    tensors["conv_out.weight"] = torch.ones(7, 3, 3, 3)
    (save_file if stored else torch.save)(tensors, file)
    refused(f"./{folder.name}", 4, "conv_out.weight")


def layers(count, shape=(8, 8, 3, 3)):
    """Return tensors that look like an FFDNet's."""
    first = {"model.0.weight": torch.zeros(8, 5, 3, 3), "model.0.bias": torch.zeros(8)}
    return first | {f"model.{2 * k}.weight": torch.zeros(1).expand(shape) for k in range(1, count)}


def drunet(**more):
    names = ("m_head.weight", "m_body.0.res.0.weight", "m_tail.weight")
    return {name: torch.zeros(1, 4, 2, 2) for name in names} | more


ABSURD = {
    # a tensor that is larger than what the file holds of it
    "expanded": (lambda: layers(3, (2**12, 2**12, 3, 3)), 3),
    "expanded first": (lambda: {"model.0.weight": torch.zeros(1).expand(2**14, 2**14 + 1, 3, 3)} | layers(2), 3),
    "far layer": (lambda: layers(3) | {"model.999998.weight": torch.zeros(1)}, 3),
    "far level": (lambda: drunet(**{"m_down999999.0.res.0.weight": torch.zeros(1)}), 3),
    "far block": (lambda: drunet(**{"m_body.999999.res.0.weight": torch.zeros(1)}), 3),
    # small tensors that would describe a network of enormous width
    "wide": (lambda: layers(2) | {"model.0.weight": torch.zeros(2**18, 5, 1, 1), "model.2.weight": torch.zeros(1)}, 4),
    "empty": (lambda: layers(2) | {"model.0.weight": torch.zeros(2**40, 5, 0, 3)}, 3),
    "no dimensions": (lambda: layers(2) | {"model.2.weight": torch.zeros(())}, 4),
}


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_shapes_take_no_memory(case, tmp_path, refused):
    make, code = ABSURD[case]
    torch.save(make(), tmp_path / "absurd.pth")
    assert (tmp_path / "absurd.pth").stat().st_size < 30 * MEGABYTE
    refused("./absurd.pth", code)
