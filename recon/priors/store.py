"""Our weight format: safetensors with the configuration inside.

Metadata keys: `format` = "recon-prior/1", `config` = JSON of {network, <network>, denoiser, settings, info}: the name
of the architecture, its configuration under that name, the name of the denoiser that adapts it, its keywords, and
what the prior declares. Files without `denoiser` have EDM preconditioning and the key `sigma_data`; in files without
`info.symmetry` it follows from the data that they were trained on.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor, nn

from recon.errors import ConfigError, InputError
from recon.priors.base import Denoiser, PriorInfo
from recon.priors.networks.unet import UNetConfig
from recon.priors.symmetric import trained_symmetry

FORMAT = "recon-prior/1"

# name -> (module, network, configuration); a network is made of its configuration, which it keeps as `config`
NETWORKS: dict[str, tuple[str, str, str]] = {
    "unet": ("recon.priors.networks.unet", "UNet", "UNetConfig"),
    "adm": ("recon.priors.networks.adm", "ADM", "ADMConfig"),
    "song": ("recon.priors.networks.song", "SongUNet", "SongConfig"),
    "dhariwal": ("recon.priors.networks.dhariwal", "DhariwalUNet", "DhariwalConfig"),
    "ncsnpp": ("recon.priors.networks.ncsnpp", "NCSNpp", "NCSNppConfig"),
    "diffusers": ("recon.priors.networks.diffusers_unet", "DiffusersUNet", "DiffusersConfig"),
    "ffdnet": ("recon.priors.networks.ffdnet", "FFDNet", "FFDNetConfig"),
    "drunet": ("recon.priors.networks.drunet", "DRUNet", "DRUNetConfig"),
}
# name -> (module, class); a denoiser is made of a network, a PriorInfo and its `settings`
DENOISERS: dict[str, tuple[str, str]] = {
    "edm": ("recon.priors.edm", "EDMDenoiser"),
    "preconditioned": ("recon.priors.preconditioned", "PreconditionedDenoiser"),
}


def save_prior(
    path: Path, weights: dict[str, Tensor], unet: UNetConfig, sigma_data: float, info: PriorInfo, dtype: torch.dtype
) -> None:
    """Write weights (as `dtype`) and everything needed to rebuild the denoiser to a safetensors file."""
    config = {"network": "unet", "unet": asdict(unet), "sigma_data": sigma_data, "info": asdict(info)}
    tensors = {k: v.detach().to(dtype).contiguous() for k, v in weights.items()}
    save_file(tensors, path, metadata={"format": FORMAT, "config": json.dumps(config)})


def dump_prior(denoiser: Denoiser) -> bytes:
    """Return the content of the weight file of a denoiser with a network; its tensors keep their dtype.

    Raises ConfigError for a denoiser or network that the format has no name for.
    """
    network, settings = getattr(denoiser, "network", None), getattr(denoiser, "settings", None)
    names = [name for name, (module, cls, _) in NETWORKS.items() if _is(network, module, cls)]
    adapters = [name for name, (module, cls) in DENOISERS.items() if _is(denoiser, module, cls)]
    if not names or not adapters or not isinstance(network, nn.Module):
        raise ConfigError(f"prior '{denoiser.info.name}' cannot be written in our format: it is no known network")
    config = {
        "network": names[0],
        names[0]: asdict(network.config),  # type: ignore[call-overload]
        "denoiser": adapters[0],
        "settings": settings,
        "info": asdict(denoiser.info),
    }
    # storages may be shared between tensors, which the format does not allow
    tensors = {key: value.detach().cpu().clone().contiguous() for key, value in network.state_dict().items()}
    return save(tensors, metadata={"format": FORMAT, "config": json.dumps(config)})


def read_config(path: Path) -> dict[str, Any]:
    """Return the configuration stored in a weight file, without loading the weights.

    Raises InputError if the file is unreadable or not in our format.
    """
    meta = read_metadata(path)
    if meta.get("format") != FORMAT:
        raise InputError(f"{path.name} holds no {FORMAT} prior (format: {meta.get('format')})")
    try:
        config = dict(json.loads(meta["config"]))
        info = config.get("info")
        if isinstance(info, dict):
            info.setdefault("symmetry", trained_symmetry(info.get("provenance")))
        return config
    except (KeyError, ValueError, TypeError, RecursionError) as err:
        raise InputError(f"the configuration inside {path.name} is damaged: {err}") from err


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file. Raises InputError if it is unreadable."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as err:
        raise InputError(f"cannot read weights {path.name}: {err}", "expected a safetensors file") from err


def network_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return the architecture in a stored configuration. Raises KeyError where there is none."""
    return dict(config[config["network"]])


def load_prior(path: Path) -> Denoiser:
    """Load a prior in our format, in float32 on the CPU.

    Raises InputError for unreadable files, ConfigError where weights and configuration disagree.
    """
    config = read_config(path)
    try:
        module, cls, config_cls = NETWORKS[config["network"]]
        shape = {k: _tuples(v) for k, v in network_of(config).items()}
        info = PriorInfo(**{k: v if k == "provenance" else _tuples(v) for k, v in config["info"].items()})
        with safe_open(path, framework="pt") as file:
            # copies: memory of its own and aligned, so that results are the same bits whatever the file's layout
            weights = {key: file.get_tensor(key).to(torch.float32, copy=True) for key in file.keys()}
        _check_size(shape, len(weights))
        # no memory and no random numbers: every tensor comes from the file, and constants are made on the CPU
        with torch.device("meta"):
            network = _class(module, cls)(_class(module, config_cls)(**shape))
        network.load_state_dict(weights, assign=True)
        settings = config["settings"] if "denoiser" in config else {"sigma_data": float(config["sigma_data"])}
        denoiser: Denoiser = _class(*DENOISERS[config.get("denoiser", "edm")])(network, info, **settings)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as err:
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise ConfigError(f"weights and configuration of {path.name} do not fit: {reason}") from err
    return denoiser


def _class(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def _is(thing: object, module: str, name: str) -> bool:
    """Tell whether `thing` is of a class, without importing the class's module where nothing has yet."""
    return (type(thing).__module__, type(thing).__name__) == (module, name)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _check_size(shape: dict[str, Any], tensors: int) -> None:
    """Raise ValueError for an architecture of more levels, blocks or layers than the file has tensors."""
    lists = [len(value) for value in shape.values() if isinstance(value, tuple)]
    blocks = shape.get("blocks", 1)
    total = sum(blocks) if isinstance(blocks, tuple) else blocks * max(lists, default=1)
    if max([total, shape.get("layers", 0), *lists]) > tensors:
        raise ValueError(f"an architecture of more blocks or layers than {tensors} tensors")
