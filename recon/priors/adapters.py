"""Low-rank adapters beside the layers of a network, to fit it to other data without changing it.

    layer(x) + scale drop(up(down(x))),     down: the layer's own kernel to r channels,  up: 1x1 back to its channels

down has standard deviation 1/r, up is 0: at first the adapted network is the network. Trainable are down and up of
every adapted layer and, where asked for, copies of the biases; the base's tensors are shared, frozen and never written.

Source: Hu et al. 2022 (LoRA); for convolutions and the defaults, the code of Chung and Ye 2024 (DDIP). Departures: any
of our networks, not only guided diffusion's blocks; a rank above a layer's channels is lowered to them; dropout draws
from a generator of its own and only where one is given.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon.errors import ConfigError

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
        except (re.error, OverflowError, RecursionError) as err:
            raise ConfigError(f"adapters: layers and fixed are patterns of names: {err}") from err


@final
@dataclass(frozen=True)
class Places:
    """Where a network is trained: names of the layers that get adapters, and of those that get biases of their own."""

    layers: frozenset[str]
    biases: frozenset[str]


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


def chosen_places(network: nn.Module, settings: AdapterSettings) -> Places:
    """Return the layers and biases that the settings' patterns choose."""
    layers = {name for name in _layers(network) if re.search(settings.layers, name)}
    biases = {name for name in _biases(network) if settings.biases and not re.search(settings.fixed, name)}
    return Places(frozenset(layers), frozenset(biases))


def places_of(names: Iterable[str]) -> Places:
    """Return the layers and biases of trained tensors by their names."""
    names = set(names)
    layers = frozenset(name.removesuffix(".down") for name in names if name.endswith(".down"))
    biases = (name.removesuffix(".bias") for name in names if name.endswith(".bias"))
    # an adapted layer holds the one that it is beside as `base`
    inside = {f"{layer}.base": layer for layer in layers}
    return Places(layers, frozenset(inside.get(name, name) for name in biases))


def adapt(network: nn.Module, places: Places, settings: AdapterSettings, generator: torch.Generator) -> nn.Module:
    """Return the network with adapters, and with copies of the biases that are trained; all else is shared.

    Raises ConfigError for a place that the network does not have.
    """
    network = shared_copy(network)
    missing = sorted((places.layers - _layers(network)) | (places.biases - _biases(network)))
    if missing:
        raise ConfigError(f"the network has no layer '{missing[0][:80]}' that adapters fit")
    # in the order of the network, so that the generator's numbers do not depend on that of the names
    for name, module in list(network.named_modules()):
        if name in places.biases:
            module.bias = nn.Parameter(module.bias.detach().clone())
        if name in places.layers:
            replace_module(network, name, Adapted(module, settings, generator))
    return network


def shared_copy(network: nn.Module, but: tuple[Tensor, ...] = ()) -> nn.Module:
    """Return modules of their own with the same tensors, except for copies of some."""
    generators = [module.noise for module in network.modules() if isinstance(module, Adapted)]
    kept = {id(thing): thing for thing in (*network.parameters(), *network.buffers(), *generators)}
    for tensor in but:
        del kept[id(tensor)]
    return copy.deepcopy(network, kept)


def replace_module(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put another module at a name."""
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module)


def _layers(network: nn.Module) -> set[str]:
    modules = network.named_modules()
    return {n for n, module in modules if isinstance(module, ADAPTED) and getattr(module, "groups", 1) == 1}


def _biases(network: nn.Module) -> set[str]:
    return {n for n, module in network.named_modules() if isinstance(getattr(module, "bias", None), nn.Parameter)}


def _apply(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """Return what a linear layer or convolution gives with another weight and no bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    return layer._conv_forward(x, weight, None)
