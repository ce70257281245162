"""Torch files from before version 1.6: three short pickles, the content's pickle, then the storages in a row."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import torch

from recon.priors.published.limits import Budget, Damaged, printable, refused
from recon.priors.published.machine import Embedded, load_pickle
from recon.priors.published.tensors import Storage, storage_of

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def read_pickles(stream: BinaryIO, size: int, budget: Budget, embedded: Embedded | None = None) -> Any:
    """Return the content of a plain pickle, or of an old torch file, of `size` bytes; the stream is at its start."""
    first = load_pickle(stream, budget, embedded=embedded)
    if not (isinstance(first, int) and first == MAGIC):
        return first
    system: Any
    version, system = load_pickle(stream, budget), load_pickle(stream, budget)
    if version != PROTOCOL:
        raise refused(f"version {printable(version)} of torch's file format")
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise refused("numbers in big-endian order")
    storages: dict[str, Storage] = {}

    def allocate(key: str, dtype: torch.dtype, count: int) -> Storage:
        if key not in storages:
            budget.copy(count * dtype.itemsize)
            storages[key] = Storage(torch.empty(count, dtype=dtype))
        found = storages[key]
        if found.values.numel() != count or found.values.dtype != dtype:
            raise Damaged("a storage is declared twice")
        return found

    content = load_pickle(stream, budget, lambda record: storage_of(record, allocate), embedded)
    keys = load_pickle(stream, budget)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
        raise Damaged("the storages are not those of the tensors")
    if sum(8 + s.values.numel() * s.values.element_size() for s in storages.values()) > size - stream.tell():
        raise Damaged("the storages are cut short")
    for key in keys:
        _fill(stream, storages[key].values)
    return content


def read_storage(data: bytes, budget: Budget) -> Storage:
    """Return the storage that a pickle holds as a torch file of its own, in `data`."""
    found = read_pickles(io.BytesIO(data), len(data), budget)
    if not isinstance(found, Storage):
        raise Damaged("an embedded storage is none")
    return found


def _fill(stream: BinaryIO, values: torch.Tensor) -> None:
    """Read a storage's count and bytes into `values`."""
    if int.from_bytes(stream.read(8), "little") != values.numel():
        raise Damaged("a storage has another number of elements than declared")
    if not values.numel():
        return
    view = memoryview(values.view(torch.uint8).numpy())  # type: ignore[arg-type]
    filled = 0
    while filled < len(view):
        count = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            raise Damaged("a storage is cut short")
        filled += count
