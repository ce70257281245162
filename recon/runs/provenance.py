"""Facts for the sidecar: hashes, versions, paths without user or host names."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from recon import __version__
from recon.io.catalog import names_written
from recon.priors.catalog import file_sha256

# an absolute path inside a longer argument, such as a list of paths
EMBEDDED = re.compile(r"(?<![\w.~-])~?(?:/[^/\s'\",;:=\[\]()]+)+/?")
PACKAGES = ("torch", "numpy", "scipy", "h5py", "nibabel", "scikit-image", "safetensors")


def bytes_sha256(data: bytes) -> str:
    """Return the SHA-256 of bytes as hexadecimal text."""
    return hashlib.sha256(data).hexdigest()


def content_sha256(path: Path) -> str:
    """Return the SHA-256 of an input: of a file; of a folder or of several files, that of a list "digest  name"."""
    names = [p for p in sorted(path.rglob("*")) if p.is_file()] if path.is_dir() else _parts(path)
    if names == [path]:
        return file_sha256(path)
    root = path if path.is_dir() else path.parent
    lines = [f"{file_sha256(name)}  {name.relative_to(root).as_posix()}\n" for name in names]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _parts(path: Path) -> list[Path]:
    return [Path(name) for name in names_written(str(path)) if name == str(path) or Path(name).exists()]


def versions(backend: str = "eager") -> dict[str, str]:
    """Return versions of this program, Python and the packages that computed the result with a backend."""
    found = {"recon": __version__, "python": platform.python_version()}
    for name in (*PACKAGES, *(("onnxruntime",) if backend == "onnxruntime" else ())):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def portable_path(path: Path, folder: Path) -> str:
    """Return `path` relative to `folder` where they share a tree closely, else the file's name alone.

    A path that climbs more than two folders, or up to the root or to where users' folders lie, would spell out names of
    users and machines.
    """
    path, folder = path.resolve(), folder.resolve()
    shared = Path(os.path.commonpath([path, folder]))
    open_to_all = {Path(shared.anchor), Path("/home"), Path("/Users"), Path(os.path.expanduser("~")).parent}
    relative = Path(os.path.relpath(path, folder))
    if shared in open_to_all or relative.parts[:3] == ("..", "..", ".."):
        return path.name
    return str(relative)


def portable_command(arguments: list[str], folder: Path) -> list[str]:
    """Return a command line with every path made portable, also in `--option=PATH`, `key=PATH` and `-oPATH`.

    A path may name an array (`PATH::array`).
    """
    return [_portable_argument(argument, folder) for argument in arguments]


def _portable_argument(argument: str, folder: Path) -> str:
    head, equals, value = argument.partition("=")
    if not equals or "/" in head:
        head, value = "", argument
    if re.match(r"-\w[/~]", value):
        head, value = head + equals + value[:2], value[2:]
    elif head:
        head += equals
    file, colons, inner = value.partition("::")
    if os.path.isabs(file) or ".." in Path(file).parts:
        return head + portable_path(Path(file), folder) + colons + inner
    return head + EMBEDDED.sub(lambda found: os.path.basename(found[0].rstrip("/")), value)
