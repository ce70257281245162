"""Find, list and load presets: TOML files with `extends`.

A name is looked up in the folders of RECON_PRESET_PATH, then among the shipped presets; a FILE ends in `.toml`.
Imports neither torch nor pydantic: listing must be quick.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from recon.config.layers import Layer, Tree, make_layer, merge
from recon.errors import ConfigError

PROBLEMS = "problems/"
SUFFIX = ".toml"


@dataclass(frozen=True)
class PresetInfo:
    """A line of `recon presets list`; `method` is "" for a problem alone."""

    name: str
    description: str
    method: str


@dataclass(frozen=True)
class Preset:
    """A preset with everything it extends merged into it.

    chain: its own name first, then its ancestors'.  sha256: of the files of the chain, joined in that order.
    """

    name: str
    layer: Layer
    chain: tuple[str, ...]
    sha256: str

    @property
    def method(self) -> str:
        """The name of its method, "" if it has none."""
        return _method(self.layer.values)

    @property
    def problem(self) -> str:
        """The problem it solves: of `mri-x4-dds` with method dds, and of what extends `problems/mri-x4`, `mri-x4`."""
        for name in self.chain:
            if name.startswith(PROBLEMS):
                return name.removeprefix(PROBLEMS)
        return self.name.removesuffix(SUFFIX).removesuffix(f"-{self.method}")


def preset_names(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names of all presets, problems last."""
    found = {name for folder in _folders(environ) for name in _names_in(folder)}
    return sorted(found, key=lambda name: (name.startswith(PROBLEMS), name))


def list_presets(environ: Mapping[str, str] = os.environ) -> list[PresetInfo]:
    """Return name, description and method of all presets; a preset that cannot be loaded says so itself."""
    found = []
    for name in preset_names(environ):
        try:
            preset = load_preset(name, environ)
        except ConfigError as err:
            found.append(PresetInfo(name, f"cannot be used: {err.message}", ""))
        else:
            found.append(PresetInfo(name, str(preset.layer.values.get("description", "")), preset.method))
    return found


def load_preset(name: str, environ: Mapping[str, str] = os.environ) -> Preset:
    """Return a preset by name or FILE, merged with what it extends.

    `mri-x4` alone means `problems/mri-x4` where no preset has that very name.
    Raises ConfigError for an unknown name (with the nearest), a missing parent, a cycle, or a file that is no TOML.
    """
    sources: list[_Source] = []
    layers: list[Layer] = []
    digest = hashlib.sha256()
    asked: str | None = name
    while asked is not None:
        source = _find(asked, sources, environ)
        if any(source.file == earlier.file for earlier in sources):
            path = " -> ".join([*(s.label for s in sources), source.label])
            raise ConfigError(f"presets extend each other: {path}", "remove one `extends`")
        raw = _read(source)
        digest.update(raw)
        values = _parse(raw, source.label)
        asked = values.pop("extends", None)
        if asked is not None and not isinstance(asked, str):
            raise ConfigError(f"preset '{source.label}': extends = {asked!r}: expected the name of one preset")
        sources.append(source)
        layers.append(make_layer(values, f"preset {source.label}"))
    merged = Layer()
    for layer in reversed(layers):
        merged = merge(merged, layer)
    return Preset(sources[0].label, merged, tuple(s.label for s in sources), digest.hexdigest())


@dataclass(frozen=True)
class _Source:
    """One file of a chain: its name, the file, and the folder that a relative `extends` starts from."""

    label: str
    file: Traversable
    folder: Path = Path()


def _method(values: Tree) -> str:
    section = values.get("method")
    return str(section.get("name", "")) if isinstance(section, dict) else ""


def _folders(environ: Mapping[str, str]) -> list[Traversable]:
    own = [Path(p) for p in environ.get("RECON_PRESET_PATH", "").split(os.pathsep) if p]
    return [*(p for p in own if p.is_dir()), files("recon.presets")]


def _names_in(folder: Traversable) -> list[str]:
    names = [p.name.removesuffix(SUFFIX) for p in folder.iterdir() if p.name.endswith(SUFFIX)]
    problems = folder / PROBLEMS.rstrip("/")
    if problems.is_dir():
        names += [PROBLEMS + p.name.removesuffix(SUFFIX) for p in problems.iterdir() if p.name.endswith(SUFFIX)]
    return names


def _find(name: str, children: list[_Source], environ: Mapping[str, str]) -> _Source:
    """Return the file of a preset; `children` are the presets that lead to it through `extends`, in that order."""
    by = f", which preset '{children[-1].label}' extends" if children else ""
    if name.endswith(SUFFIX):
        path = (children[-1].folder if children else Path()) / name
        if not path.is_file():
            raise ConfigError(f"no preset file {path}{by}", "give a FILE, or a name of: recon presets list")
        return _Source(path.name, path, path.parent)
    for label in (name, PROBLEMS + name):
        for folder in _folders(environ):
            found = folder.joinpath(*f"{label}{SUFFIX}".split("/"))
            if ".." not in label.split("/") and found.is_file():
                return _Source(label, found)
    near = difflib.get_close_matches(name, preset_names(environ), 1)
    raise ConfigError(
        f"unknown preset '{name}'{by}" + (f"; did you mean '{near[0]}'?" if near else ""), "see: recon presets list"
    )


def _read(source: _Source) -> bytes:
    try:
        return source.file.read_bytes()
    except OSError as err:
        raise ConfigError(f"cannot read preset '{source.label}': {err.strerror}") from err


def _parse(raw: bytes, label: str) -> Tree:
    try:
        return tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ConfigError(f"preset '{label}' is not valid TOML: {err}") from err
