"""Pickles that would run code, or take much memory, in a reader that believes them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

PROTO = b"\x80\x04"
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def stacked(module: str, name: str) -> bytes:
    """Push a global by STACK_GLOBAL."""
    return text(module) + text(name) + b"\x93"


def call(module: str, name: str, *args: bytes) -> bytes:
    """Push what a call of module.name returns."""
    return stacked(module, name) + b"(" + b"".join(args) + b"tR"


class Reduces:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *args: object, state: object = None) -> None:
        self.result = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.result


def running(sentinel: Path) -> dict[str, tuple[bytes, str]]:
    """Return name -> (pickle that would create `sentinel`, or hand out a way to, and what its refusal names)."""
    import builtins
    import functools
    import importlib
    import operator
    import os
    import runpy
    import subprocess

    touch, code = f"touch {sentinel}", f"open({str(sentinel)!r}, 'w')"
    system = text(touch)
    getter = call("builtins", "getattr", stacked("os", "path"), text("os"))
    return {
        "os.system": (f"cos\nsystem\n(S'{touch}'\ntR.".encode(), "os.system"),
        "posix": (pickle.dumps(Reduces(os.system, touch)), "posix.system"),
        "subprocess": (pickle.dumps(Reduces(subprocess.call, touch.split())), "subprocess.call"),
        "popen": (PROTO + stacked("subprocess", "Popen") + b"(" + system + b"t\x81.", "subprocess.Popen"),
        "eval": (pickle.dumps(Reduces(builtins.eval, code)), "builtins.eval"),
        "exec of protocol 0": (pickle.dumps(Reduces(builtins.exec, code), protocol=0), "builtins.exec"),
        "eval by its old name": (f"c__builtin__\neval\n(S{code!r}\ntR.".encode(), "builtins.eval"),
        "open": (pickle.dumps(Reduces(builtins.open, str(sentinel), "w")), "open"),
        "import": (pickle.dumps(Reduces(builtins.__import__, "antigravity")), "builtins.__import__"),
        "importlib": (pickle.dumps(Reduces(importlib.import_module, "antigravity")), "importlib.import_module"),
        "runpy": (pickle.dumps(Reduces(runpy.run_path, str(sentinel))), "runpy.run_path"),
        "getattr chain": (PROTO + getter + text("system") + b"\x86R(" + system + b"tR.", "builtins.getattr"),
        "attrgetter": (pickle.dumps(Reduces(operator.attrgetter, "system")), "operator.attrgetter"),
        "methodcaller": (pickle.dumps(Reduces(operator.methodcaller, "system", touch)), "operator.methodcaller"),
        "partial": (pickle.dumps(functools.partial(os.system, touch)), "functools.partial"),
        "code object": (PROTO + call("types", "CodeType"), "types.CodeType"),
        "function": (PROTO + call("types", "FunctionType"), "types.FunctionType"),
        "nested": (pickle.dumps({"state": [({"a": Reduces(os.system, touch)},)]}), "posix.system"),
        "as a state": (pickle.dumps(Reduces(dict, state={"x": Reduces(os.system, touch)})), "posix.system"),
        "as a key": (PROTO + b"}" + b"(cos\nsystem\n" + system + b"\x85R" + b"Nu.", "os.system"),
        "INST": (f"(S'{touch}'\nios\nsystem\n.".encode(), "os.system"),
        "OBJ": (b"(cos\nsystem\n" + system + b"o.", "os.system"),
        "NEWOBJ_EX": (PROTO + stacked("subprocess", "Popen") + b")}\x92.", "subprocess.Popen"),
        "EXT1": (PROTO + b"\x82\x01.", "EXT1"),
        "EXT4": (PROTO + b"\x84\x01\x00\x00\x00.", "EXT4"),
        "out-of-band buffer": (b"\x80\x05\x97.", "NEXT_BUFFER"),
        "persistent id of text": (b"Pos.system\n.", "PERSID"),
        "persistent id": (PROTO + b"(tQ.", "a persistent id"),
        "dotted name": (PROTO + stacked("torch", "os.system") + b"(" + system + b"tR.", "torch.os.system"),
        "dotted module": (PROTO + stacked("torch.os", "system") + b"(" + system + b"tR.", "torch.os.system"),
        "dotted layer": (
            PROTO + stacked("torch.nn.modules.module", "Module.apply") + b".",
            "torch.nn.modules.module.Module.apply",
        ),
        "torch.load": (PROTO + call("torch", "load", text(str(sentinel))), "torch.load"),
        "torch.hub": (PROTO + call("torch.hub", "load", text("a/b")), "torch.hub.load"),
        "torch serialization": (PROTO + call("torch.serialization", "load", text("a")), "torch.serialization.load"),
        "numpy loads": (PROTO + call("numpy", "load", text("a")), "numpy.load"),
        "numpy by another class": (
            PROTO
            + call("numpy.core.multiarray", "_reconstruct", stacked("builtins", "object"), b"K\x00\x85", b"C\x01b"),
            "builtins.object",
        ),
        "objects in an array": (
            PROTO + call("numpy", "dtype", text("O8"), b"\x89", b"\x88") + b".",
            "numpy data of type 'O8'",
        ),
        "a rebuild that is none": (
            PROTO + call("torch._tensor", "_rebuild_from_type_v2", stacked("torch", "Size"), b"N", b")", b"N") + b".",
            "torch.Size for a tensor",
        ),
        "instance of a named class": (
            PROTO + call("copyreg", "_reconstructor", stacked("os", "system"), stacked("builtins", "object"), b"N"),
            "os.system",
        ),
        "a called layer": (
            PROTO + call("torch.nn.modules.linear", "Linear", b"K\x02", b"K\x02") + b".",
            "an instance of torch.nn.modules.linear.Linear",
        ),
        "a called mention": (PROTO + call("builtins", "list") + b".", "an instance of builtins.list"),
        "a called value": (PROTO + b"}(tR.", "a call of something that is no name but a dict"),
        "a called text": (PROTO + system + b"(tR.", "a call of something that is no name but a str"),
        "state of a name": (
            PROTO + stacked("collections", "OrderedDict") + b"}" + text("__init__") + b"Nsb.",
            "to set the state of a Name",
        ),
        "state of a list": (PROTO + b"]}b.", "to set the state of a list"),
        "slots of a function": (
            PROTO + stacked("torch._utils", "_rebuild_tensor_v2") + b"N}" + text("__globals__") + b"}s\x86b.",
            "to set the state of a Name",
        ),
        "legacy module with source": (
            MAGIC + pickle.dumps(1001) + pickle.dumps({"little_endian": True})
            + PROTO + b"(" + text("module") + stacked("torch.nn.modules.linear", "Linear") + text("f.py") + text(code)
            + b"K\x01tQ.",
            "the source of torch.nn.modules.linear.Linear",
        ),
        "a name with line breaks": (PROTO + stacked("os\nrecon: well", "system") + b".", r"os?recon: well"),
        "a generic alias": (PROTO + call("types", "GenericAlias"), "types.GenericAlias"),
    }  # fmt: skip
