"""`recon samples list|copy`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from recon.errors import ConfigError, ResourceError

from .lazy import new_group
from .options import Force, Json
from .output import print_json, print_table

app = new_group("List and copy small sample images.")

LICENCES = "LICENCES.md"


@dataclass(frozen=True)
class Sample:
    """One sample file: what it shows, its licence, and the SHA-256 that it must have."""

    name: str
    what: str
    licence: str
    sha256: str


def complete_sample(incomplete: str) -> list[str]:
    """Complete the name of a sample."""
    return [name for name in _recorded() if name.startswith(incomplete)]


@app.command("list")
def list_samples(as_json: Json = False) -> None:
    """List the sample images and their licences."""
    found = samples()
    if as_json:
        print_json({"samples": [vars(sample) for sample in found]})
    else:
        print_table(("sample", "what", "licence"), [(s.name, s.what, s.licence) for s in found])


@app.command("copy")
def copy_samples(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Samples; all if none is named.", autocompletion=complete_sample),
    ] = None,
    *,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to copy to; made if it is missing.")],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Copy sample images and their licences to a folder."""
    from recon.io.atomic import check_writable, write_bytes

    contents = {sample.name: _verified(sample) for sample in _chosen(names)}
    contents[LICENCES] = (_folder() / LICENCES).read_bytes()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ResourceError(f"cannot make folder {folder}: {(err.strerror or '').lower()}", "choose another") from err
    # a file that is there already, byte for byte, is no loss
    due = {name: data for name, data in contents.items() if not _same(folder / name, data)}
    check_writable([folder / name for name in due], force)
    for name, data in due.items():
        write_bytes(folder / name, data, force)
    copied = [str(folder / name) for name in contents]
    if as_json:
        print_json({"copied": copied})
    else:
        print("\n".join(copied))


def samples() -> list[Sample]:
    """Return the sample files in the order of SHA256SUMS, described by the table in LICENCES.md."""
    table: dict[str, list[str]] = {}
    for line in (_folder() / LICENCES).read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 4:
            table[cells[0].strip("`")] = cells
    return [Sample(name, table[name][1], table[name][3], digest) for name, digest in _recorded().items()]


def _recorded() -> dict[str, str]:
    lines = (_folder() / "SHA256SUMS").read_text().splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _chosen(names: list[str] | None) -> list[Sample]:
    found = samples()
    if not names:
        return found
    known = {sample.name: sample for sample in found}
    # a name may leave out the extension
    short = {name.partition(".")[0]: sample for name, sample in known.items()}
    for name in names:
        if name not in known and name not in short:
            raise ConfigError(f"unknown sample '{name}'", f"choose from: {', '.join(known)}")
    return [known.get(name) or short[name] for name in names]


def _verified(sample: Sample) -> bytes:
    data = (_folder() / sample.name).read_bytes()
    if hashlib.sha256(data).hexdigest() != sample.sha256:
        raise ResourceError(f"sample {sample.name} is altered: its SHA-256 differs", "install recon again")
    return data


def _same(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data


def _folder() -> Path:
    from importlib.resources import files

    return Path(str(files("recon.sample_data")))
