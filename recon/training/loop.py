"""The training loop: EDM loss, AdamW, several EMAs, checkpoints that resume exactly.

    loss = lambda(s) ||D(x0 + s n, s) - x0||^2,   lambda = (s^2 + sd^2)/(s sd)^2,   ln s ~ N(mean, std^2)

Source: Karras et al. 2022 (EDM), section 5.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recon.errors import ConfigError, NumericalError
from recon.priors.base import per_item
from recon.priors.edm import preconditioned
from recon.priors.networks.unet import UNet, UNetConfig
from recon.training.config import TrainConfig
from recon.training.sources import CropSource

PAUSE = 60.0  # seconds: a longer step is a stopped process, not work


@dataclass
class TrainState:
    """All that a training carries from step to step."""

    network: UNet
    optimiser: torch.optim.Optimizer
    emas: list[dict[str, Tensor]]
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def unet_config(config: TrainConfig) -> UNetConfig:
    """Return the network configuration of a training."""
    return UNetConfig(**config.network.model_dump())


def new_state(config: TrainConfig) -> TrainState:
    """Return a fresh state, seeded by `config.seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = UNet(unet_config(config))
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    opt = config.optimiser
    optimiser = torch.optim.AdamW(network.parameters(), lr=opt.lr, betas=opt.betas, weight_decay=opt.weight_decay)
    return TrainState(network, optimiser, [_copy(network) for _ in config.ema])


def train(
    config: TrainConfig,
    state: TrainState,
    crop: CropSource,
    until: int,
    max_seconds: float | None = None,
    on_log: Callable[[dict[str, float]], None] | None = None,
) -> Iterator[TrainState]:
    """Train in place up to step `until` or for `max_seconds`; yield whenever a checkpoint is due and at the end.

    until: the learning rate falls to 0 over the `cooldown` steps before it.
    crop: rng -> (C, Y, X) float32. Data and noise of a step depend on (seed, step) alone, so a resumed training
    goes on with the crops that it would have seen. Raises NumericalError if the loss is not finite.
    """
    start, last_save, last_log = time.monotonic(), time.monotonic(), time.monotonic()
    losses: list[float] = []
    last_step = start
    while state.step < until and (max_seconds is None or time.monotonic() - start < max_seconds):
        losses.append(_step(config, state, crop, until))
        state.seconds += min(time.monotonic() - last_step, PAUSE)
        last_step = time.monotonic()
        if state.step % config.log_every == 0:
            now = time.monotonic()
            row = {
                "step": state.step,
                "loss": float(np.mean(losses)),
                "crops_per_second": config.log_every * config.batch / max(now - last_log, 1e-9),
                "hours": state.seconds / 3600,
            }
            losses, last_log = [], now
            state.history.append(row)
            if on_log:
                on_log(row)
        if time.monotonic() - last_save > config.checkpoint_seconds:
            last_save = time.monotonic()
            yield state
    yield state


def _step(config: TrainConfig, state: TrainState, crop: CropSource, until: int) -> float:
    rng = np.random.default_rng([config.seed, state.step])
    x0 = torch.from_numpy(np.stack([crop(rng) for _ in range(config.batch)])).contiguous(
        memory_format=torch.channels_last
    )
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    sigma = (config.log_sigma_mean + config.log_sigma_std * torch.randn(config.batch, generator=generator)).exp()
    sigma = sigma.clamp(config.sigma_min, config.sigma_max)
    noisy = x0 + per_item(sigma, x0) * torch.randn(x0.shape, generator=generator)
    weight = (sigma**2 + config.sigma_data**2) / (sigma * config.sigma_data) ** 2
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(config, state.step, until)
    error = preconditioned(state.network, noisy, sigma, config.sigma_data) - x0
    loss = (per_item(weight, x0) * error**2).mean()
    if not torch.isfinite(loss):
        raise NumericalError(f"training loss is not finite at step {state.step}", "lower optimiser.lr and resume")
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), config.optimiser.clip)
    state.optimiser.step()
    state.step += 1
    for decay, ema in zip(config.ema, state.emas, strict=True):
        # the warm-up keeps an early average from remembering the initial weights
        d = min(decay, (1 + state.step) / (10 + state.step))
        for key, value in state.network.state_dict().items():
            ema[key].lerp_(value, 1 - d)
    return float(loss.detach())


def learning_rate(config: TrainConfig, step: int, until: int) -> float:
    """Return the learning rate of a step of a training that ends before step `until`.

    lr min(1, (step + 1)/warmup) / sqrt(max(step/decay_after, 1)) * min(1, (until - step)/cooldown)
    """
    opt = config.optimiser
    rate = opt.lr * min(1.0, (step + 1) / opt.warmup) / max(step / opt.decay_after, 1.0) ** 0.5
    return rate * min(1.0, (until - step) / config.cooldown) if config.cooldown else rate


def _copy(network: UNet) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in network.state_dict().items()}


def save_state(folder: Path, config: TrainConfig, state: TrainState) -> None:
    """Write the state to `folder`/state.safetensors and state.json, each replaced atomically."""
    tensors: dict[str, Tensor] = {f"net.{k}": v for k, v in state.network.state_dict().items()}
    for i, ema in enumerate(state.emas):
        tensors |= {f"ema{i}.{k}": v for k, v in ema.items()}
    for index, slots in state.optimiser.state_dict()["state"].items():
        tensors |= {f"opt.{index}.{k}": torch.as_tensor(v) for k, v in slots.items()}
    meta: dict[str, Any] = {"config": config.model_dump(mode="json"), "step": state.step, "seconds": state.seconds}
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"state.tmp-{os.getpid()}"
    save_file(
        {k: v.contiguous() for k, v in tensors.items()},
        temporary,
        metadata={"meta": json.dumps(meta), "history": json.dumps(state.history)},
    )
    os.replace(temporary, folder / "state.safetensors")


def _differences(config: TrainConfig, stored: dict[str, Any]) -> list[str]:
    """Return the keys in which a stored configuration differs; what it does not have counts as the default."""
    ours = config.model_dump(mode="json")
    try:
        theirs = TrainConfig.model_validate(stored).model_dump(mode="json")
    except ValidationError as err:
        return sorted({str(part["loc"][0]) for part in err.errors()})
    free = ("steps", "cooldown", "checkpoint_seconds", "log_every")
    return [k for k in ours if k not in free and ours[k] != theirs[k]]


def load_state(folder: Path, config: TrainConfig) -> TrainState:
    """Read a state written by `save_state`.

    Raises ConfigError if it belongs to another network or configuration (steps and cooldown may differ).
    """
    from safetensors import safe_open

    path = folder / "state.safetensors"
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    meta = json.loads(header["meta"])
    changed = _differences(config, meta["config"])
    if changed:
        raise ConfigError(
            f"the training in {folder.name} was started with another {', '.join(changed)}",
            "restore the configuration, or start in a new folder",
        )
    state = new_state(config)
    tensors = load_file(path)
    state.network.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})
    for i in range(len(state.emas)):
        prefix = f"ema{i}."
        state.emas[i] = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("opt."):
            _, index, name = key.split(".", 2)
            slots.setdefault(int(index), {})[name] = value
    full = state.optimiser.state_dict()
    state.optimiser.load_state_dict({"state": slots, "param_groups": full["param_groups"]})
    state.step, state.seconds, state.history = meta["step"], meta["seconds"], json.loads(header["history"])
    return state
