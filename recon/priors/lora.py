"""Low-rank adapters beside the layers of a prior's network, to fit it to other data without changing it.

    layer(x) + scale drop(up(down(x))),     down: the layer's own kernel to r channels,  up: 1x1 back to its channels

down has standard deviation 1/r, up is 0: at first the adapted prior is the prior. Trainable are down and up of every
adapted layer and, where asked for, copies of the biases; the base's tensors are shared, frozen and never written.

Source: Hu et al. 2022 (LoRA); for convolutions and the defaults, the code of Chung and Ye 2024 (DDIP). Departures: any
of our networks, not only guided diffusion's blocks; a rank above a layer's channels is lowered to them; dropout draws
from a generator of its own and only where one is given.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from recon.errors import ConfigError, InputError
from recon.priors.base import Denoiser, Prediction
from recon.priors.store import read_metadata
from recon.priors.wrapper import network_of, with_network

FORMAT = "recon-adapters/1"
ADAPTED = (nn.Linear, nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class AdapterSettings:
    """Where adapters are, and of what kind.

    rank: r.  scale: of what they add.  dropout: share of what they add that is dropped, with a generator.
    layers: pattern that the adapted layers' names contain (a regular expression).  biases: whether biases are trained,
    too, but those of layers whose names contain `fixed`: the layers of the noise level, in all our networks.
    """

    rank: int = 4
    scale: float = 1.0
    dropout: float = 0.0
    layers: str = ""
    biases: bool = False
    fixed: str = r"emb_layers|affine|time_emb|embed|map_|Dense_0"

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 <= self.dropout < 1:
            raise ConfigError(f"adapters need a rank >= 1 and a dropout in [0, 1), got {self.rank} and {self.dropout}")
        try:
            re.compile(self.layers), re.compile(self.fixed)
        except re.error as err:
            raise ConfigError(f"adapters: {err.pattern!r} is no pattern of names: {err.msg}") from err


@final
class Adapted(nn.Module):
    """A layer with an adapter beside it."""

    def __init__(self, base: nn.Module, settings: AdapterSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.base, self.settings = base, settings
        self.noise: torch.Generator | None = None
        weight: Tensor = base.weight  # type: ignore[assignment]
        rank = min(settings.rank, weight.shape[0], weight.shape[1])
        down = torch.randn(rank, *weight.shape[1:], generator=generator) / settings.rank
        self.down = nn.Parameter(down.to(weight.device, weight.dtype))
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank))

    def forward(self, x: Tensor) -> Tensor:
        settings = self.settings
        inner = _apply(self.base, x, self.down)
        if isinstance(self.base, nn.Linear):
            added = F.linear(inner, self.up)
        else:
            added = torch.einsum("or,br...->bo...", self.up, inner)
        if self.noise is not None and settings.dropout:
            kept = torch.rand(added.shape, generator=self.noise) >= settings.dropout
            added = added * kept.to(added.device) / (1 - settings.dropout)
        return self.base(x) + settings.scale * added

    def merged(self) -> nn.Module:
        """Return the layer with the adapter inside its weight."""
        layer = copy.copy(self.base)
        layer._parameters = dict(self.base._parameters)
        weight: Tensor = self.base.weight.detach().clone()  # type: ignore[operator]
        weight += self.settings.scale * torch.einsum("or,r...->o...", self.up, self.down).detach()
        layer.weight = nn.Parameter(weight, requires_grad=False)
        return layer


@final
class LoRA(Denoiser):
    """A prior with adapters; like `base`, which is not changed, until they are trained.

    base: a prior with a network, also inside wrappers.  generator: of the first `down`, on the CPU.
    """

    def __init__(self, base: Denoiser, settings: AdapterSettings, generator: torch.Generator) -> None:
        network = _shared_copy(network_of(base))
        _adapt(network, settings, generator)
        self.base, self.settings, self._adapted = base, settings, with_network(base, network)
        self.info = base.info
        if not any(isinstance(module, Adapted) for module in network.modules()):
            raise ConfigError(f"prior '{base.info.name}' has no layer whose name contains '{settings.layers}'")

    @property
    def network(self) -> nn.Module:
        """The network with its adapters."""
        return network_of(self._adapted)

    def _denoise(self, x: Tensor, sigma: Tensor, cond: Tensor | None) -> Prediction:
        return self._adapted(x, sigma, cond)

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained, in a fixed order; optimise these in place."""
        return [parameter for _, parameter in self._trained()]

    def state(self) -> dict[str, Tensor]:
        """Return copies of what is trained, by name."""
        return {name: parameter.detach().clone() for name, parameter in self._trained()}

    def with_state(self, state: dict[str, Tensor]) -> LoRA:
        """Return the prior with other values of what is trained. Raises ConfigError where they do not fit."""
        changed = self._copy()
        own = dict(changed._trained())
        shapes = [{name: tuple(value.shape) for name, value in values.items()} for values in (own, state)]
        if shapes[0] != shapes[1]:
            odd = sorted({name for name, _ in set(shapes[0].items()) ^ set(shapes[1].items())})
            raise ConfigError(f"adapters do not fit prior '{self.info.name}': {odd[0]}, and {len(odd) - 1} more")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])
        return changed

    def with_dropout(self, generator: torch.Generator | None) -> LoRA:
        """Return the prior with the same trained tensors, and dropout by this generator (on the CPU); None: without."""
        changed = self._copy(share=True)
        for module in changed.network.modules():
            if isinstance(module, Adapted):
                module.noise = generator
        return changed

    def merged(self) -> Denoiser:
        """Return the prior with its adapters inside the weights: as fast as `base`, equal up to rounding."""
        network = _shared_copy(self.network)
        for name, module in list(network.named_modules()):
            if isinstance(module, Adapted):
                _replace(network, name, module.merged())
        return with_network(self.base, network.requires_grad_(False))

    def to(self, device: str | torch.device) -> LoRA:
        moved = self._copy()
        moved._adapted, moved.base = moved._adapted.to(device), self.base.to(device)
        return moved

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.network.named_parameters() if p.requires_grad)

    def _copy(self, share: bool = False) -> LoRA:
        """Return the prior with copies of what is trained, or with the same."""
        changed = copy.copy(self)
        network = _shared_copy(self.network, but=() if share else tuple(self.parameters()))
        for module in network.modules():
            if isinstance(module, Adapted):
                module.noise = None
        changed._adapted = with_network(self._adapted, network)
        return changed


