"""Facts for the sidecar: hashes, versions, paths without user or host names."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from recon import __version__

PACKAGES = ("torch", "numpy", "scipy", "h5py", "nibabel", "scikit-image", "safetensors")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bytes_sha256(data: bytes) -> str:
    """Return the SHA-256 of bytes as hexadecimal text."""
    return hashlib.sha256(data).hexdigest()


def versions() -> dict[str, str]:
    """Return versions of this program, Python and the packages that computed the result."""
    found = {"recon": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def portable_path(path: Path, folder: Path) -> str:
    """Return `path` relative to `folder` where they share a tree closely, else the file's name alone.

    A path that climbs more than two folders would spell out names of users and machines.
    """
    relative = os.path.relpath(path.resolve(), folder.resolve())
    if Path(relative).parts[:3] == ("..", "..", "..") or Path(relative).is_absolute():
        return path.name
    return relative


def portable_command(arguments: list[str], folder: Path) -> list[str]:
    """Return a command line with every path made portable."""
    out = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if argument.startswith("--") and equals and os.path.isabs(value):
            out.append(f"{option}={portable_path(Path(value), folder)}")
        elif os.path.isabs(argument):
            out.append(portable_path(Path(argument), folder))
        else:
            out.append(argument)
    return out
