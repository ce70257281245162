"""Folders of the diffusers library: an unconditional or class-conditional UNet2DModel with a VP or flow scheduler.

Read are `unet/config.json` with `unet/diffusion_pytorch_model.safetensors` (or .bin), and the levels in
`scheduler/scheduler_config.json`; all three may lie in the folder itself. Attention layers may have their old names.
Missing keys of a configuration have the library's defaults. Value range [-1, 1], or [0, 1] where the network centres
its input; two channels are real and imaginary parts, with 0 at 0 and magnitude 1 at 1.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import Tensor

from recon.errors import ConfigError
from recon.priors.base import PriorInfo
from recon.priors.networks.diffusers_unet import DiffusersConfig, DiffusersUNet
from recon.priors.preconditioned import PreconditionedDenoiser
from recon.priors.preconditioning import Flow, VPTable
from recon.priors.published.content import Folder
from recon.priors.published.diffusers_config import read_scheduler, read_unet
from recon.priors.published.limits import printable
from recon.priors.published.weights import filled

CONFIG = "config.json"
SCHEDULER = "scheduler_config.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
# attention layers before diffusers 0.12
RENAMED = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def matches(content: Any) -> bool:
    """Tell whether a checkpoint is of this family."""
    return isinstance(content, Folder) and _unet(content) is not None


def describe(content: Any) -> dict[str, Any]:
    """Return JSON-able facts about the checkpoint's network."""
    config, table, size = _read(content, "the folder")
    return {**_facts(table, size), **asdict(config)}


def load(content: Any, name: str) -> PreconditionedDenoiser:
    """Return the denoiser, in float32 on the CPU.

    name: of the prior. Raises ConfigError where configuration and tensors do not fit each other or a known network.
    """
    config, table, size = _read(content, name)
    tensors = _tensors(content, name)
    if config.blocks * len(config.widths) > len(tensors):
        raise ConfigError(f"{name}: the configuration names more blocks than the weights have tensors")
    complex_channels = config.in_channels == 2
    info = PriorInfo(
        name,
        config.in_channels,
        multiple=config.multiple,
        sigma_min=table.range[0],
        sigma_max=table.range[1],
        value_range=(0.0, 1.0) if complex_channels or config.centred else (-1.0, 1.0),
        complex_channels=complex_channels,
        provenance={"family": "diffusers", **_facts(table, size)},
    )
    network = filled(lambda: DiffusersUNet(config), tensors, name)
    return PreconditionedDenoiser(network, info, table.kind, **asdict(table))


def _facts(table: VPTable | Flow, size: Any) -> dict[str, Any]:
    if isinstance(table, Flow):
        levels = f"flow, times up to {table.scale:g}"
    else:
        levels = f"vp, table of {table.count} levels, {table.schedule}, F is {table.prediction}"
    return {"architecture": "UNet2DModel (diffusers)", "preconditioning": levels, "sample_size": size}


def _unet(folder: Folder) -> str | None:
    """Return where the network lies, as the start of its files' names; None if there is none."""
    return next((start for start in ("unet/", "") if f"{start}{CONFIG}" in folder.names), None)


def _read(content: Any, name: str) -> tuple[DiffusersConfig, VPTable | Flow, Any]:
    """Return the network's configuration, its levels, and the size it was trained at as the file says it."""
    start = _unet(content) if isinstance(content, Folder) else None
    if start is None:
        raise ConfigError(f"{name} is no folder of a diffusers model", f"it needs unet/{CONFIG}")
    if any(part in found for found in content.names for part in ("vae/", "vqvae/", "movq/")):
        raise ConfigError(f"{name} is a prior of latents, not of images: it has an autoencoder", "choose a pixel model")
    scheduler = next((found for found in (f"scheduler/{SCHEDULER}", SCHEDULER) if found in content.names), None)
    if scheduler is None:
        raise ConfigError(f"{name} has no scheduler/{SCHEDULER}, which says the noise levels", "add the file")
    unet = content.read(f"{start}{CONFIG}")
    config, learned = read_unet(unet, name)
    table, variance = read_scheduler(content.read(scheduler), name)
    if learned and variance != "learned_range":
        raise ConfigError(
            f"{name}: the network has {config.out_channels} channels out for {config.in_channels} in, "
            f"but the scheduler's variance is '{printable(variance)}'"
        )
    size = unet.get("sample_size")
    return config, table, size if isinstance(size, int | list | None) else None


def _tensors(folder: Folder, name: str) -> dict[str, Tensor]:
    start = _unet(folder) or ""
    file = next((f"{start}{found}" for found in WEIGHTS if f"{start}{found}" in folder.names), None)
    if file is None:
        raise ConfigError(f"{name} has no {start}{WEIGHTS[0]} or {WEIGHTS[1]}", "download the whole folder")
    found = folder.read(file)
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ConfigError(f"{name}: {file} holds no state dict")
    return {_renamed(str(key)): value for key, value in found.items()}


def _renamed(key: str) -> str:
    if ".attentions." in key:
        for old, new in RENAMED.items():
            key = key.replace(old, new)
    return key
