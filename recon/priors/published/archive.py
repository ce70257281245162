"""Torch checkpoints since version 1.6: a zip archive with data.pkl and one stored entry a storage."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any, BinaryIO

import torch

from recon.errors import InputError
from recon.priors.published.legacy import read_storage
from recon.priors.published.limits import MAX_DIRECTORY_BYTES, Budget, Damaged, refused
from recon.priors.published.machine import load_pickle
from recon.priors.published.tensors import Storage, storage_from, storage_of

MAGIC = b"PK\x03\x04"
_END, _END_SIZE = b"PK\x05\x06", 22
_END_64, _LOCATOR_64, _LOCATOR_SIZE = b"PK\x06\x06", b"PK\x06\x07", 20


def read_archive(stream: BinaryIO, size: int, budget: Budget) -> Any:
    """Return the content of a torch zip archive of `size` bytes.

    Raises InputError for archives of another kind and for compressed entries; Damaged for broken ones.
    """
    _check_directory(stream, size)
    with zipfile.ZipFile(stream) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if len(entries) != len(archive.infolist()) or sum(e.file_size for e in entries.values()) > size:
            raise refused("more bytes than the archive has")
        roots = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise InputError("the archive is no torch checkpoint: it has no data.pkl", "save it with torch.save")
        folder = roots[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in entries or any(name.startswith(f"{folder}code/") for name in entries):
            raise refused("TorchScript code")

        def content(name: str) -> bytearray:
            entry = entries.get(folder + name)
            if entry is None:
                raise Damaged(f"the archive lacks {name}")
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise refused("a compressed entry")
            budget.copy(entry.file_size)
            buffer = bytearray(entry.file_size)
            with archive.open(entry) as part:
                filled = 0
                while filled < len(buffer):
                    count = part.readinto(memoryview(buffer)[filled:])  # type: ignore[attr-defined]
                    if not count:
                        raise Damaged(f"{name} is cut short")
                    filled += count
                if part.read(1):
                    raise Damaged(f"{name} is longer than declared")
            return buffer

        if f"{folder}byteorder" in entries and bytes(content("byteorder")) != b"little":
            raise refused("numbers in big-endian order")
        storages: dict[str, Storage] = {}

        def storage(key: str, dtype: torch.dtype, count: int) -> Storage:
            if key not in storages:
                storages[key] = storage_from(content(f"data/{key}"), dtype, count)
            found = storages[key]
            if found.values.numel() != count or found.values.dtype != dtype:
                raise Damaged("a storage is declared twice")
            return found

        root = io.BytesIO(content("data.pkl"))
        return load_pickle(root, budget, lambda record: storage_of(record, storage), read_storage)


def _check_directory(stream: BinaryIO, size: int) -> None:
    """Refuse a zip directory so large that listing it alone would take much memory; leave the stream at its start."""
    tail = min(size, _END_SIZE + 0xFFFF)
    stream.seek(size - tail)
    data = stream.read(tail)
    stream.seek(0)
    at = data.rfind(_END)
    if at < 0 or len(data) - at < _END_SIZE:
        raise Damaged("the end of the archive is missing")
    (declared,) = struct.unpack_from("<I", data, at + 12)
    locator = data[max(at - _LOCATOR_SIZE, 0) : at]
    if locator.startswith(_LOCATOR_64) and len(locator) == _LOCATOR_SIZE:
        (offset,) = struct.unpack_from("<Q", locator, 8)
        if offset + 56 > size:
            raise Damaged("the end of the archive is missing")
        stream.seek(offset)
        end = stream.read(56)
        stream.seek(0)
        if not end.startswith(_END_64):
            raise Damaged("the end of the archive is missing")
        (declared,) = struct.unpack_from("<Q", end, 40)
    if declared > MAX_DIRECTORY_BYTES:
        raise refused("an archive of that many entries")
