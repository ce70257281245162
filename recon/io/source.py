"""Opening inputs and guarding their reading: every failure becomes one InputError line, memory stays bounded."""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from recon.errors import InputError, ReconError, ResourceError
from recon.io.disk import in_parts

Input = str | os.PathLike[str] | bytes

MAX_BYTES = 16 * 2**30
FREE_BYTES = 256 * 2**20
MAX_RATIO = 200


@dataclass(frozen=True)
class Source:
    """An opened input: a seekable stream, its size in bytes, its name for messages, and the array named in it.

    path: where it lies, None for standard input and pipes. Of a folder the stream is empty.
    """

    stream: BinaryIO
    size: int
    name: str
    inner: str | None = None
    path: Path | None = None


@contextmanager
def open_source(source: Input) -> Iterator[Source]:
    """Open a path, `path::array` (one array of several), a folder or bytes. Raises InputError if it cannot."""
    if isinstance(source, bytes):
        yield Source(io.BytesIO(source), len(source), "standard input")
        return
    path, inner = split_inner(os.fspath(source))
    path = real_name(path)
    if os.path.isdir(path):
        yield Source(io.BytesIO(), 0, path, inner, Path(path))
        return
    try:
        stream: BinaryIO = open(path, "rb")
    except (OSError, ValueError) as err:
        reason = (err.strerror or "").lower() if isinstance(err, OSError) else "the name is invalid"
        raise InputError(f"cannot read {path}: {reason}", "check the path") from err
    with stream:
        where: Path | None = Path(path)
        if not stream.seekable():
            stream, where = io.BytesIO(stream.read()), None
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        yield Source(stream, size, path, inner, where)


def real_name(path: str) -> str:
    """Return the name of the file that a path means: BART names its pairs without an extension."""
    return f"{path}.cfl" if not os.path.exists(path) and os.path.exists(f"{path}.cfl") else path


def split_inner(path: str) -> tuple[str, str | None]:
    """Split `file.h5::group/name` into the file and the array named in it."""
    if "::" not in path or os.path.exists(path):
        return path, None
    head, _, inner = path.rpartition("::")
    return head, inner.strip("/") or None


@contextmanager
def reading(name: str, what: str) -> Iterator[None]:
    """Turn whatever a parser raises on damaged content into one InputError line.

    Raises ResourceError where memory does not suffice.
    """
    try:
        yield
    except ReconError:
        raise
    except MemoryError as err:
        raise ResourceError(f"{name}: not enough memory to read it", "use a machine with more memory") from err
    except Exception as err:
        reason = " ".join(str(err).split())[:120] or type(err).__name__
        raise InputError(
            f"{name}: not a readable {what}: truncated or damaged ({reason})", "get the file again"
        ) from err


def check_declared(nbytes: int, stored: int, name: str) -> None:
    """Refuse content that declares far more bytes than are stored, before anything is allocated.

    nbytes: what the arrays would take in memory.  stored: what they take in the file.  Uncompressed content always
    passes. Raises InputError.
    """
    if nbytes <= stored:
        return
    if nbytes > MAX_BYTES or (nbytes > FREE_BYTES and nbytes > MAX_RATIO * max(stored, 1)):
        raise InputError(
            f"{name}: {stored} stored bytes declare {nbytes} bytes of data, refused as a decompression bomb",
            "if the file is genuine, store it uncompressed",
        )


def native(array: np.ndarray, name: str) -> np.ndarray:
    """Return a boolean, integer, real or complex array of at most 64 bits a real number, in native byte order.

    Raises InputError for every other type.
    """
    check_dtype(array.dtype, name)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def library(name: str, package: str, what: str) -> Any:
    """Import a library that only some formats need. Raises ResourceError, with the line that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as err:
        raise ResourceError(
            f"{what} needs the package '{package}', which is not installed", "pip install 'diffusion-recon[formats]'"
        ) from err


def is_numeric(dtype: np.dtype) -> bool:
    """Tell whether a type is boolean, integer, real or complex, of at most 64 bits a real number."""
    return dtype.kind in "biufc" and dtype.itemsize <= (16 if dtype.kind == "c" else 8)


def check_dtype(dtype: np.dtype, name: str) -> None:
    """Raise InputError unless arrays of this type can be used."""
    if not is_numeric(dtype):
        kind = "Python objects (pickled)" if dtype.hasobject else f"type {dtype}"
        raise InputError(f"{name}: expected numbers, got {kind}", "save a plain array of numbers, at most 64 bits each")


def require_finite(array: np.ndarray, what: str) -> None:
    """Raise InputError if the array holds NaN or Inf; the message gives their number and the shape."""
    if array.dtype.kind not in "fc":
        return
    parts = array if array.ndim > 1 else array[None]
    bad = array.size - sum(int(np.count_nonzero(np.isfinite(part))) for part in in_parts(parts))
    if bad:
        raise InputError(
            f"{what}: {bad} of {array.size} values are NaN or infinite (shape {array.shape})",
            "mask or repair them first: a reconstruction needs finite values",
        )
