"""From a prior's name or file to a denoiser."""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path

from recon.errors import ConfigError, ResourceError
from recon.priors.base import Denoiser
from recon.priors.store import load_prior


def shipped_priors() -> list[str]:
    """Return the names of the shipped priors."""
    folder = files("recon.priors.weights")
    return sorted(p.name.removesuffix(".safetensors") for p in folder.iterdir() if p.name.endswith(".safetensors"))


def prior_path(name: str) -> Path:
    """Return the weight file of a shipped prior or of a path.

    Raises ResourceError for a missing file, ConfigError for an unknown name (with the nearest).
    """
    if name.endswith(".safetensors") or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise ResourceError(f"no weight file {name}", "give a .safetensors file, or a name of: recon priors list")
        return path
    names = shipped_priors()
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        raise ConfigError(
            f"unknown prior '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""), "see: recon priors list"
        )
    return Path(str(files("recon.priors.weights") / f"{name}.safetensors"))


def open_prior(name: str) -> Denoiser:
    """Return the denoiser of a shipped prior or of a weight file."""
    return load_prior(prior_path(name))
