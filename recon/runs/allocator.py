"""How the C library's allocator treats freed memory."""

from __future__ import annotations

import ctypes
import sys

# of mallopt(3)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 1 << 30


def keep_freed_memory() -> bool:
    """Let the process keep memory that it frees, up to 1 GiB, and return whether the C library took the setting.

    Every step of a sampler frees what it took and takes the same again: memory given back in between has to be mapped
    and cleared by the system each time, most of all where a method goes backwards through the network. The peak does
    not change, as what is freed is taken again. Only glibc has the setting; elsewhere nothing changes. The
    environment's MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ are overruled.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_THRESHOLD, KEPT) and mallopt(M_TRIM_THRESHOLD, KEPT))
