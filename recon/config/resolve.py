"""Resolve a configuration: defaults < preset < user file < RECON_* environment < --set < flags.

Every value remembers its origin. Names and types are checked against `recon.config.schema`; the parameters of
`operator` and `method` are checked by their own dataclasses when these are built.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from recon.config.layers import Layer, Tree, dotted, make_layer, merge, only, without
from recon.config.presets import PROBLEMS, Preset, load_preset, preset_names
from recon.config.schema import Config
from recon.config.sources import environment_layer, sets_layer, user_layer
from recon.errors import ConfigError

# what a flag is called on the command line where it is not its key
FLAGS = {"prior.name": "--prior", "metrics.protocol": "--protocol", "run.std_factor": "--calibration"}


@dataclass(frozen=True)
class Resolved:
    """A checked configuration, where each value came from ("section.key" -> origin), and the preset behind it.

    values: the whole configuration as a JSON-able tree {section: {key: value}}.
    """

    config: Config
    origins: dict[str, str]
    values: dict[str, Any]
    preset: Preset | None


def resolve(
    preset: str | None,
    *,
    method: str | None = None,
    fallback_method: str | None = None,
    config_file: Path | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Resolved:
    """Return the configuration that all layers give together.

    preset: name or FILE.  method: of `--method`; where it differs from the preset's, the method section is that of the
    preset PROBLEM-METHOD if there is one, else the method's defaults.  fallback_method: where no layer names a method,
    for commands that use none, such as `simulate`.  config_file: of `--config`, in place of the
    user's own.  sets: `section.key=value`.  flags: "section.key" -> value; None stands for a flag not given.

    Raises ConfigError naming the key, its origin and what was expected, or the nearest known name.
    """
    loaded = load_preset(preset, environ) if preset is not None else None
    base = loaded.layer if loaded is not None else Layer()
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    layers = [
        user_layer(config_file, environ),
        environment_layer(environ),
        sets_layer(sets),
        *(make_layer(_tree({key: value}), f"flag {flag_name(key)}") for key, value in given.items()),
    ]
    if method is not None:
        base = _switch(base, loaded, method, environ)
        layers = [without(layer, "method") if _method_of(layer) not in ("", method) else layer for layer in layers]
        layers.append(make_layer({"method": {"name": method}}, "flag --method"))
    merged = Layer()
    if fallback_method is not None:
        merged = make_layer({"method": {"name": fallback_method}}, "default")
    for layer in (base, *layers):
        merged = merge(merged, layer)
    _check_names(merged)
    config = _validate(merged)
    values = config.model_dump(mode="json")
    return Resolved(config, {key: merged.origins.get(key, "default") for key in dotted(values)}, values, loaded)


def flag_name(key: str) -> str:
    """Return what the flag for a dotted key is called on the command line."""
    return FLAGS.get(key, f"--{key.rpartition('.')[2]}")


def _switch(base: Layer, preset: Preset | None, method: str, environ: Mapping[str, str]) -> Layer:
    """Return `base` with the method section, description and citation that belong to another method."""
    if preset is None or preset.method == method:
        return base
    rest = without(base, "method", "description", "citation")
    known = preset_names(environ)
    for name in (f"{preset.problem}-{method}", PROBLEMS + preset.problem):
        if name in known:
            return merge(rest, only(load_preset(name, environ).layer, "method", "description", "citation"))
    return rest


def _method_of(layer: Layer) -> str:
    section = layer.values.get("method")
    return str(section.get("name", "")) if isinstance(section, dict) else ""


def _tree(flat: Mapping[str, Any]) -> Tree:
    tree: Tree = {}
    for key, value in flat.items():
        section, _, name = key.partition(".")
        if name:
            tree.setdefault(section, {})[name] = value
        else:
            tree[section] = value
    return tree


def _check_names(layer: Layer) -> None:
    """Raise ConfigError on a section or key that the schema does not know, naming the nearest."""
    sections = {name: _section(name) for name in Config.model_fields}
    for key, origin in layer.origins.items():
        section, _, name = key.partition(".")
        if section not in sections:
            what = "section" if name else "key"
            raise ConfigError(f"unknown {what} '{section}' ({origin})", _nearest_hint(key))
        model, is_table = sections[section], isinstance(layer.values[section], dict)
        if is_table != (model is not None):
            expected = f"a section with keys: {', '.join(model.model_fields)}" if model is not None else "one value"
            raise ConfigError(f"'{section}' ({origin}): expected {expected}")
        if model is not None and name and name not in model.model_fields and model.model_config.get("extra") != "allow":
            raise ConfigError(f"unknown key '{key}' ({origin})", _nearest_hint(key))


def _section(name: str) -> type[BaseModel] | None:
    """Return the model of a section, None for a single value."""
    kind = Config.model_fields[name].annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _nearest_hint(key: str) -> str:
    """Return a hint naming the known key that is most like `key`."""
    section, _, name = key.partition(".")
    known: list[str] = []
    for field in Config.model_fields:
        model = _section(field)
        known += [f"{field}.{k}" for k in model.model_fields] if model is not None else [field]
    if section in Config.model_fields:
        candidates = [k for k in known if k.startswith(f"{section}.")]
        near = difflib.get_close_matches(key, candidates, 1) or [k for k in known if k.endswith(f".{name}")]
        return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(candidates)}"
    like = difflib.get_close_matches(section, Config.model_fields, 1)
    near = (
        [f"{like[0]}.{name}" if name else like[0]] if like else [k for k in known if k.endswith(f".{name or section}")]
    )
    return f"did you mean '{near[0]}'?" if near else f"known sections: {', '.join(Config.model_fields)}"


def _validate(layer: Layer) -> Config:
    """Return the typed configuration. Raises ConfigError on the first wrong or missing value."""
    try:
        return Config.model_validate(layer.values, strict=True)
    except ValidationError as err:
        first = err.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            missing = {"operator": "operator.kind", "method": "method.name"}.get(key, key)
            hint = "choose one with --method" if missing == "method.name" else "give a preset (recon presets list)"
            raise ConfigError(f"{missing} is not set", f"{hint}, or --set {missing}=VALUE") from err
        origin = layer.origins.get(key, "default")
        expected = first["msg"].replace("Input should be", "expected")
        raise ConfigError(f"{key} = {first['input']!r} ({origin}): {expected}") from err


def describe(resolved: Resolved) -> list[tuple[str, Any, str]]:
    """Return (key, value, origin) of every value, in the order of the schema."""
    rows = []
    for key in resolved.origins:
        section, _, name = key.partition(".")
        value = resolved.values[section]
        rows.append((key, value[name] if name else value, resolved.origins[key]))
    return rows
