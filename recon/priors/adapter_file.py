"""Trained adapters as files: safetensors of the trained tensors alone, with the settings inside."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from recon.errors import ConfigError, InputError
from recon.priors.adapters import AdapterSettings, places_of
from recon.priors.base import Denoiser
from recon.priors.lora import LoRA
from recon.priors.store import read_metadata

FORMAT = "recon-adapters/1"


def dump_adapters(prior: LoRA) -> bytes:
    """Return the content of a safetensors file of what is trained, with the settings inside."""
    facts = {"settings": asdict(prior.settings), "prior": prior.info.name}
    tensors = {name: value.cpu().contiguous() for name, value in prior.state().items()}
    return save(tensors, metadata={"format": FORMAT, "config": json.dumps(facts)})


def load_adapters(path: Path, base: Denoiser) -> LoRA:
    """Return the prior `base` with the adapters of a file; they are where the file's tensors say.

    Raises InputError for an unreadable file, ConfigError for adapters of another network.
    """
    _, settings, state = _read(path)
    try:
        adapted = LoRA(base, settings, torch.Generator().manual_seed(0), places_of(state))
    except ConfigError as err:
        raise ConfigError(
            f"the adapters of {path.name} do not fit prior '{base.info.name}': {err.message}",
            "give the prior that they were trained with",
        ) from err
    return adapted.with_state(state)


def describe_adapters(path: Path) -> dict[str, Any]:
    """Return what a file of adapters says about itself, as JSON-able facts. Raises InputError for another file."""
    name, settings, state = _read(path)
    return {
        "kind": "adapters (LoRA), not a prior by itself",
        "prior": name,
        "settings": asdict(settings),
        "layers": len(places_of(state).layers),
        "parameters": sum(value.numel() for value in state.values()),
        "file": path.name,
        "bytes": path.stat().st_size,
    }


def _read(path: Path) -> tuple[str, AdapterSettings, dict[str, Tensor]]:
    """Return the name of the prior that a file's adapters were trained with, their settings and tensors."""
    meta = read_metadata(path)
    try:
        if meta.get("format") != FORMAT:
            raise ValueError(f"its format is {meta.get('format')}, not {FORMAT}")
        facts = json.loads(meta["config"])
        unknown = sorted(set(facts["settings"]) - {field.name for field in fields(AdapterSettings)})
        if unknown:
            raise ValueError(f"no setting '{unknown[0]}'")
        settings = TypeAdapter(AdapterSettings).validate_json(json.dumps(facts["settings"]), strict=True)
    except (KeyError, ValueError, TypeError, RecursionError, ConfigError) as err:
        lines = [e["msg"] for e in err.errors()] if isinstance(err, ValidationError) else [str(err)]
        reason = (lines[0] or type(err).__name__).splitlines()[0][:120]
        raise InputError(f"{path.name} holds no adapters: {reason}", "give a file of trained adapters") from err
    try:
        return str(facts["prior"])[:80], settings, load_file(path)
    except (SafetensorError, OSError, ValueError) as err:
        raise InputError(f"cannot read adapters {path.name}: {err}") from err
