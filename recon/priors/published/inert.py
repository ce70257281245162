"""The names that a checkpoint may use, and the inert value that each becomes. Nothing is imported by name.

A name that is not here is refused. `Name` is a string, so that one left in the content is only text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, final

import torch

from recon.priors.published.content import Record
from recon.priors.published.limits import Budget, Damaged, refused
from recon.priors.published.tensors import (
    DTYPES,
    STORAGES,
    Array,
    NumberType,
    array_tensor,
    number,
    rebuild_tensor,
    rebuild_typed,
)


@final
class Name(str):
    """The name of a class or function that a checkpoint may mention."""

    __slots__ = ()


# a storage saved inside a pickle, as a file of its own; the machine reads it
EMBEDDED = "torch.storage._load_from_bytes"

# modules whose names differ between versions of Python and numpy
_RENAMED = (
    (re.compile(r"__builtin__(?=\.)"), "builtins"),
    (re.compile(r"copy_reg(?=\.)"), "copyreg"),
    (re.compile(r"numpy\._core(?=\.)"), "numpy.core"),
)
# layers of torch itself, as whole modules in a pickle mention them: a record each
_LAYER = re.compile(r"torch\.nn\.modules\.[a-z_]+\.[A-Z][A-Za-z0-9]*")
_NAMESPACES = {"argparse.Namespace", "types.SimpleNamespace"}
_DICTS = {"collections.OrderedDict", "dnnlib.util.EasyDict", "builtins.dict", "collections.Counter"}
# named as an argument (a defaultdict's factory, an array's class), never called
_MENTIONED = {
    "builtins.object",
    "builtins.list",
    "builtins.int",
    "builtins.float",
    "builtins.str",
    "builtins.bool",
    "builtins.tuple",
    "numpy.ndarray",
    "torch.Tensor",
    "torch.nn.parameter.Parameter",
    "torch.storage.UntypedStorage",
    EMBEDDED,
} | {f"{module}.{name}" for module in ("torch", "torch.cuda") for name in STORAGES}


def resolve(module: str, name: str) -> Any:
    """Return the inert value of a global name: a `Name`, or a torch dtype. Raises InputError for any other name."""
    full = f"{module}.{name}"
    for pattern, new in _RENAMED:
        full = pattern.sub(new, full, count=1) if pattern.match(full) else full
    if module == "torch" and name in DTYPES:
        return DTYPES[name]
    known = full in _CALLS or full in _DICTS or full in _NAMESPACES or full in _MENTIONED
    if known or _LAYER.fullmatch(full):
        return Name(full)
    raise refused(full)


def call(name: Any, args: Any, budget: Budget) -> Any:
    """Return what a whitelisted function or class makes of `args`. Raises InputError for anything else."""
    if not isinstance(name, Name):
        raise refused(f"a call of something that is no name but a {type(name).__name__}")
    if not isinstance(args, tuple):
        raise Damaged("arguments are no tuple")
    if name in _CALLS:
        try:
            return _CALLS[name](budget, *args)
        except TypeError as err:
            raise Damaged(f"{name} has other arguments") from err
    return new(name, args, budget)


def new(name: Any, args: Any, budget: Budget) -> Any:
    """Return an inert instance of a whitelisted class: a dict, or a Record whose state comes later."""
    if isinstance(name, Name) and isinstance(args, tuple):
        if name in _DICTS:
            return _dict(budget, *args)
        if (name in _NAMESPACES or _LAYER.fullmatch(name)) and not args:
            return Record(str(name))
    raise refused(f"an instance of {name if isinstance(name, Name) else type(name).__name__}")


def set_state(target: Any, state: Any, budget: Budget) -> Any:
    """Return `target` with its pickled state; nothing of the file's choosing is called or assigned."""
    if isinstance(target, Record) and target.state is None:
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            state = {**(state[0] or {}), **state[1]}
            budget.work(len(state))
        if not isinstance(state, dict):
            raise Damaged(f"the state of {target.class_name} is no mapping")
        target.state = state
        return target
    if isinstance(target, NumberType):
        target.set_state(state)
        return target
    if isinstance(target, Array) and target.value is None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise Damaged("a numpy array's state has another form")
        target.value = array_tensor(budget, state[1], state[2], state[4], bool(state[3]))
        return target.value
    if isinstance(target, dict):
        # attributes of an OrderedDict: the versions of a state dict's modules
        return target
    raise refused(f"to set the state of a {type(target).__name__}")


