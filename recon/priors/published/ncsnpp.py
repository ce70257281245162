"""score_sde checkpoints (.pth): NCSN++ score networks of the variance exploding SDE with continuous noise levels.

A file holds {optimizer, model, ema, step}. `model` is a state dict: `module.all_modules.{i}...` in the order of use,
and the table `module.sigmas`; `ema` holds a list, `shadow_params`, of averages of the trainable parameters in that
order: all of `model` but the Fourier frequencies and the table. The averages are used where they are there, as the
authors do. The architecture is inferred from the modules' kinds, order and shapes (`ncsnpp_shapes.py`); FIR taps
1, 3, 3, 1, division of sums by sqrt(2), division by sigma and images in [0, 1] are those of every published VE file.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from torch import Tensor

from recon.errors import ConfigError
from recon.priors.base import PriorInfo
from recon.priors.networks.ncsnpp import NCSNpp
from recon.priors.preconditioned import PreconditionedDenoiser
from recon.priors.published.ncsnpp_shapes import infer_ncsnpp
from recon.priors.published.states import find_state
from recon.priors.published.weights import HINT, filled

FREQUENCIES = "all_modules.0.W"
TABLE = "sigmas"
# of the published 256x256 checkpoints, for files without their table
SIGMA_RANGE = (0.01, 378.0)


def matches(content: Any) -> bool:
    """Tell whether a checkpoint is of this family."""
    return find_state(content, (FREQUENCIES,)) is not None


def describe(content: Any) -> dict[str, Any]:
    """Return JSON-able facts about the checkpoint's network."""
    tensors, _, averaged = _tensors(content, "the checkpoint")
    return _facts(content, averaged) | asdict(infer_ncsnpp(tensors, "the checkpoint"))


def load(content: Any, name: str) -> PreconditionedDenoiser:
    """Return the denoiser, in float32 on the CPU.

    name: of the prior. Raises ConfigError where the tensors do not fit the network that they describe.
    """
    tensors, table, averaged = _tensors(content, name)
    config = infer_ncsnpp(tensors, name)
    low, high = _span(table, name)
    info = PriorInfo(
        name,
        config.channels,
        multiple=config.multiple,
        sigma_min=low,
        sigma_max=high,
        value_range=(0.0, 1.0),
        complex_channels=config.channels == 2,
        provenance={"family": "score_sde", **_facts(content, averaged)},
    )
    return PreconditionedDenoiser(filled(lambda: NCSNpp(config), tensors, name), info, "score-ve")


def _facts(content: dict[str, Any], averaged: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"architecture": "NCSN++", "preconditioning": "score-ve", "averaged": averaged}
    return facts | ({"step": content["step"]} if isinstance(content.get("step"), int) else {})


def _tensors(content: Any, name: str) -> tuple[dict[str, Tensor], Tensor | None, bool]:
    """Return the network's tensors, the table of levels, and whether the tensors are the averages."""
    state = find_state(content, (FREQUENCIES,))
    if state is None:
        raise ConfigError(f"{name} is no score_sde checkpoint", "it needs 'model', whose names its averages lack")
    tensors = {key: value for key, value in state.tensors.items() if key != TABLE}
    table = state.tensors.get(TABLE)
    ema = content.get("ema")
    if ema is None:
        return tensors, table, False
    shadow = ema.get("shadow_params") if isinstance(ema, dict) else None
    if not isinstance(shadow, list | tuple) or not all(isinstance(value, Tensor) for value in shadow):
        raise ConfigError(f"{name}: 'ema' has no list 'shadow_params' of tensors")
    names = [key for key in tensors if key != FREQUENCIES]
    if len(shadow) != len(names):
        raise ConfigError(f"{name} has {len(shadow)} averaged tensors for {len(names)} trainable ones", HINT)
    for key, value in zip(names, shadow, strict=True):
        found, expected = tuple(value.shape), tuple(tensors[key].shape)
        if found != expected:
            raise ConfigError(f"{name}: the average of {key} has shape {found}, expected {expected}", HINT)
    return tensors | dict(zip(names, shadow, strict=True)), table, True


def _span(table: Tensor | None, name: str) -> tuple[float, float]:
    """Return (sigma_min, sigma_max) of the table of levels."""
    if table is None:
        return SIGMA_RANGE
    low, high = (float(table.double().min()), float(table.double().max())) if table.numel() else (0.0, 0.0)
    if not 0 < low < high < math.inf:
        raise ConfigError(f"{name}: the table {TABLE} of noise levels is damaged")
    return low, high
