"""`recon train`: from a configuration file and data folder to weights with their provenance."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from recon.errors import ConfigError, ResourceError
from recon.io.atomic import check_writable
from recon.priors.base import PriorInfo
from recon.priors.catalog import file_sha256
from recon.priors.edm import EDMDenoiser
from recon.priors.networks.unet import UNet
from recon.priors.store import save_prior
from recon.training.config import TrainConfig
from recon.training.loop import TrainState, load_state, new_state, save_state, train, unet_config
from recon.training.report import (
    SIGMAS,
    DenoisingRow,
    Oracle,
    denoising_report,
    held_out_loss,
    non_local_means,
    spread,
)
from recon.training.sources import crop_source, data_path, held_out_images, training_fields
from recon.training.spectra import linear_oracle, stationary_gaussian


@dataclass(frozen=True)
class TrainRequest:
    """What the user asked for; `folder` holds the state and is where a training resumes from."""

    config: TrainConfig
    data: Path
    folder: Path
    max_seconds: float | None = None
    resume: bool = False


def read_train_config(name: str) -> TrainConfig:
    """Return a shipped training configuration by name, or one from a TOML file.

    Raises ConfigError on an unknown name or an invalid key.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise ResourceError(f"no training configuration {name}")
        text = path.read_text()
    else:
        resource = files("recon.training.configs") / f"{name}.toml"
        if not resource.is_file():
            known = sorted(p.name[:-5] for p in files("recon.training.configs").iterdir() if p.name.endswith(".toml"))
            near = difflib.get_close_matches(name, known, 1)
            raise ConfigError(
                f"unknown training configuration '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""),
                f"choose from: {', '.join(known)}, or a TOML file",
            )
        text = resource.read_text()
    try:
        return TrainConfig.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as err:
        raise ConfigError(f"{name} is not valid TOML: {err}") from err
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise ConfigError(f"training configuration {name}, {where}: {first['msg']}") from err


def run_training(request: TrainRequest, on_log: Callable[[dict[str, float]], None]) -> TrainState:
    """Train until the configured step or time, saving the state; returns the final state.

    Raises ConfigError if a state is there and --resume was not given, or belongs to another configuration.
    """
    config, folder = request.config, request.folder
    there = (folder / "state.safetensors").is_file()
    if there and not request.resume:
        raise ConfigError(f"a training is already in {folder}", "go on with --resume, or choose another folder")
    crop = crop_source(config, request.data)
    state = load_state(folder, config) if there else new_state(config)
    last = state.step if there else None
    for saved in train(config, state, crop, config.steps, request.max_seconds, on_log):
        if saved.step != last:
            save_state(folder, config, saved)
            last = saved.step
    return state


def export_prior(request: TrainRequest, output: Path, ema: int, dtype: torch.dtype, force: bool) -> dict[str, Any]:
    """Write one EMA of a training as a weight file with its provenance; return the provenance."""
    check_writable([output], force)
    config, state = request.config, load_state(request.folder, request.config)
    weights = _average(state, ema)
    provenance = {
        "training": config.model_dump(mode="json"),
        "ema": config.ema[ema],
        "step": state.step,
        "crops": state.step * config.batch,
        "hours": round(state.seconds / 3600, 2),
        "data": [
            {"source": f.source, "licence": f.licence, "sha256": file_sha256(data_path(request.data, f))}
            | ({"credit": f.credit} if f.credit else {})
            for f in config.data.files
        ],
        "scaling": config.data.scaling,
    }
    save_prior(output, weights, unet_config(config), config.sigma_data, _info(config, provenance), dtype)
    return provenance


def trained_denoiser(request: TrainRequest, ema: int) -> EDMDenoiser:
    """Return one EMA of a training as a denoiser, in float32. Raises ConfigError where there is no such average."""
    return _denoiser(request.config, _average(load_state(request.folder, request.config), ema))


def report_on_test(request: TrainRequest, ema: int, sigmas: tuple[float, ...] = SIGMAS) -> list[DenoisingRow]:
    """Return the held-out denoising report of one EMA on the configuration's test images (at most 32 of them)."""
    images = spread(held_out_images(request.config, request.data), 32)
    return denoising_report(
        trained_denoiser(request, ema), images, sigmas, request.config.seed, _baselines(request.config, request.data)
    )


def _baselines(config: TrainConfig, folder: Path) -> dict[str, Oracle]:
    """Return what a report compares with beside total variation."""
    if config.data.kind == "images":
        return {"nl_means": non_local_means}
    if config.data.kind == "vorticity":
        return {"gaussian": linear_oracle(stationary_gaussian(training_fields(config, folder), config.value_range))}
    return {}


def losses_on_test(request: TrainRequest) -> list[float]:
    """Return the held-out loss of every EMA, in the configuration's order."""
    config, state = request.config, load_state(request.folder, request.config)
    images = held_out_images(config, request.data)
    return [held_out_loss(_denoiser(config, weights), images, config) for weights in state.emas]


def _average(state: TrainState, ema: int) -> dict[str, torch.Tensor]:
    if not 0 <= ema < len(state.emas):
        raise ConfigError(f"the training keeps {len(state.emas)} averages (ema), got index {ema}")
    return state.emas[ema]


def _denoiser(config: TrainConfig, weights: dict[str, torch.Tensor]) -> EDMDenoiser:
    network = UNet(unet_config(config))
    network.load_state_dict(weights)
    return EDMDenoiser(network, _info(config, {}), config.sigma_data)


def _info(config: TrainConfig, provenance: dict[str, Any]) -> PriorInfo:
    return PriorInfo(
        name=config.name,
        channels=config.network.in_channels,
        multiple=unet_config(config).multiple,
        sigma_min=config.sigma_min,
        sigma_max=config.sigma_max,
        value_range=config.value_range,
        symmetry=config.data.symmetry,
        provenance=provenance,
    )
