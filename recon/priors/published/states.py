"""State dicts inside a checkpoint: the averaged weights first, their common key prefix removed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

# where training scripts put weights, averaged ones first
AVERAGED = ("ema", "ema_state_dict", "params_ema", "model_ema", "ema_model")
TRAINED = ("state_dict", "model_state_dict", "model", "net", "params", "module", "unet")


@dataclass(frozen=True)
class State:
    """A network's tensors: name -> tensor, without `prefix`.

    source: the key of the checkpoint that they lay under, "" for the checkpoint itself.
    """

    tensors: dict[str, Tensor]
    prefix: str
    source: str


def find_state(content: Any, marks: tuple[str, ...]) -> State | None:
    """Return the first state dict whose keys, after one common prefix, include every mark; None if there is none."""
    for source, mapping in _mappings(content):
        ends = [key for key in mapping if isinstance(key, str) and key.endswith(marks[0])]
        for prefix in sorted((key.removesuffix(marks[0]) for key in ends), key=len):
            if all(isinstance(mapping.get(prefix + mark), Tensor) for mark in marks):
                named = {
                    key.removeprefix(prefix): value
                    for key, value in mapping.items()
                    if isinstance(key, str) and key.startswith(prefix) and isinstance(value, Tensor)
                }
                return State(named, prefix, source)
    return None


def _mappings(content: Any) -> Iterator[tuple[str, dict[Any, Any]]]:
    if not isinstance(content, dict):
        return
    for key in AVERAGED:
        if isinstance(content.get(key), dict):
            yield key, content[key]
    yield "", content
    for key in TRAINED:
        if isinstance(content.get(key), dict):
            yield key, content[key]
