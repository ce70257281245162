"""The network that a checkpoint's tensors are to fill: built without memory, compared, and filled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from recon.errors import ConfigError
from recon.priors.published.limits import SLACK_BYTES, printable, refused

Network = TypeVar("Network", bound=nn.Module)

HINT = "the file is incomplete, or a variant of the architecture that is not known here"


def filled(make: Callable[[], Network], weights: Mapping[str, Tensor], name: str) -> Network:
    """Return the network that `make` describes with the tensors `weights`, in float32 on the CPU, ready to evaluate.

    name: of the file, for errors. Nothing is initialised, so no random number is drawn.
    Raises ConfigError if it cannot be built, or naming the first tensor that is missing, too many or of another shape;
    InputError where the tensors, being views of the same few bytes, would take far more memory than the file.
    """
    network = empty(make, name)
    expected = network.state_dict()
    check_shapes({key: tuple(value.shape) for key, value in expected.items()}, weights, name)
    check_shared(weights)
    # copies: memory of its own and aligned, so that results are the same bits from whichever file the tensors came
    copies = {key: weights[key].detach().to(torch.float32, copy=True).contiguous() for key in expected}
    network.load_state_dict(copies, assign=True)
    return network.eval().requires_grad_(False)


def empty(make: Callable[[], Network], name: str) -> Network:
    """Return the network that `make` describes, without memory for its tensors. Raises ConfigError if there is none."""
    try:
        with torch.device("meta"):
            return make()
    except (ValueError, RuntimeError, TypeError, ZeroDivisionError, OverflowError) as err:
        reason = printable((str(err) or type(err).__name__).splitlines()[0])
        raise ConfigError(f"{name} describes a network that cannot be built: {reason}", HINT) from err


def check_shapes(expected: Mapping[str, tuple[int, ...]], weights: Mapping[str, Tensor], name: str) -> None:
    """Raise ConfigError naming the first key that `weights` lacks, has in another shape, or has beyond `expected`."""
    for key, shape in expected.items():
        if key not in weights:
            raise ConfigError(f"{name} has no tensor {key}, expected with shape {shape}", HINT)
        if tuple(weights[key].shape) != shape:
            found = tuple(weights[key].shape)
            raise ConfigError(f"{name}: tensor {key} has shape {found}, expected {shape}", HINT)
    for key in weights:
        if key not in expected:
            raise ConfigError(f"{name} has a tensor {printable(key)} that the network does not have", HINT)


def check_shared(weights: Mapping[str, Tensor]) -> None:
    """Raise InputError where tensors take more than eight times the memory of the storages that they are views of."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in weights.values()}
    if sum(t.numel() * t.element_size() for t in weights.values()) > 8 * sum(storages.values()) + SLACK_BYTES:
        raise refused("tensors larger than the file")
