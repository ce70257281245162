"""Layers from outside the presets: the user's file, the environment, and `--set`."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recon.config.layers import Layer, make_layer, merge
from recon.errors import ConfigError, UsageError

PREFIX = "RECON_"
# short names of common keys
VARIABLES = {"RECON_DEVICE": "run.device", "RECON_NUM_THREADS": "run.threads", "RECON_SEED": "run.seed"}
# read elsewhere, no part of the configuration
OTHER_VARIABLES = ("RECON_PRESET_PATH", "RECON_CACHE_DIR", "RECON_LOG_LEVEL", "RECON_KERNELS")
# a variable this much like one of ours is taken for a misspelling of it, not for another program's
MISSPELT = 0.85


def user_layer(path: Path | None, environ: Mapping[str, str]) -> Layer:
    """Return the layer of `path` (`--config`), else of the user's own file if there is one.

    Raises ConfigError if the file is missing, unreadable or no TOML.
    """
    if path is None:
        own = _own_file(environ)
        if own is None or not own.is_file():
            return Layer()
        path = own
    try:
        values = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError as err:
        raise ConfigError(f"no configuration file {path}") from err
    except OSError as err:
        raise ConfigError(f"cannot read configuration file {path}: {err.strerror}") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ConfigError(f"configuration file {path.name} is not valid TOML: {err}") from err
    return make_layer(values, f"file {path.name}")


def environment_layer(environ: Mapping[str, str]) -> Layer:
    """Return the layer of RECON_DEVICE, RECON_NUM_THREADS, RECON_SEED and RECON_SECTION__KEY; empty ones do not count.

    Raises ConfigError for a variable that misspells one of these.
    """
    layer = Layer()
    for name in sorted(environ, key=lambda name: ("__" in name, name)):
        if not name.startswith(PREFIX) or name in OTHER_VARIABLES or environ[name] == "":
            continue
        section, double, key = name.removeprefix(PREFIX).lower().partition("__")
        if name in VARIABLES:
            section, _, key = VARIABLES[name].partition(".")
        elif not double:
            near = difflib.get_close_matches(name, [*VARIABLES, *OTHER_VARIABLES], 1, cutoff=MISSPELT)
            if near:
                raise ConfigError(f"unknown environment variable {name}", f"did you mean {near[0]}?")
            continue
        layer = merge(layer, make_layer({section: {key: parse_value(environ[name])}}, f"environment {name}"))
    return layer


def sets_layer(sets: Sequence[str]) -> Layer:
    """Return the layer of `--set section.key=value`; the last of one key counts. Raises UsageError without a `=`."""
    layer = Layer()
    for text in sets:
        key, equals, value = text.partition("=")
        section, _, name = key.strip().partition(".")
        if not equals or not section:
            raise UsageError(f"--set {text}: expected section.key=value", "for example: --set method.steps=20")
        tree = {section: {name: parse_value(value)}} if name else {section: parse_value(value)}
        layer = merge(layer, make_layer(tree, "--set"))
    return layer


def parse_value(text: str) -> Any:
    """Return text as the TOML value it spells, else as the string it is."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # a text with line breaks may spell more than one value
    return parsed["value"] if list(parsed) == ["value"] else text


def _own_file(environ: Mapping[str, str]) -> Path | None:
    base = environ.get("XDG_CONFIG_HOME")
    if base:
        return Path(base) / "recon" / "config.toml"
    home = environ.get("HOME")
    return Path(home) / ".config" / "recon" / "config.toml" if home else None
