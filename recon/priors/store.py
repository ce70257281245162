"""Our weight format: safetensors with the configuration inside.

Metadata keys: `format` = "recon-prior/1", `config` = JSON of {network, unet, sigma_data, info}.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recon.errors import ConfigError, InputError
from recon.priors.base import PriorInfo
from recon.priors.edm import EDMDenoiser
from recon.priors.networks.unet import UNet, UNetConfig

FORMAT = "recon-prior/1"


def save_prior(
    path: Path, weights: dict[str, Tensor], unet: UNetConfig, sigma_data: float, info: PriorInfo, dtype: torch.dtype
) -> None:
    """Write weights (as `dtype`) and everything needed to rebuild the denoiser to a safetensors file."""
    config = {"network": "unet", "unet": asdict(unet), "sigma_data": sigma_data, "info": asdict(info)}
    tensors = {k: v.detach().to(dtype).contiguous() for k, v in weights.items()}
    save_file(tensors, path, metadata={"format": FORMAT, "config": json.dumps(config)})


def read_config(path: Path) -> dict[str, Any]:
    """Return the configuration stored in a weight file, without loading the weights.

    Raises InputError if the file is unreadable or not in our format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
    except (SafetensorError, OSError) as err:
        raise InputError(f"cannot read weights {path.name}: {err}", "expected a safetensors file") from err
    if meta.get("format") != FORMAT:
        raise InputError(f"{path.name} holds no {FORMAT} prior (format: {meta.get('format')})")
    try:
        return dict(json.loads(meta["config"]))
    except (KeyError, ValueError, TypeError) as err:
        raise InputError(f"the configuration inside {path.name} is damaged: {err}") from err


def load_prior(path: Path) -> EDMDenoiser:
    """Load a prior written by `save_prior`, in float32 on the CPU.

    Raises InputError for unreadable files, ConfigError where weights and configuration disagree.
    """
    config = read_config(path)
    try:
        shape: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config["unet"].items()}
        unet = UNetConfig(**shape)
        info = config["info"]
        info["value_range"] = tuple(info["value_range"])
        info["sizes"] = tuple(info["sizes"]) if info["sizes"] else None
        network = UNet(unet)
        with safe_open(path, framework="pt") as file:
            weights = {key: file.get_tensor(key).float() for key in file.keys()}
        network.load_state_dict(weights)
        prior = PriorInfo(**info)
    except (KeyError, TypeError, ValueError, RuntimeError) as err:
        reason = str(err).splitlines()[0]
        raise ConfigError(f"weights and configuration of {path.name} do not fit: {reason}") from err
    return EDMDenoiser(network, prior, float(config["sigma_data"]))
