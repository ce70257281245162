"""Standard input as an input."""

from __future__ import annotations

import sys
from pathlib import Path


def read_source(name: str) -> Path | bytes:
    """Return the path, or all of standard input for `-`. Raises UsageError if that is a terminal."""
    from recon.errors import UsageError

    if name != "-":
        return Path(name)
    if sys.stdin.isatty():
        raise UsageError("standard input is a terminal, not a file", "pipe a measurement into it, or name a file")
    return sys.stdin.buffer.read()
