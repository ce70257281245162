"""FFDNet and DRUNet files of KAIR and DPIR: plain state dicts of Gaussian denoisers, for plug-and-play use.

The network takes an image in [0, 1] and a map of its noise level, and gives the denoised image: D(x, sigma) itself.
FFDNet was trained for levels up to 75/255, DRUNet up to 50/255; higher ones are evaluated there on the image scaled
towards mid-grey (see `preconditioned.py`). The architecture is inferred from names and shapes. DnCNN and IRCNN, which
have the same names but no map of the level, are not of this family.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from recon.errors import ConfigError
from recon.priors.base import PriorInfo
from recon.priors.networks.drunet import DRUNet, DRUNetConfig
from recon.priors.networks.ffdnet import UNSHUFFLE, FFDNet, FFDNetConfig
from recon.priors.preconditioned import PreconditionedDenoiser
from recon.priors.preconditioning import Direct
from recon.priors.published.limits import refused
from recon.priors.published.states import find_state
from recon.priors.published.weights import HINT, filled

FFDNET = ("model.0.weight", "model.2.weight")
DRUNET = ("m_head.weight", "m_body.0.res.0.weight", "m_tail.weight")
MAX_LAYERS = 1000
# highest noise level of the authors' trainings, for images in [0, 1]
LEVELS = {"FFDNet": 75 / 255, "DRUNet": 50 / 255}

_LAYER = re.compile(r"model\.(\d{1,6})\.weight")
_LEVEL = re.compile(r"m_down(\d{1,6})\.0\.res\.0\.weight")
_BLOCK = re.compile(r"m_body\.(\d{1,6})\.res\.0\.weight")


@dataclass(frozen=True)
class _Found:
    """The network's tensors and architecture."""

    tensors: dict[str, Tensor]
    config: FFDNetConfig | DRUNetConfig

    @property
    def architecture(self) -> str:
        return "FFDNet" if isinstance(self.config, FFDNetConfig) else "DRUNet"


def matches(content: Any) -> bool:
    """Tell whether a checkpoint is of this family."""
    return find_state(content, DRUNET) is not None or _ffdnet(content) is not None


def describe(content: Any) -> dict[str, Any]:
    """Return JSON-able facts about the checkpoint's network."""
    found = _find(content, "the checkpoint")
    return _facts(found) | asdict(found.config)


def load(content: Any, name: str) -> PreconditionedDenoiser:
    """Return the denoiser, in float32 on the CPU.

    name: of the prior. Raises ConfigError where the tensors do not fit the network that they describe.
    """
    found = _find(content, name)
    config = found.config
    network: FFDNet | DRUNet
    if isinstance(config, FFDNetConfig):
        network = filled(lambda: FFDNet(config), found.tensors, name)
    else:
        network = filled(lambda: DRUNet(config), found.tensors, name)
    info = PriorInfo(
        name,
        config.in_channels,
        multiple=config.multiple,
        sigma_min=0.0,
        sigma_max=LEVELS[found.architecture],
        value_range=(0.0, 1.0),
        provenance={"family": "denoiser", **_facts(found)},
    )
    return PreconditionedDenoiser(network, info, Direct.kind)


def _facts(found: _Found) -> dict[str, Any]:
    levels = f"0 to {round(255 * LEVELS[found.architecture])}/255, as its authors trained it (the file does not say)"
    return {"architecture": found.architecture, "preconditioning": Direct.kind, "noise_levels": levels}


def _ffdnet(content: Any) -> dict[str, Tensor] | None:
    """Return the tensors of an FFDNet: its first layer takes a pixel-unshuffled image and one channel more."""
    state = find_state(content, FFDNET)
    if state is None:
        return None
    first = tuple(state.tensors[FFDNET[0]].shape)
    return state.tensors if len(first) == 4 and first[1] > 1 and first[1] % UNSHUFFLE**2 == 1 else None


def _find(content: Any, name: str) -> _Found:
    state = find_state(content, DRUNET)
    if state is not None:
        return _Found(state.tensors, _infer_drunet(state.tensors, name))
    tensors = _ffdnet(content)
    if tensors is None:
        raise ConfigError(f"{name} is no FFDNet or DRUNet checkpoint")
    width, outer = tensors[FFDNET[0]].shape[:2]
    return _Found(tensors, FFDNetConfig(int(outer) // UNSHUFFLE**2, int(width), _count(tensors, _LAYER)))


def _infer_drunet(tensors: dict[str, Tensor], name: str) -> DRUNetConfig:
    levels = _count(tensors, _LEVEL)
    widths = [_width(tensors, f"m_down{level + 1}.0.res.0.weight", name) for level in range(levels)]
    return DRUNetConfig(
        in_channels=_width(tensors, "m_tail.weight", name),
        widths=(*widths, _width(tensors, "m_body.0.res.0.weight", name)),
        blocks=_count(tensors, _BLOCK),
        bias="m_head.bias" in tensors,
    )


def _count(tensors: dict[str, Tensor], pattern: re.Pattern[str]) -> int:
    """Return how many layers or levels the names tell. Raises InputError for more than a network can have."""
    found = [int(match[1]) for match in map(pattern.fullmatch, tensors) if match]
    if max(found, default=0) > 2 * MAX_LAYERS:
        raise refused(f"more than {MAX_LAYERS} layers")
    return len(found)


def _width(tensors: dict[str, Tensor], key: str, name: str) -> int:
    """Return the channels that a convolution gives. Raises ConfigError if it is missing or of another kind."""
    shape = tuple(tensors[key].shape) if key in tensors else ()
    if len(shape) != 4:
        raise ConfigError(f"{name}: expected a tensor {key} of 4 dimensions, got {shape or 'none'}", HINT)
    return int(shape[0])