def check_key(key: Any) -> Any:
    """Return a key if it is plain: hashing deep or shared tuples can take for ever."""
    if isinstance(key, str | int | float | bool | bytes | complex | None | torch.dtype):
        return key
    if isinstance(key, tuple) and len(key) <= 16 and all(isinstance(k, str | int | float | None) for k in key):
        return key
    raise refused(f"a {type(key).__name__} as a key")


def _dict(budget: Budget, *args: Any) -> dict[Any, Any]:
    if not args:
        return {}
    if len(args) > 1 or not isinstance(args[0], dict | list | tuple):
        raise Damaged("a mapping is made of something else")
    budget.work(len(args[0]))
    pairs = list(args[0].items()) if isinstance(args[0], dict) else args[0]
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise Damaged("a mapping is made of something else")
    return {check_key(key): value for key, value in pairs}


def _default_dict(budget: Budget, factory: Any = None) -> dict[Any, Any]:
    return {}


def _set(budget: Budget, values: Any = ()) -> set[Any]:
    if not isinstance(values, list | tuple):
        raise Damaged("a set is made of something else")
    budget.work(len(values))
    return {check_key(value) for value in values}


def _complex(budget: Budget, real: Any, imag: Any) -> complex:
    if not isinstance(real, float) or not isinstance(imag, float):
        raise Damaged("a complex number has other parts")
    return complex(real, imag)


def _persistent(budget: Budget, meta: Any) -> Record:
    """Return the record of an EDM persistent object; its embedded source is dropped unread."""
    if not isinstance(meta, dict) or not isinstance(meta.get("class_name"), str) or meta.get("type") != "class":
        raise Damaged("a persistent object has another form")
    state = meta.get("state")
    if not isinstance(state, dict | None):
        raise Damaged("a persistent object's state is no mapping")
    args, kwargs = (state or {}).get("_init_args"), (state or {}).get("_init_kwargs")
    if not isinstance(args, tuple | list | None) or not isinstance(kwargs, dict | None):
        raise Damaged("a persistent object's arguments have another form")
    return Record(meta["class_name"], tuple(args or ()), kwargs or {}, state or {})


def _encode(budget: Budget, text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
        raise Damaged("bytes are encoded in another way")
    budget.copy(len(text))
    return text.encode(encoding)


def _array(budget: Budget, kind: Any, shape: Any, code: Any) -> Array:
    if kind != "numpy.ndarray":
        raise refused(f"an array of class {kind}")
    return Array()


def _array_of_buffer(budget: Budget, data: Any, kind: Any, shape: Any, order: Any) -> Any:
    return array_tensor(budget, shape, kind, data, order == "F")


def _number_type(budget: Budget, code: Any, align: Any = False, copy: Any = True) -> NumberType:
    if not isinstance(code, str):
        raise Damaged("a numpy dtype has another form")
    return NumberType(code)


def _from_type(budget: Budget, function: Any, kind: Any, args: Any, state: Any) -> Any:
    """Return a tensor that carries attributes of its own, without them."""
    if function not in _REBUILDS or not isinstance(args, tuple):
        raise refused(f"{function} for a tensor")
    return _CALLS[function](budget, *args)


def _same(budget: Budget, data: Any, *_: Any) -> Any:
    """Return the tensor of a parameter."""
    if not isinstance(data, torch.Tensor):
        raise Damaged("a parameter is no tensor")
    return data


def _size(budget: Budget, sizes: Any) -> tuple[Any, ...]:
    if not isinstance(sizes, list | tuple):
        raise Damaged("a size is no sequence")
    budget.work(len(sizes))
    return tuple(sizes)


def _device(budget: Budget, kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not isinstance(index, int | None):
        raise Damaged("a device has another form")
    return kind if index is None else f"{kind}:{index}"


def _instance(budget: Budget, name: Any, base: Any, state: Any) -> Any:
    if base != "builtins.object" or state is not None:
        raise refused(f"an instance of {name}")
    return new(name, (), budget)


_REBUILDS = (
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
)

_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": rebuild_typed,
    "torch._utils._rebuild_parameter": _same,
    "torch._utils._rebuild_parameter_with_state": _same,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.Size": _size,
    "torch.device": _device,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy.core.multiarray.scalar": lambda budget, kind, data: number(kind, data),
    "numpy.core.numeric._frombuffer": _array_of_buffer,
    "numpy.dtype": _number_type,
    "_codecs.encode": _encode,
    "collections.defaultdict": _default_dict,
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "builtins.complex": _complex,
    "copyreg._reconstructor": _instance,
}
