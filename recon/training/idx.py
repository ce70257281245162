"""Pictures of one size in idx files (the format of MNIST), plain or gzipped.

Layout: bytes 0, 0, type (8: uint8), number of axes, then the sizes as big-endian uint32, then the values.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from recon.errors import InputError

# bounds what a hostile header or gzip stream can make us hold
MAX_BYTES = 2**31


def read_idx(path: Path) -> np.ndarray:
    """Return the pictures (N, Y, X), uint8, of an idx file. Raises InputError if it is damaged or holds others."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(16)
            if len(head) < 16 or head[:4] != b"\x00\x00\x08\x03":
                raise InputError(f"{path.name} is no idx file of 8-bit pictures", "expected N pictures of Y x X pixels")
            shape = struct.unpack(">3I", head[4:])
            count = math.prod(shape)
            if not 0 < count <= MAX_BYTES:
                raise InputError(f"{path.name} declares pictures of shape {shape}", "expected at most 2 GiB")
            data = file.read(count + 1)
    except (OSError, EOFError, zlib.error) as err:
        raise InputError(f"cannot read {path.name}: {err}") from err
    if len(data) != count:
        raise InputError(f"{path.name} declares {count} values and holds {'more' if len(data) > count else len(data)}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def idx_picture(pictures: np.ndarray, index: int, pad: int) -> np.ndarray:
    """Return picture `index` of (N, Y, X), uint8, with a black border of `pad` pixels: (1, Y, X) float32 in [-1, 1]."""
    return np.pad(pictures[index].astype(np.float32) / 127.5 - 1, pad, constant_values=-1.0)[None]
