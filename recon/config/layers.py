"""Layers of configuration: trees {section: {key: value}} that remember where every value came from.

The keys of `operator` and `method` belong to the kind or name that the section states: a layer that states another one
replaces the section as a whole, since settings of one method mean nothing to another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Tree = dict[str, Any]

# section -> the key that says what its other keys belong to
OWNER = {"operator": "kind", "method": "name"}


@dataclass(frozen=True)
class Layer:
    """Values, and for each dotted key ("section.key", or "key" at the top) where its value came from."""

    values: Tree = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)


def make_layer(values: Tree, origin: str) -> Layer:
    """Return a layer whose values all come from `origin`."""
    return Layer(values, dict.fromkeys(dotted(values), origin))


def dotted(values: Tree) -> list[str]:
    """Return the dotted keys of a tree; an empty section gives its own name."""
    keys: list[str] = []
    for name, value in values.items():
        keys += [f"{name}.{key}" for key in value] if isinstance(value, dict) and value else [name]
    return keys


def merge(base: Layer, over: Layer) -> Layer:
    """Return `base` with the values of `over` put over it."""
    values, origins = dict(base.values), dict(base.origins)
    for name, value in over.values.items():
        old = values.get(name)
        keep = isinstance(value, dict) and isinstance(old, dict) and not _other_owner(name, old, value)
        values[name] = {**old, **value} if keep and isinstance(old, dict) else value
        if not keep:
            origins = {key: origin for key, origin in origins.items() if key.partition(".")[0] != name}
    return Layer(values, origins | over.origins)


def without(layer: Layer, *names: str) -> Layer:
    """Return the layer without some top-level names."""
    values = {k: v for k, v in layer.values.items() if k not in names}
    return Layer(values, {k: v for k, v in layer.origins.items() if k.partition(".")[0] not in names})


def only(layer: Layer, *names: str) -> Layer:
    """Return the layer with some top-level names alone."""
    return without(layer, *(k for k in layer.values if k not in names))


def _other_owner(section: str, old: Tree, new: Tree) -> bool:
    """Whether `new` states another kind or name than `old` for a section whose keys belong to it."""
    owner = OWNER.get(section)
    return owner is not None and owner in new and owner in old and new[owner] != old[owner]
