"""Every file format of the restricted reader, against what was saved."""

from __future__ import annotations

import argparse
import io
import pickle
import sys
import types
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from recon.errors import InputError, ResourceError
from recon.priors.published.content import Folder, Record
from recon.priors.published.reader import read_checkpoint


def a_checkpoint():
    """Everything that training scripts put into a checkpoint."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    milestones = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    grid = torch.arange(24, dtype=torch.float64).reshape(2, 3, 4)
    return {
        "state": network.state_dict(),
        "ema": OrderedDict(network.state_dict()),
        "optimizer": optimizer.state_dict(),
        "scheduler": milestones.state_dict(),
        "views": [grid, grid[1], grid[..., 1::2], grid.permute(2, 0, 1), torch.empty(0, 3), torch.tensor(3.0)],
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "dtypes": [
            torch.tensor([1, 0], dtype=dtype)
            for dtype in (
                torch.float16,
                torch.bfloat16,
                torch.int8,
                torch.uint8,
                torch.int16,
                torch.bool,
                torch.complex64,
                torch.int64,
                torch.uint16,
            )
        ],
        "numpy": [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.ones((2, 3), np.float32)), np.array([True])],
        "scalars": [np.float32(0.5), np.int64(-3), 1e-3, 2**70, -5, True, None, "naïve", b"\x00\xff", 1 - 2j],
        "sizes": (torch.Size([1, 2]), torch.float16),
        "sets": [{1, 2}, frozenset({"a"})],
        "counts": [defaultdict(list, {"a": [1]}), Counter("ab")],
    }


def assert_same(found, expected):
    if isinstance(expected, dict):
        assert type(found) is dict and list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple) and not isinstance(expected, torch.Size):
        assert type(found) is type(expected) and len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, torch.Tensor | np.ndarray):
        tensor = torch.from_numpy(expected) if isinstance(expected, np.ndarray) else expected.detach()
        assert type(found) is torch.Tensor and found.dtype == tensor.dtype and found.shape == tensor.shape
        assert torch.equal(found, tensor) and not found.requires_grad
    elif isinstance(expected, np.generic):
        assert type(found) is type(expected.item()) and found == expected.item()
    else:
        assert found == expected and type(found) in (type(expected), tuple, set)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_of_both_layouts(tmp_path, zipped):
    expected = a_checkpoint()
    torch.save(expected, tmp_path / "f.pt", _use_new_zipfile_serialization=zipped)
    assert_same(read_checkpoint(tmp_path / "f.pt"), expected)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_every_protocol(tmp_path, protocol):
    expected = a_checkpoint()
    (tmp_path / "f.pkl").write_bytes(pickle.dumps(expected, protocol=protocol))
    assert_same(read_checkpoint(tmp_path / "f.pkl"), expected)


def test_safetensors(tmp_path):
    expected = {"a": torch.randn(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
    save_file(expected, tmp_path / "f.safetensors")
    assert_same(dict(sorted(read_checkpoint(tmp_path / "f.safetensors").items())), expected)


def test_tensors_share_their_storage_as_they_did(tmp_path):
    whole = torch.randn(1000)
    torch.save({"a": whole, "b": whole[10:20], "c": whole}, tmp_path / "f.pt")
    found = read_checkpoint(tmp_path / "f.pt")
    assert found["b"].untyped_storage().data_ptr() == found["a"].untyped_storage().data_ptr()
    assert found["c"] is found["a"]


def test_namespaces_become_records(tmp_path):
    content = {"args": argparse.Namespace(lr=0.1), "more": types.SimpleNamespace(x=[1])}
    for protocol in (0, 2, 4):
        (tmp_path / "f.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
        found = read_checkpoint(tmp_path / "f.pkl")["args"]
        assert found == Record("argparse.Namespace", state={"lr": 0.1})
    assert read_checkpoint(tmp_path / "f.pkl")["more"].state == {"x": [1]}


def test_layers_of_torch_become_records(tmp_path):
    torch.save(torch.nn.ModuleDict({"a": torch.nn.Linear(2, 3)}), tmp_path / "f.pt")
    found = read_checkpoint(tmp_path / "f.pt")
    assert isinstance(found, Record) and found.class_name == "torch.nn.modules.container.ModuleDict"
    layer = found.state["_modules"]["a"]
    assert layer.class_name == "torch.nn.modules.linear.Linear" and layer.state["in_features"] == 2
    assert layer.state["_parameters"]["weight"].shape == (3, 2)


@pytest.fixture
def persistence(monkeypatch):
    """A class that pickles itself as EDM's persistent classes do, with source text that must never run."""
    module = types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("a persistent object was made")

    _reconstruct_persistent_obj.__module__, _reconstruct_persistent_obj.__qualname__ = (
        module.__name__,
        ("_reconstruct_persistent_obj"),
    )
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    util = types.ModuleType("dnnlib.util")
    util.EasyDict = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})
    for name, made in ((module.__name__, module), ("torch_utils", types.ModuleType("torch_utils")),
                       ("dnnlib", types.ModuleType("dnnlib")), ("dnnlib.util", util)):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, made)

    class Persistent:
        def __init__(self, meta):
            self.meta = meta

        def __reduce__(self):
            return _reconstruct_persistent_obj, (self.meta,), None, None, None

    return Persistent, util.EasyDict