def dump_adapters(prior: LoRA) -> bytes:
    """Return the content of a safetensors file of what is trained, with the settings inside."""
    facts = {"settings": asdict(prior.settings), "prior": prior.info.name}
    tensors = {name: value.cpu().contiguous() for name, value in prior.state().items()}
    return save(tensors, metadata={"format": FORMAT, "config": json.dumps(facts)})


def load_adapters(path: Path, base: Denoiser) -> LoRA:
    """Return the prior `base` with the adapters of a file.

    Raises InputError for an unreadable file, ConfigError for adapters of another network.
    """
    meta = read_metadata(path)
    try:
        if meta.get("format") != FORMAT:
            raise ValueError(f"its format is {meta.get('format')}, not {FORMAT}")
        settings = AdapterSettings(**json.loads(meta["config"])["settings"])
        state = load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as err:
        raise InputError(f"{path.name} holds no adapters: {err}", "give a file of trained adapters") from err
    return LoRA(base, settings, torch.Generator().manual_seed(0)).with_state(state)


def _adapt(network: nn.Module, settings: AdapterSettings, generator: torch.Generator) -> None:
    """Put adapters into a network of our own copy, and copies of the biases where they are trained."""
    for name, module in list(network.named_modules()):
        bias = getattr(module, "bias", None)
        if settings.biases and isinstance(bias, nn.Parameter) and not re.search(settings.fixed, name):
            module.bias = nn.Parameter(bias.detach().clone())
        if isinstance(module, ADAPTED) and getattr(module, "groups", 1) == 1 and re.search(settings.layers, name):
            _replace(network, name, Adapted(module, settings, generator))


def _apply(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """Return what a linear layer or convolution gives with another weight and no bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    return layer._conv_forward(x, weight, None)


def _shared_copy(network: nn.Module, but: tuple[Tensor, ...] = ()) -> nn.Module:
    """Return modules of their own with the same tensors, except for copies of some."""
    generators = [module.noise for module in network.modules() if isinstance(module, Adapted)]
    kept = {id(thing): thing for thing in (*network.parameters(), *network.buffers(), *generators)}
    for tensor in but:
        del kept[id(tensor)]
    return copy.deepcopy(network, kept)


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module)
