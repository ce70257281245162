"""`recon train`: from a configuration file and data folder to weights with their provenance."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from recon.data import Volume
from recon.errors import ConfigError, InputError, ResourceError
from recon.io.atomic import check_writable
from recon.io.registry import read_volume
from recon.priors.base import PriorInfo
from recon.priors.catalog import file_sha256
from recon.priors.edm import EDMDenoiser
from recon.priors.networks.unet import UNet
from recon.priors.store import save_prior
from recon.training.config import TrainConfig, VolumeSource
from recon.training.intensity import foreground_quantile
from recon.training.loop import TrainState, load_state, new_state, save_state, train, unet_config
from recon.training.report import DenoisingRow, denoising_report
from recon.training.slices import SliceVolume, prepare_volume, random_crop


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
    volumes = [_volume(request.data, source) for source in config.data.volumes]
    state = load_state(folder, config) if there else new_state(config)

    def crop(rng: np.random.Generator) -> np.ndarray:
        return random_crop(volumes, config.crop, rng)[None]

    for saved in train(config, state, crop, config.steps, request.max_seconds, on_log):
        save_state(folder, config, saved)
    return state


def export_prior(request: TrainRequest, output: Path, ema: int, dtype: torch.dtype, force: bool) -> dict[str, Any]:
    """Write one EMA of a training as a weight file with its provenance; return the provenance."""
    check_writable([output], force)
    config, state = request.config, load_state(request.folder, request.config)
    if not 0 <= ema < len(state.emas):
        raise ConfigError(f"the training keeps {len(state.emas)} averages (ema), got index {ema}")
    provenance = {
        "training": config.model_dump(mode="json"),
        "ema": config.ema[ema],
        "step": state.step,
        "crops": state.step * config.batch,
        "hours": round(state.seconds / 3600, 2),
        "data": [
            {"source": v.source, "licence": v.licence, "sha256": file_sha256(_data_path(request.data, v))}
            for v in config.data.volumes
        ],
        "scaling": "u = 2 v / q - 1, q = 99.5 % quantile of the foreground (above a tenth of the 99.9 % quantile)",
    }
    save_prior(output, state.emas[ema], unet_config(config), config.sigma_data, _info(config, provenance), dtype)
    return provenance


def report_on_test(request: TrainRequest, ema: int, sigmas: tuple[float, ...]) -> list[DenoisingRow]:
    """Return the held-out denoising report of one EMA on the configuration's test volumes."""
    config, state = request.config, load_state(request.folder, request.config)
    network = UNet(unet_config(config))
    network.load_state_dict(state.emas[ema])
    denoiser = EDMDenoiser(network, _info(config, {}), config.sigma_data)
    images = [image for source in config.data.test for image in _test_slices(_read(request.data, source))]
    if not images:
        raise ConfigError("the training configuration names no test data", "add [[data.test]]")
    return denoising_report(denoiser, images, sigmas, config.seed)


def _info(config: TrainConfig, provenance: dict[str, Any]) -> PriorInfo:
    return PriorInfo(
        name=config.name,
        channels=config.network.in_channels,
        multiple=unet_config(config).multiple,
        sigma_min=config.sigma_min,
        sigma_max=config.sigma_max,
        value_range=config.value_range,
        provenance=provenance,
    )


def _data_path(folder: Path, source: VolumeSource) -> Path:
    path = folder / source.path
    if not path.is_file():
        raise ResourceError(f"training data {source.path} is not in {folder}", f"fetch it: {source.source}")
    if source.sha256 is not None and file_sha256(path) != source.sha256:
        raise InputError(f"{source.path} is not the file of the configuration: its SHA-256 differs")
    return path


def _read(folder: Path, source: VolumeSource) -> Volume:
    return read_volume(_data_path(folder, source))


def _volume(folder: Path, source: VolumeSource) -> SliceVolume:
    volume = _read(folder, source)
    spacing = volume.geometry.spacing or (1.0, 1.0, 1.0)
    return prepare_volume(volume.array, (spacing[0], spacing[1], spacing[2]), source.weight)


def _test_slices(volume: Volume) -> list[np.ndarray]:
    """Return three slices of a test volume (axis 2 at 0.45 and 0.55, axis 0 at 0.45) in [-1, 1]-like units."""
    q = foreground_quantile(volume.array)
    scaled = 2 * np.clip(volume.array.astype(np.float32) / q, 0, 1.2) - 1
    n0, _, n2 = scaled.shape
    return [scaled[:, :, int(0.45 * n2)], scaled[:, :, int(0.55 * n2)], scaled[int(0.45 * n0)]]
