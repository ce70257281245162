"""Large arrays on disk instead of in memory: mapped from a file that holds them, or scratch of our own.

An array on disk is an ordinary array whose pages the system loads as they are touched. What is touched stays with the
process until it lets go of it, so who walks through a large array calls `let_go` after each part.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

# smaller arrays are read into memory
LEAST_BYTES = 16 * 2**20


def is_large(shape: Sequence[int], dtype: np.dtype) -> bool:
    """Tell whether an array is worth keeping on disk."""
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize >= LEAST_BYTES


def mapped(path: Path, dtype: np.dtype, offset: int, shape: Sequence[int], order: str = "C") -> np.ndarray:
    """Return the array that lies in a file in one piece; what is written into it does not reach the file.

    order: "C", or "F" where the first index runs fastest.
    """
    return np.memmap(str(path), dtype, "c", offset, tuple(shape), order)  # type: ignore[call-overload]


def scratch(shape: Sequence[int], dtype: np.dtype | type) -> np.ndarray:
    """Return an array to fill: on disk, in a file without a name, where it is large and there is room for it."""
    kind = np.dtype(dtype)
    if not is_large(shape, kind) or not hasattr(os, "posix_fallocate"):
        return np.empty(shape, kind)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    try:
        with tempfile.TemporaryFile() as file:
            # a full disk is met here, and not by a signal as a page is written
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, kind, "r+", 0, tuple(shape))
    except OSError:
        return np.empty(shape, kind)


def has_room(stream: BinaryIO, size: int) -> bool:
    """Tell whether a stream is a new file, whose disk has `size` bytes for it. Raises OSError where it has not."""
    try:
        number = stream.fileno()
    except OSError:
        return False
    if not hasattr(os, "posix_fallocate") or os.fstat(number).st_size:
        return False
    os.posix_fallocate(number, 0, size)
    os.ftruncate(number, 0)
    return True


def let_go(array: np.ndarray) -> None:
    """Give back the memory of an array on disk, whose values stay there; arrays in memory are left alone."""
    found: Any = array
    while found is not None and not isinstance(found, mmap.mmap):
        found = getattr(found, "base", None)
    if found is not None and hasattr(mmap, "MADV_DONTNEED"):
        found.madvise(mmap.MADV_DONTNEED)


def trim() -> None:
    """Give back the free memory that the C library holds between small blocks in use, where it can.

    A run of many slices leaves some with each, which would add up.
    """
    found = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if found is not None:
        found(0)


def in_parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an array along its first axis, one index at a time, and let go of each after its use."""
    for index in range(len(array)):
        yield array[index]
        let_go(array)


def converted(array: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Return an array in another type; part by part, on disk, where it is large."""
    if array.dtype == dtype:
        return array
    if array.ndim < 2 or not is_large(array.shape, np.dtype(dtype)):
        return array.astype(dtype)
    found = scratch(array.shape, dtype)
    for part, own in zip(in_parts(array), in_parts(found), strict=True):
        own[...] = part
    return found
