"""Which backend evaluates the network of a run."""

from __future__ import annotations

import torch

from recon.config.schema import RunSection
from recon.errors import ConfigError, ResourceError
from recon.priors.backends import missing_packages
from recon.priors.base import Denoiser
from recon.priors.networks.unet import UNet
from recon.priors.wrapper import innermost
from recon.samplers.base import Method

# evaluations from which ONNX Runtime makes up for its export, a second, by what it gains in each: 10 to 20 ms
WORTH_EXPORTING = 200


def choose_backend(
    run: RunSection, name: str, method: Method, prior: Denoiser | None, device: torch.device, evaluations: int
) -> str:
    """Return "eager", "compile" or "onnxruntime" for a run of so many network evaluations.

    run: its `backend` is that, or "auto": ONNX Runtime on a CPU where it is installed, the method does not
    differentiate the prior, the network is of the kind that it was measured to win on (`benchmarks/network.py`), and
    the run is long enough to make up for the export; else eager.  name: of the method, for the error.
    Raises ConfigError for a backend that cannot serve the method or the device, ResourceError for one that is missing.
    """
    if prior is None:
        return "eager"
    wanted = run.backend
    if wanted == "compile" and method.trains_prior:
        raise ConfigError(
            f"method '{name}' trains a copy of the network, which backend 'compile' freezes",
            "set run.backend=eager, or auto",
        )
    missing = missing_packages("onnxruntime")
    if wanted == "auto":
        suits = device.type == "cpu" and not method.differentiates_prior and not missing
        wins = isinstance(getattr(innermost(prior), "network", None), UNet) and evaluations >= WORTH_EXPORTING
        return "onnxruntime" if suits and wins else "eager"
    if wanted == "onnxruntime":
        if method.differentiates_prior:
            raise ConfigError(
                f"method '{name}' differentiates the prior, which backend 'onnxruntime' cannot",
                "set run.backend=eager, or auto",
            )
        if device.type != "cpu":
            raise ConfigError(f"backend 'onnxruntime' is for the CPU, not {device}", "set run.backend=eager, or auto")
        if missing:
            raise ResourceError(
                f"backend 'onnxruntime' needs {', '.join(missing)}", "pip install 'diffusion-recon[onnx]'"
            )
    return wanted
