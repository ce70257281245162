"""Guided-diffusion (ADM) checkpoints: plain state dicts, and those of InverseBench, DeepInverse and torchcfm.

The files hold tensors alone. The architecture is inferred from their names and shapes (`adm_shapes.py`); what no shape
says is taken from the authors' configurations: attention heads of 64 channels, the legacy order of qkv, linear betas.
A plain state dict has the discrete VP table of 1000 levels; names that start with `model.` are those of InverseBench,
whose time is continuous; a file with `net_model` and `ema_model` is torchcfm's: flow matching. Value range [-1, 1];
two channels are real and imaginary parts, with 0 at 0 and magnitude 1 at 1; the CT network of DDS works in the units of
its images, [0, 1].
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.priors.base import PriorInfo
from recon.priors.networks.adm import ADM, ADMConfig
from recon.priors.preconditioned import PreconditionedDenoiser
from recon.priors.preconditioning import VP, Flow, VPTable
from recon.priors.published.adm_shapes import infer_adm
from recon.priors.published.states import State, find_state
from recon.priors.published.weights import filled

MARKS = (
    "input_blocks.0.0.weight",
    "time_embed.0.weight",
    "middle_block.0.in_layers.0.weight",
    "output_blocks.0.0.in_layers.0.weight",
    "out.2.weight",
)
# buffers of DeepInverse's wrapper, beside the network
TABLES = ("sqrt_alphas_cumprod", "sqrt_1m_alphas_cumprod")
INVERSEBENCH = "model."
TORCHCFM = ("net_model", "ema_model")


@dataclass(frozen=True)
class _Found:
    """The network's tensors and architecture, its preconditioning, its range and what is known of the file."""

    tensors: dict[str, Tensor]
    config: ADMConfig
    levels: VP | VPTable | Flow
    value_range: tuple[float, float]
    known_as: str


def matches(content: Any) -> bool:
    """Tell whether a checkpoint is of this family."""
    return _state(content) is not None


def describe(content: Any) -> dict[str, Any]:
    """Return JSON-able facts about the checkpoint's network. Raises ConfigError where it is none that can be built."""
    found = _find(content, "the checkpoint")
    return _facts(found) | asdict(found.config)


def load(content: Any, name: str) -> PreconditionedDenoiser:
    """Return the denoiser, in float32 on the CPU.

    name: of the prior. Raises ConfigError where the tensors do not fit the network that they describe.
    """
    found = _find(content, name)
    config = found.config
    network = filled(lambda: ADM(config), found.tensors, name)
    sigma_min, sigma_max = found.levels.range
    info = PriorInfo(
        name,
        config.in_channels,
        multiple=config.multiple,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        value_range=found.value_range,
        complex_channels=config.in_channels == 2,
        provenance={"family": "adm", **_facts(found)},
    )
    return PreconditionedDenoiser(network, info, found.levels.kind, **asdict(found.levels))


def _facts(found: _Found) -> dict[str, Any]:
    if isinstance(found.levels, Flow):
        levels = "flow, time from noise to data"
    else:
        levels = "vp, continuous time" if isinstance(found.levels, VP) else f"vp, table of {found.levels.count} levels"
    facts: dict[str, Any] = {
        "architecture": "ADM (guided-diffusion UNet)",
        "preconditioning": levels,
        "learned_variance": found.config.out_channels == 2 * found.config.in_channels,
    }
    if found.known_as:
        return {**facts, "known_as": found.known_as}
    return {**facts, "assumed": "heads, head_channels, new_order and the schedule, which no shape tells"}


def _state(content: Any) -> State | None:
    found = find_state(content, MARKS)
    return None if found is None or any(".transformer_blocks." in key for key in found.tensors) else found


def _find(content: Any, name: str) -> _Found:
    state = _state(content)
    if state is None:
        raise ConfigError(f"{name} is no guided-diffusion checkpoint")
    tensors = {key: value for key, value in state.tensors.items() if key not in TABLES}
    config = infer_adm(tensors, name)
    if config.out_channels not in (config.in_channels, 2 * config.in_channels):
        raise ConfigError(
            f"{name}: a network from {config.in_channels} to {config.out_channels} channels is no denoiser",
            "give an image-to-image network, not a classifier or an up-sampler",
        )
    levels: VP | VPTable | Flow = VP() if state.prefix == INVERSEBENCH else VPTable()
    if all(key in content for key in TORCHCFM):
        levels = Flow(scale=1.0, to_data=True)
    complex_channels = config.in_channels == 2
    found = _Found(tensors, config, levels, (0.0, 1.0) if complex_channels else (-1.0, 1.0), "")
    _check_table(state.tensors, levels, name)
    return _recognised(found, name)


def _recognised(found: _Found, name: str) -> _Found:
    """Add what the authors' configurations say of the published networks that differ from the usual."""
    c = found.config
    shape = (c.in_channels, c.channels, c.blocks, tuple(width // c.channels for width in c.widths), c.labels)
    if shape == (3, 192, 3, (1, 2, 3, 4), 1000):
        config, cosine = replace(c, new_order=True), VPTable(schedule="cosine")
        return replace(found, config=config, levels=cosine, known_as="guided-diffusion, ImageNet 64")
    if shape == (3, 256, 2, (1, 1, 2, 3, 4), 1000):
        return replace(found, config=replace(c, heads=4), known_as="guided-diffusion, ImageNet 128")
    if shape[0] == 6 and c.labels == 1000:
        raise ConfigError(f"{name} is an up-sampler: it takes a second image", "give a network that takes one image")
    if shape == (1, 256, 1, (1, 1, 2, 2, 4, 4), 0):
        return replace(found, value_range=(0.0, 1.0), known_as="DDS, AAPM CT")
    return found


def _check_table(tensors: dict[str, Tensor], levels: VP | VPTable | Flow, name: str) -> None:
    """Raise ConfigError where a file has a table of levels that is not the one that will be used."""
    signal = tensors.get(TABLES[0])
    if signal is None or not isinstance(levels, VPTable):
        return
    expected = torch.from_numpy(levels.alpha_bars).sqrt().to(signal.dtype)
    if signal.shape != expected.shape or not torch.allclose(signal, expected, rtol=1e-3):
        raise ConfigError(f"{name} has a table of noise levels of its own, of {tuple(signal.shape)}")