@pytest.mark.parametrize("torch_file", [True, False])
def test_persistent_objects_of_edm_become_records_and_their_source_is_dropped(tmp_path, persistence, torch_file):
    Persistent, EasyDict = persistence
    common = {"type": "class", "version": 6}
    state = {"_init_args": (64,), "_init_kwargs": EasyDict(img_channels=1), "_parameters": {"w": torch.ones(2)}}
    inner = Persistent({**common, "module_src": "1/0", "class_name": "SongUNet", "state": state})
    state = {"_modules": {"model": inner}, "sigma_data": 0.5}
    outer = Persistent({**common, "module_src": "raise SystemExit", "class_name": "EDMPrecond", "state": state})
    path = tmp_path / "f.pkl"
    if torch_file:
        torch.save({"ema": outer}, path)
    else:
        path.write_bytes(pickle.dumps({"ema": outer}))
    found = read_checkpoint(path)["ema"]
    assert found.class_name == "EDMPrecond" and found.args == () and found.state["sigma_data"] == 0.5
    song = found.state["_modules"]["model"]
    assert (song.class_name, song.args, song.kwargs) == ("SongUNet", (64,), {"img_channels": 1})
    assert torch.equal(song.state["_parameters"]["w"], torch.ones(2))
    assert "1/0" not in repr(found) and "SystemExit" not in repr(found)


def test_an_array_stored_before_its_numbers_arrive_is_the_same_tensor_later(tmp_path):
    array = np.arange(3)
    (tmp_path / "f.pkl").write_bytes(pickle.dumps([array, {"again": array}]))
    first, again = read_checkpoint(tmp_path / "f.pkl")
    assert again["again"] is first and first.tolist() == [0, 1, 2]


def test_arrays_of_the_other_byte_order(tmp_path):
    (tmp_path / "f.pkl").write_bytes(pickle.dumps(np.array([1.5, -2], ">f4")))
    assert read_checkpoint(tmp_path / "f.pkl").tolist() == [1.5, -2.0]


def test_names_of_numpy_before_and_after_its_second_version(tmp_path):
    content = pickle.dumps(np.arange(2, dtype=np.int16), protocol=2)
    new, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
    assert (new in content) != (old in content)
    for data in (content.replace(old, new), content.replace(new, old)):
        (tmp_path / "f.pkl").write_bytes(data)
        assert read_checkpoint(tmp_path / "f.pkl").tolist() == [0, 1]


def test_a_folder_is_listed_and_its_files_read_on_demand(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text('{"layers": [1, 2]}')
    save_file({"a": torch.ones(1)}, tmp_path / "unet" / "model.safetensors")
    (tmp_path / "bad.json").write_text("{" * 10**5)
    found = read_checkpoint(tmp_path)
    assert isinstance(found, Folder) and found.names == ("bad.json", "unet/config.json", "unet/model.safetensors")
    assert found.read("unet/config.json") == {"layers": [1, 2]}
    assert found.read("unet/model.safetensors")["a"].tolist() == [1.0]
    with pytest.raises(InputError, match=r"bad\.json: it is no JSON"):
        found.read("bad.json")
    for name in ("gone.json", "../secret.json", "/etc/hostname"):
        with pytest.raises(InputError, match="it has no"):
            found.read(name)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\x00\x01", "no checkpoint"),
        (b"\x89PNG\r\n\x1a\n", "no checkpoint"),
        (b"not a checkpoint at all\n", "no checkpoint"),
        (b"PK\x03\x04" + b"\x00" * 60, "end of the archive"),
        (b"\x93NUMPY" + b"\x00" * 60, "no checkpoint"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, data, reason):
    path = tmp_path / "f.pt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"cannot read f\.pt: .*({reason})") as caught:
        read_checkpoint(path)
    assert "\n" not in caught.value.message and "expected" in caught.value.hint


def test_a_missing_file_and_archives_of_another_kind(tmp_path):
    with pytest.raises(ResourceError, match=r"cannot read gone\.pt"):
        read_checkpoint(tmp_path / "gone.pt")
    np.savez(tmp_path / "arrays.npz", a=np.ones(2))
    with pytest.raises(InputError, match=r"no torch checkpoint: it has no data\.pkl"):
        read_checkpoint(tmp_path / "arrays.npz")
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(InputError, match="TorchScript code, which is refused"):
        read_checkpoint(tmp_path / "script.pt")


def test_classes_of_a_users_own_are_refused_by_name(tmp_path):
    buffer = io.BytesIO()
    torch.save({"ema": _Own()}, buffer)
    (tmp_path / "f.pt").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match=r"asks for \S*test_checkpoint_reader\._Own, which is refused"):
        read_checkpoint(tmp_path / "f.pt")


class _Own(torch.nn.Module):
    pass
