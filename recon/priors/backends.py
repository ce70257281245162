"""What evaluates a prior's network: torch as it is, torch compiled, or ONNX Runtime on the CPU.

    eager         gradients, every device
    compile       torch.compile with frozen weights: gradients, every device; needs a C++ compiler and half a minute
    onnxruntime   no gradients, CPU alone; needs the optional packages and a second or more (`onnx_network.py`)

All agree to 1e-4 of the output's largest value; their bits differ.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, final

import torch
from torch import Tensor, nn

from recon.errors import ConfigError, ResourceError
from recon.priors.base import Denoiser
from recon.priors.preconditioned import PreconditionedDenoiser
from recon.priors.wrapper import innermost, network_of, with_network

BACKENDS = ("eager", "compile", "onnxruntime")
ONNX_PACKAGES = ("onnx", "onnxruntime")


def missing_packages(backend: str) -> list[str]:
    """Return the packages that a backend needs and this installation lacks, without importing them."""
    return [name for name in ONNX_PACKAGES if find_spec(name) is None] if backend == "onnxruntime" else []


def with_backend(prior: Denoiser, backend: str, threads: int) -> Denoiser:
    """Return the prior, wrappers and all, with its network evaluated by a backend of `BACKENDS`; `prior` is unchanged.

    threads: of the CPU, for ONNX Runtime, which has its own.
    Raises ResourceError where packages or a compiler are missing, or ONNX Runtime's answers are not the network's;
    ConfigError for unknown backends and priors without a network.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"unknown backend '{backend}'", f"choose from: {', '.join(BACKENDS)}")
    if backend == "eager":
        return prior
    network = network_of(prior)
    if backend == "compile":
        return with_network(prior, CompiledNetwork(network))
    missing = missing_packages(backend)
    if missing:
        raise ResourceError(
            f"backend 'onnxruntime' needs {', '.join(missing)}",
            "pip install 'diffusion-recon[onnx]', or set run.backend=eager",
        )
    from recon.priors.onnx_network import OnnxNetwork

    base = innermost(prior)
    labels = base.labels if isinstance(base, PreconditionedDenoiser) else 0
    return with_network(prior, OnnxNetwork(network, base.info.channels, base.info.multiple, labels, threads))


@final
class WarmBackends:
    """`with_backend` for many runs with the same priors: a network is exported or compiled for the first alone."""

    def __init__(self) -> None:
        self._made: dict[tuple[nn.Module, str, int], nn.Module] = {}

    def __call__(self, prior: Denoiser, backend: str, threads: int) -> Denoiser:
        if backend == "eager":
            return with_backend(prior, backend, threads)
        key = (network_of(prior), backend, threads)
        if key not in self._made:
            self._made[key] = network_of(with_backend(prior, backend, threads))
        return with_network(prior, self._made[key])


@final
class CompiledNetwork(nn.Module):
    """A network compiled by torch at its first call of each kind of input. Raises ResourceError where that fails."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.config: Any = network.config
        self._compiled = torch.compile(network, options={"freezing": True})

    def forward(self, x: Tensor, c: Tensor, *labels: Tensor) -> Tensor:
        from torch._dynamo.exc import TorchDynamoException
        from torch._inductor.exc import InductorError

        try:
            found: Tensor = self._compiled(x, c, *labels)
        except (TorchDynamoException, InductorError) as err:
            reason = (str(err) or type(err).__name__).splitlines()[0][:160]
            raise ResourceError(f"torch.compile failed: {reason}", "set run.backend=eager") from err
        return found
