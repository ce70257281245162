"""A prior whose network has low-rank adapters beside its layers (`adapters.py`), as a Denoiser of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor, nn

from recon.errors import ConfigError
from recon.priors.adapters import Adapted, AdapterSettings, Places, adapt, chosen_places, replace_module, shared_copy
from recon.priors.base import Denoiser, Prediction
from recon.priors.wrapper import network_of, with_network


@final
class LoRA(Denoiser):
    """A prior with adapters; like `base`, which is not changed, until they are trained.

    base: a prior with a network, also inside wrappers.  generator: of the first `down`, on the CPU.  places: where
    adapters are, in place of what the settings' patterns choose.
    Raises ConfigError where there is nothing to adapt.
    """

    def __init__(
        self, base: Denoiser, settings: AdapterSettings, generator: torch.Generator, places: Places | None = None
    ) -> None:
        network = network_of(base)
        places = chosen_places(network, settings) if places is None else places
        if not places.layers:
            raise ConfigError(f"prior '{base.info.name}' has no layer whose name contains '{settings.layers}'")
        network = adapt(network, places, settings, generator)
        self.base, self.settings, self._adapted = base, settings, with_network(base, network)
        self.info = base.info

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
        # copies of what is trained, so that freezing the merged network does not freeze it here
        network = shared_copy(self.network, but=tuple(self.parameters()))
        for name, module in list(network.named_modules()):
            if isinstance(module, Adapted):
                replace_module(network, name, module.merged())
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
        network = shared_copy(self.network, but=() if share else tuple(self.parameters()))
        for module in network.modules():
            if isinstance(module, Adapted):
                module.noise = None
        changed._adapted = with_network(self._adapted, network)
        return changed
