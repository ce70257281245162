"""Typed configuration of `recon train`; unknown keys are errors."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VolumeSource(_Strict):
    """One training volume: a file, how often it is drawn from, and where it came from."""

    path: str
    weight: float = Field(default=1.0, gt=0)
    source: str
    licence: str
    sha256: str | None = None


class DataConfig(_Strict):
    """What the crops are drawn from; `mri-slices` cuts random planes out of volumes."""

    kind: Literal["mri-slices"] = "mri-slices"
    volumes: list[VolumeSource] = Field(min_length=1)
    test: list[VolumeSource] = []


class NetworkConfig(_Strict):
    """Architecture of the UNet; see `recon.priors.networks.unet.UNetConfig`."""

    in_channels: int = 1
    channels: tuple[int, ...] = (32, 64, 96, 128)
    blocks: tuple[int, ...] = (1, 1, 1, 1)
    unshuffle: int = 2
    embedding: int = 128
    groups: int = 8


class OptimiserConfig(_Strict):
    """AdamW with warm-up and inverse-square-root decay, so that a training can always go on.

    lr(step) = lr min(1, (step+1)/warmup) / sqrt(max(step/decay_after, 1))
    """

    lr: float = Field(default=1e-3, gt=0)
    warmup: int = 200
    decay_after: int = 4000
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-4
    clip: float = 1.0


class TrainConfig(_Strict):
    """Everything that determines a training, apart from how long it runs."""

    name: str
    description: str
    crop: int = 96
    batch: int = 8
    steps: int = Field(default=100_000, gt=0)
    seed: int = 0
    sigma_data: float = 0.5
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    log_sigma_mean: float = -1.2
    log_sigma_std: float = 1.4
    ema: tuple[float, ...] = (0.999,)
    value_range: tuple[float, float] = (-1.0, 1.0)
    checkpoint_seconds: float = 300.0
    log_every: int = 100
    data: DataConfig
    network: NetworkConfig = NetworkConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
