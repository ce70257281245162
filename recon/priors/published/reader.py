"""The restricted reader of published checkpoints: plain values out, nothing from the file executed, memory bounded."""

from __future__ import annotations

import errno
import io
import json
import os
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from recon.errors import InputError, ReconError, ResourceError
from recon.priors.published.archive import MAGIC as ZIP_MAGIC
from recon.priors.published.archive import read_archive
from recon.priors.published.content import Folder, Record
from recon.priors.published.legacy import read_pickles, read_storage
from recon.priors.published.limits import MAX_DEPTH, MAX_ENTRIES, MAX_JSON_BYTES, Budget, Damaged, refused

EXPECTED = "expected a torch .pt or .pth file, an EDM .pkl, a safetensors file, or a folder of a diffusers model"
_BROKEN = (
    Damaged,
    zipfile.BadZipFile,
    SafetensorError,
    struct.error,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    OverflowError,
    RuntimeError,
    NotImplementedError,
)
_PLAIN = (str, bytes, bytearray, int, float, complex, type(None), torch.Tensor, torch.dtype)
_MAX_FILES = 2000


def read_checkpoint(path: Path) -> Any:
    """Return the content of a checkpoint file, or of a folder, as plain values (see `content.py`).

    Reads torch files (zip since 1.6 and older), plain and EDM pickles, and safetensors; tensors keep the dtype that
    they are stored in, on the CPU, numpy arrays become tensors.
    Raises InputError where the file is damaged, of another kind, or asks for anything but tensors and plain values;
    ResourceError where it cannot be opened.
    """
    if path.is_dir():
        return _folder(path)
    try:
        with path.open("rb") as stream:
            content = _read(path, stream, os.fstat(stream.fileno()).st_size)
        check_finite(content)
    except ReconError as err:
        raise type(err)(f"cannot read {path.name}: {err.message}", err.hint) from err
    except OSError as err:
        if err.errno == errno.EINVAL:
            # an offset of a damaged archive, before the start of the file
            raise InputError(f"cannot read {path.name}: its bytes are damaged", EXPECTED) from err
        raise ResourceError(f"cannot read {path.name}: {err.strerror or 'the system refused it'}") from err
    except (MemoryError, RecursionError) as err:
        raise InputError(f"cannot read {path.name}: it takes too much memory or is nested too deeply") from err
    except _BROKEN as err:
        reason = str(err) if isinstance(err, Damaged) else "its bytes are damaged, or of another format"
        raise InputError(f"cannot read {path.name}: {reason}", EXPECTED) from err
    return content


def check_finite(content: Any) -> None:
    """Raise InputError unless content is of plain types, not within itself, not deep and, unfolded, not too large."""
    # id -> (depth, entries counted as often as they are reached); None while its own entries are being counted
    known: dict[int, tuple[int, int] | None] = {}
    waiting: list[Any] = [content]
    while waiting:
        value = waiting[-1]
        if isinstance(value, _PLAIN) or known.get(id(value)) is not None:
            waiting.pop()
            continue
        if id(value) not in known:
            known[id(value)] = None
            inner = [part for part in _parts(value) if not isinstance(part, _PLAIN)]
            if any(id(part) in known and known[id(part)] is None for part in inner):
                raise refused("a value that contains itself")
            waiting += inner
            continue
        depth, entries = 0, 1
        for part in _parts(value):
            below = None if isinstance(part, _PLAIN) else known[id(part)]
            depth, entries = max(depth, below[0] if below else 0), entries + (below[1] if below else 1)
        if depth >= MAX_DEPTH:
            raise refused(f"values nested more than {MAX_DEPTH} deep")
        if entries > MAX_ENTRIES:
            raise refused(f"more than {MAX_ENTRIES} values")
        known[id(value)] = depth + 1, entries
        waiting.pop()


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple | set):
        yield from value
    elif isinstance(value, Record):
        yield from (value.args, value.kwargs, value.state)
    else:
        raise Damaged("a value is left unfinished")


@final
class _Bounded(io.RawIOBase):
    """A file that refuses to read more than it has: a buffered file first allocates whatever a pickle declares."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        super().__init__()
        self._stream, self._size = stream, size

    def read(self, count: int = -1, /) -> bytes:
        if count > self._size - self._stream.tell():
            raise Damaged("it is cut short, or its bytes are damaged")
        return self._stream.read(count)

    def readline(self, count: int | None = -1, /) -> bytes:
        return self._stream.readline(-1 if count is None else count)

    def readinto(self, buffer: Any, /) -> int:
        return self._stream.readinto(buffer)  # type: ignore[attr-defined]

    def tell(self) -> int:
        return self._stream.tell()


def _read(path: Path, stream: BinaryIO, size: int) -> Any:
    start = stream.read(9)
    stream.seek(0)
    budget = Budget(size)
    if start.startswith(ZIP_MAGIC):
        return read_archive(stream, size, budget)
    if len(start) == 9 and int.from_bytes(start[:8], "little") <= size and start[8:] == b"{":
        return load_file(path)
    if not size or start[:1] not in _FIRST_BYTES:
        raise Damaged("it is empty" if not size else "it is no checkpoint")
    return read_pickles(cast(BinaryIO, _Bounded(stream, size)), size, budget, read_storage)


# of a pickle: the mark of its protocol, or before version 2 an opcode in ASCII
_FIRST_BYTES = {b"\x80", *(code.code.encode() for code in pickletools.opcodes if code.code.isascii())}


def _folder(path: Path) -> Folder:
    """Return the folder's listing; its files are read when they are asked for."""
    names: list[str] = []
    for found in (*path.glob("*"), *path.glob("*/*")):
        if found.is_file():
            names.append(found.relative_to(path).as_posix())
        if len(names) > _MAX_FILES:
            raise InputError(f"cannot read {path.name}: the folder has more than {_MAX_FILES} files", EXPECTED)
    listed = frozenset(names)

    def read(name: str) -> Any:
        if name not in listed:
            raise InputError(f"cannot read {path.name}: it has no {name}", EXPECTED)
        return _json(path / name) if name.endswith(".json") else read_checkpoint(path / name)

    return Folder(path.resolve().name, tuple(sorted(names)), read)


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputError(f"cannot read {path.name}: it is larger than any configuration")
        return json.loads(path.read_text())
    except OSError as err:
        raise ResourceError(f"cannot read {path.name}: {err.strerror or 'the system refused it'}") from err
    except (ValueError, RecursionError) as err:
        raise InputError(f"cannot read {path.name}: it is no JSON") from err
