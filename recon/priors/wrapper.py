"""Priors made of another prior: what all wrappers share, and the way to the network inside."""

from __future__ import annotations

import copy
from abc import abstractmethod

import torch
from torch import nn

from recon.errors import ConfigError
from recon.priors.base import Denoiser


class Wrapper(Denoiser):
    """Abstract denoiser that evaluates another one, `inner`."""

    inner: Denoiser

    @abstractmethod
    def around(self, inner: Denoiser) -> Denoiser:
        """Return the same wrapper around another denoiser."""

    def to(self, device: str | torch.device) -> Denoiser:
        return self.around(self.inner.to(device))


def innermost(prior: Denoiser) -> Denoiser:
    """Return the prior that no wrapper is around."""
    while isinstance(prior, Wrapper):
        prior = prior.inner
    return prior


def network_of(prior: Denoiser) -> nn.Module:
    """Return the network inside a prior and its wrappers. Raises ConfigError where there is none."""
    network = getattr(innermost(prior), "network", None)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"prior '{prior.info.name}' has no network", "choose a prior that was trained")
    return network


def with_network(prior: Denoiser, network: nn.Module) -> Denoiser:
    """Return the prior, wrappers and all, with another network of the same kind; `prior` is not changed."""
    if isinstance(prior, Wrapper):
        return prior.around(with_network(prior.inner, network))
    changed = copy.copy(prior)
    changed.network = network  # type: ignore[attr-defined]
    return changed
