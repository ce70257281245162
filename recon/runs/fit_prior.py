"""The prior that a configuration asks for, fitted to the images of an operator: class, symmetry, tiles, channels."""

from __future__ import annotations

import torch

from recon.config.schema import PriorSection
from recon.errors import ConfigError
from recon.operators.base import Operator
from recon.priors.base import Denoiser
from recon.priors.channels import fit_channels
from recon.priors.guided import Guided
from recon.priors.slices import Slices
from recon.priors.symmetric import Symmetric
from recon.priors.tiled import Tiled
from recon.samplers.base import Method

# tiles that are evaluated together
GPU_TILES = 8


def fit_prior(
    prior: Denoiser, section: PriorSection, operator: Operator, method: Method, device: torch.device
) -> tuple[Denoiser, list[str]]:
    """Return the prior for the operator's images, and what was done for it in lines for the user.

    Raises ConfigError where a class is missing or not taken, where the method has no form of the guidance, and where
    the images do not fit.
    """
    name, notices = prior.info.name, []
    prior = _with_class(prior, section, method)
    symmetry = prior.info.symmetry if section.symmetry == "own" else section.symmetry
    if symmetry != "none":
        prior = Symmetric(prior, symmetry, section.symmetry_calls)
    if section.tile:
        prior = Tiled(prior, section.tile, section.overlap, batch=1 if device.type == "cpu" else GPU_TILES)
        if max(operator.in_shape[-2:]) > prior.size:
            notices.append(f"prior '{name}' sees tiles of {prior.size} pixels that overlap by {section.overlap}")
    prior, notice = fit_channels(prior, operator.in_shape[0], operator.in_dtype.is_complex, section.split)
    check_prior(prior, operator)
    if method.joint or len(operator.in_shape) == 4:
        prior = Slices(prior)
    return prior, notices if notice is None else [*notices, notice]


def check_prior(prior: Denoiser, operator: Operator) -> None:
    """Raise ConfigError if the prior cannot denoise the operator's images."""
    name, channels, is_complex = prior.info.name, operator.in_shape[0], operator.in_dtype.is_complex
    if is_complex and not prior.info.complex_channels:
        raise ConfigError(
            f"prior '{name}' is for real images, but the operator's images are complex",
            "set operator.complex_image = false if the image is real, prior.split = true to denoise real and imaginary "
            "part by themselves, or use a classical method (--method tv)",
        )
    if prior.info.complex_channels and not is_complex and channels != prior.info.channels:
        raise ConfigError(
            f"prior '{name}' is for complex images, but the operator's images are real",
            "set operator.complex_image = true if it has that parameter, or choose another prior (recon priors list)",
        )
    if prior.info.channels == 1 and channels > 1:
        raise ConfigError(
            f"prior '{name}' expects 1 channel(s), got {channels}",
            "choose another prior (recon priors list), set prior.split = true to denoise each channel by itself, or "
            "take one: recon convert IN OUT --channel grey",
        )
    prior.check_shape((channels, *operator.in_shape[-2:]))


def _with_class(prior: Denoiser, section: PriorSection, method: Method) -> Denoiser:
    """Return the prior at the configuration's class, guided as it says."""
    if section.label is None:
        if section.guidance is not None or section.null_label is not None or section.guidance_mode != "cfg":
            raise ConfigError("prior.guidance, null_label and guidance_mode need a class", "set prior.label = INDEX")
        if getattr(prior, "needs_class", False):
            raise ConfigError(
                f"prior '{prior.info.name}' needs one of its classes, 0 to {getattr(prior, 'labels', 1) - 1}",
                "give it: --set prior.label=INDEX",
            )
        return prior
    if section.guidance_mode == "cfg++" and not method.cfg_plus_plus:
        raise ConfigError("the method has no CFG++ form", "use dds, ddrm or ddnm, or prior.guidance_mode = 'cfg'")
    return Guided(prior, section.label, section.guidance, section.guidance_mode, section.null_label)
