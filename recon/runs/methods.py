"""Names of all methods, without importing torch, and the way from a name and settings to the method.

Each entry: name -> (module, class, one line).
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from recon.errors import ConfigError

if TYPE_CHECKING:
    from recon.operators.base import Operator
    from recon.samplers.base import Method

SAMPLERS: dict[str, tuple[str, str, str]] = {
    "dps": ("recon.samplers.dps", "DPS", "diffusion posterior sampling: gradient of the residual through the network"),
    "dds": ("recon.samplers.dds", "DDS", "decomposed diffusion sampling: conjugate gradients on the denoised image"),
}

BASELINES: dict[str, tuple[str, str, str]] = {
    "adjoint": ("recon.baselines.direct", "Adjoint", "A^H y, scaled to fit the data: zero-filled, backprojection"),
    "fbp": ("recon.baselines.direct", "PseudoInverse", "the operator's pseudo-inverse: filtered backprojection"),
    "cg": ("recon.baselines.least_squares", "ConjugateGradient", "least squares by conjugate gradients, stopped early"),
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

    linear = isinstance(operator, LinearOperator)
    offers = {
        "forward": True,
        "gradient": operator.differentiable,
        "linear": linear,
        "adjoint": linear,
        "pinv": isinstance(operator, LinearOperator) and type(operator).pinv is not LinearOperator.pinv,
        "svd": hasattr(operator, "svd"),
    }
    return sorted(need for need in cls.needs if not offers[need])
