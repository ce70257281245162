"""Names of the shipped priors, and files and folders of others, without importing torch."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from recon.errors import ConfigError, InputError, ResourceError

SUFFIX = ".safetensors"
SUMS = "SHA256SUMS"
# of our own format and of published checkpoints; a folder is told by its slash
SUFFIXES = (SUFFIX, ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin")


@dataclass(frozen=True)
class WeightsCheck:
    """Whether the weights of one shipped prior are those of its record in SHA256SUMS."""

    name: str
    ok: bool
    detail: str


def shipped_priors() -> list[str]:
    """Return the names of the shipped priors."""
    return sorted(p.name.removesuffix(SUFFIX) for p in _folder().iterdir() if p.name.endswith(SUFFIX))


def is_file(name: str) -> bool:
    """Tell whether a prior is named by its weight file or folder."""
    return name.endswith(SUFFIXES) or "/" in name


def prior_path(name: str) -> Path:
    """Return the weight file of a shipped prior, or the file or folder of a path.

    Raises ResourceError for a missing file, ConfigError for an unknown name (with the nearest).
    """
    if is_file(name):
        path = Path(name)
        if not path.is_file() and not path.is_dir():
            raise ResourceError(
                f"no weight file {name}", "give a .safetensors, .pt, .pth or .pkl file, or a name of: recon priors list"
            )
        return path
    names = shipped_priors()
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        raise ConfigError(
            f"unknown prior '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""),
            f"give ./{name}, the folder" if Path(name).is_dir() else "see: recon priors list",
        )
    return _folder() / f"{name}{SUFFIX}"


def check_weights() -> list[WeightsCheck]:
    """Compare the shipped weights with SHA256SUMS; a file without a record, or a record without a file, is not ok."""
    sums = _folder() / SUMS
    lines = sums.read_text().splitlines() if sums.is_file() else []
    recorded = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = []
    for file in sorted({*recorded, *(f"{name}{SUFFIX}" for name in shipped_priors())}):
        path = _folder() / file
        if not path.is_file():
            problem = "missing"
        elif file not in recorded:
            problem = f"not recorded in {SUMS}"
        else:
            problem = "" if file_sha256(path) == recorded[file] else "altered: its SHA-256 differs"
        found.append(WeightsCheck(file.removesuffix(SUFFIX), not problem, problem or recorded[file]))
    return found


def describe_prior(name: str) -> dict[str, Any]:
    """Return what a weight file or folder says about itself, its parameters and SHA-256, as JSON-able facts.

    Imports torch; a file in our own format is described without loading its weights.
    Raises InputError and ConfigError for what is no prior, as `open_prior`; and as `prior_path`.
    """
    from safetensors import safe_open

    from recon.priors.adapter_file import describe_adapters
    from recon.priors.open import describe_file, is_adapters, is_stored
    from recon.priors.store import network_of, read_config

    path = prior_path(name)
    if is_adapters(path):
        return {**describe_adapters(path), "sha256": file_sha256(path)}
    if not is_stored(path):
        return describe_file(path)
    config = read_config(path)
    with safe_open(path, framework="numpy") as file:
        slices = [file.get_slice(key) for key in file.keys()]
        sizes = [_product(part.get_shape()) for part in slices]
        kinds = sorted({str(part.get_dtype()) for part in slices})
    facts = {"file": path.name, "bytes": path.stat().st_size, "parameters": sum(sizes), "stored_as": kinds}
    try:
        info, network, denoiser = dict(config["info"]), network_of(config), config.get("settings")
    except (KeyError, TypeError, ValueError) as err:
        raise InputError(f"the configuration inside {path.name} is damaged: it lacks {err}") from err
    return {**info, "denoiser": denoiser, "network": network, **facts, "sha256": file_sha256(path)}


def _folder() -> Path:
    return Path(str(files("recon.priors.weights")))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(path: Path) -> str:
    """Return the SHA-256 of a weight file; of a folder, that of its listing: one "digest  name" line a file."""
    if not path.is_dir():
        return file_sha256(path)
    lines = [f"{file_sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in folder_files(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def folder_files(path: Path) -> list[Path]:
    """Return the files of a published model's folder that make the model: weights and configurations, sorted."""
    found = [file for pattern in ("*", "*/*") for file in path.glob(pattern)]
    return sorted(file for file in found if file.is_file() and file.name.endswith((*SUFFIXES, ".json")))


def _product(shape: list[int]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total
