"""Storages and tensors rebuilt from their records in a checkpoint, with every declared size checked first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from recon.priors.published.limits import MAX_DIMENSIONS, MAX_SIDE, Budget, Damaged, refused

DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name)
    for name in (
        "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool "
        "complex64 complex128 float8_e4m3fn float8_e5m2"
    ).split()
} | {"double": torch.float64, "float": torch.float32, "half": torch.float16, "long": torch.int64, "int": torch.int32}

STORAGES: dict[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}

# plain numbers alone: no objects, structures, dates or text
NUMBERS = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16|\?)")


@dataclass(frozen=True)
class Storage:
    """A one-dimensional tensor that others are views of."""

    values: Tensor


class StorageSource(Protocol):
    """Where a container keeps the bytes of its storages."""

    def __call__(self, key: str, dtype: torch.dtype, count: int) -> Storage:
        """Return the storage `key` of `count` elements."""


def storage_of(record: Any, source: StorageSource) -> Storage:
    """Return the storage of a persistent id ("storage", type, key, device, count[, None]).

    Raises Damaged where the id has another form.
    """
    if not isinstance(record, tuple) or len(record) not in (5, 6):
        raise Damaged("a persistent id is no storage")
    kind, type_name, key, _, count = record[:5]
    if kind == "module":
        raise refused(f"the source of {type_name}")
    name = str(type_name).rpartition(".")[2]
    if kind != "storage" or name not in STORAGES or not isinstance(key, str) or not _is_size(count):
        raise Damaged("a persistent id is no storage")
    if len(record) == 6 and record[5] is not None:
        raise refused("a view of a storage")
    return source(key, STORAGES[name], count)


def rebuild_tensor(budget: Budget, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """Return the tensor of `size` and `stride` on a storage, starting `offset` elements in.

    Raises Damaged where it would reach outside its storage, InputError where it is larger than it.
    """
    if not isinstance(storage, Storage) or not _are_sizes(size) or not _are_sizes(stride) or not _is_size(offset):
        raise Damaged("a tensor's record has another form")
    if len(size) != len(stride):
        raise Damaged("a tensor's size and strides differ in length")
    values, count = storage.values, 1
    for n in size:
        count *= n
    if count > values.numel():
        raise refused("a tensor larger than its storage")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else 0
    if last >= max(values.numel(), 1):
        raise Damaged("a tensor reaches outside its storage")
    budget.view(count * values.element_size())
    return torch.as_strided(values, size, stride, offset if count else 0)


def rebuild_typed(
    budget: Budget, storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> Tensor:
    """Return a tensor whose storage is untyped bytes, as `rebuild_tensor`; offset and stride count elements."""
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise Damaged("a tensor's record has another form")
    if storage.values.numel() % dtype.itemsize:
        raise Damaged("a storage is no whole number of elements")
    return rebuild_tensor(budget, Storage(storage.values.view(dtype)), offset, size, stride)


def storage_from(buffer: bytearray, dtype: torch.dtype, count: int) -> Storage:
    """Return the storage that a buffer of exactly `count` elements holds; the buffer is not copied."""
    if len(buffer) != count * dtype.itemsize:
        raise Damaged("a storage has another number of bytes than declared")
    return Storage(torch.frombuffer(buffer, dtype=dtype) if count else torch.empty(0, dtype=dtype))


@dataclass
class NumberType:
    """A numpy dtype being read: numbers alone."""

    code: str

    def __post_init__(self) -> None:
        if not NUMBERS.fullmatch(self.code):
            raise refused(f"numpy data of type {self.code!r}")

    def set_state(self, state: Any) -> None:
        """Take over the byte order of a dtype's pickled state."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise Damaged("a numpy dtype's state has another form")
        self.code = str(state[1]) + self.code.lstrip("<>=|")

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype."""
        return np.dtype(self.code)


@dataclass
class Array:
    """A numpy array being read; it becomes a tensor when its state arrives."""

    value: Tensor | None = None


def array_tensor(budget: Budget, shape: Any, kind: Any, data: Any, fortran: bool) -> Tensor:
    """Return a tensor with the numbers of a numpy array, in the machine's byte order."""
    if not _are_sizes(shape) or not isinstance(kind, NumberType) or not isinstance(data, bytes | bytearray):
        raise Damaged("a numpy array's state has another form")
    count = 1
    for n in shape:
        count *= n
    if count * kind.dtype.itemsize != len(data):
        raise Damaged("a numpy array has another number of bytes than declared")
    budget.copy(len(data))
    flat = np.frombuffer(data, kind.dtype).astype(kind.dtype.newbyteorder("="))
    return (
        torch.from_numpy(flat).reshape(tuple(shape)[::-1]).permute(*range(len(shape))[::-1])
        if fortran
        else (torch.from_numpy(flat).reshape(tuple(shape)))
    )


def number(kind: Any, data: Any) -> Any:
    """Return the Python number of a numpy scalar."""
    if not isinstance(kind, NumberType) or not isinstance(data, bytes) or len(data) != kind.dtype.itemsize:
        raise Damaged("a numpy scalar has another form")
    return np.frombuffer(data, kind.dtype)[0].item()


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value <= MAX_SIDE


def _are_sizes(values: Any) -> bool:
    return isinstance(values, tuple | list) and len(values) <= MAX_DIMENSIONS and all(map(_is_size, values))
