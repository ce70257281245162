"""Names of all methods, without importing torch, and the way from a name and settings to the method.

Each entry: name -> (module, class, one line).
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from recon.errors import ConfigError

if TYPE_CHECKING:
    from recon.operators.base import Operator
    from recon.samplers.base import Method

SAMPLERS: dict[str, tuple[str, str, str]] = {
    "dps": ("recon.samplers.dps", "DPS", "diffusion posterior sampling: gradient of the residual through the network"),
    "dds": ("recon.samplers.dds", "DDS", "decomposed diffusion sampling: conjugate gradients on the denoised image"),
    "dds-3d": ("recon.samplers.dds3d", "DDS3D", "DDS of a volume: slices denoised as images, coupled by TV along z"),
    "ddip": ("recon.samplers.ddip", "DDIP", "DDS of an image with a prior that is fitted to the data on the way"),
    "d3ip": ("recon.samplers.d3ip", "D3IP", "DDS-3D with a prior that is fitted to the data of some slices on the way"),
    "diffusion-mbir": (
        "recon.samplers.diffusion_mbir",
        "DiffusionMBIR",
        "predictor-corrector on slices, and the data with TV along z at each noise level",
    ),
    "tpdm": ("recon.samplers.tpdm", "TPDM", "two priors on perpendicular slices of a volume, in turn"),
    "ddrm": ("recon.samplers.ddrm", "DDRM", "denoising diffusion restoration: each singular direction by its noise"),
    "ddnm": ("recon.samplers.ddnm", "DDNM", "null-space model: the measured part of the denoised image is replaced"),
    "diffpir": ("recon.samplers.diffpir", "DiffPIR", "plug-and-play restoration: a proximal data step at each level"),
    "reddiff": ("recon.samplers.reddiff", "REDDiff", "regularisation by denoising: one image fitted by Adam"),
    "mmps": ("recon.samplers.mmps", "MMPS", "moment matching: the likelihood's score with Tweedie's covariance, by CG"),
    "pigdm": ("recon.samplers.pigdm", "PiGDM", "pseudo-inverse guidance: the weighted misfit through the network"),
    "lgd": ("recon.samplers.lgd", "LGD", "loss-guided diffusion: the loss averaged over Monte-Carlo images"),
    "mcg": ("recon.samplers.mcg", "MCG", "manifold constrained gradient and projection on the data, for exact data"),
    "daps": ("recon.samplers.daps", "DAPS", "decoupled annealing: a fresh draw of the image at each noise level"),
    "enkg": ("recon.samplers.enkg", "EnKG", "ensemble Kalman guidance of black-box models: no derivatives of A"),
    "dps-gsg": ("recon.samplers.gsg", "DPSGSG", "DPS for black boxes: the operator's gradient from random directions"),
    "tds": ("recon.samplers.tds", "TDS", "twisted particles with resampling: exact as their number grows"),
    "pnpdm": ("recon.samplers.pnpdm", "PnPDM", "plug-and-play split Gibbs: draws from the data and the prior in turn"),
}

BASELINES: dict[str, tuple[str, str, str]] = {
    "adjoint": ("recon.baselines.direct", "Adjoint", "A^H y, scaled to fit the data: zero-filled, backprojection"),
    "fbp": ("recon.baselines.direct", "PseudoInverse", "the operator's pseudo-inverse: filtered backprojection"),
    "cg": ("recon.baselines.least_squares", "ConjugateGradient", "least squares by conjugate gradients, stopped early"),
    "sirt": ("recon.baselines.sirt", "SIRT", "simultaneous iterative reconstruction, weighted by the rays' lengths"),
    "tikhonov": ("recon.baselines.least_squares", "Tikhonov", "least squares with a quadratic smoothness penalty"),
    "tv": ("recon.baselines.tv", "TotalVariation", "least squares with isotropic total variation, primal-dual"),
    "wavelet": ("recon.baselines.wavelet", "Wavelet", "least squares with an l1 penalty on wavelet coefficients"),
}

METHODS = SAMPLERS | BASELINES


def method_class(name: str) -> type[Method]:
    """Return the class of a method. Raises ConfigError, naming the nearest, if there is none."""
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, 1)
        raise ConfigError(
            f"unknown method '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""), "see: recon methods list"
        )
    module, cls, _ = METHODS[name]
    found: type[Method] = getattr(importlib.import_module(module), cls)
    return found


def make_method(name: str, params: dict[str, Any]) -> Method:
    """Return the method with these settings. Raises ConfigError on unknown settings and wrong types."""
    from pydantic import TypeAdapter, ValidationError

    cls = method_class(name)
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    for key in params:
        if key not in names:
            near = difflib.get_close_matches(key, names, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"it takes: {', '.join(names) or 'nothing'}"
            raise ConfigError(f"method '{name}' has no setting '{key}'", hint)
    try:
        made: Method = TypeAdapter(cls).validate_python(params)
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise ConfigError(f"method '{name}', setting {where}: {first['msg']}, got {first['input']!r}") from err
    return made


def missing_needs(cls: type[Method], operator: Operator) -> list[str]:
    """Return what the method needs and the operator does not offer."""
    from recon.operators.base import LinearOperator
    from recon.operators.slices import part_of

    offers: dict[str, Callable[[], bool]] = {
        "forward": lambda: True,
        "gradient": lambda: operator.differentiable,
        "linear": lambda: isinstance(operator, LinearOperator),
        "adjoint": lambda: isinstance(operator, LinearOperator),
        "pinv": lambda: isinstance(operator, LinearOperator) and operator.has_pinv(),
        "svd": lambda: isinstance(operator, LinearOperator) and operator.has_svd(),
        "slices": lambda: len(operator.in_shape) == 3 or part_of(operator, 0, 1) is not None,
    }
    return sorted(need for need in cls.needs if not offers[need]())
