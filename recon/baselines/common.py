"""What the classical reconstructions share: checks, scales of the problem, and the result.

They expect units in which black is 0, so that starting from zero, or shrinking towards it, means black.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import per_item_dot, per_item_norm
from recon.operators.base import LinearOperator
from recon.priors.base import per_item
from recon.samplers.base import Result, Stats, Status
from recon.solvers.power import operator_norm

NOISE_SEED = 0
MARGIN = 1.01


def linear_operator(problem: Problem, method: str) -> LinearOperator:
    """Return the problem's operator. Raises ConfigError if it is not linear."""
    if not isinstance(problem.operator, LinearOperator):
        raise ConfigError(
            f"method '{method}' needs a linear operator, got {type(problem.operator).__name__}",
            "choose a sampler that needs only the forward map (recon methods list)",
        )
    return problem.operator


def require_positive(method: str, **settings: float | None) -> None:
    """Raise ConfigError unless every setting that is given is above 0."""
    for name, value in settings.items():
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"method '{method}': {name} must be above 0, got {value:g}")


def scaled_adjoint(operator: LinearOperator, y: Tensor) -> Tensor:
    """Return s A^H y with s = <y, A A^H y>/||A A^H y||^2, the multiple that fits the data best; (B, *in_shape)."""
    image = operator.adjoint(y)
    seen = operator.forward(image)
    scale = per_item_dot(y, seen) / per_item_norm(seen).square().clamp_min(1e-30)
    return per_item(scale, image) * image


def start_from(x_init: Tensor | None, x: Tensor) -> Tensor:
    """Return x_init, one item for each of x, or x where there is none."""
    return x if x_init is None else x_init[: x.shape[0]].to(x).expand_as(x)


def rms(x: Tensor) -> Tensor:
    """Return the root mean square of each item, shape (B,)."""
    return per_item_norm(x) / x[0].numel() ** 0.5


def backprojected_gain(y: Tensor, operator: LinearOperator) -> float:
    """Return sqrt(trace(A A^H)/pixels), the root mean square over the image of A^H n for unit white noise n.

    Estimated with one fixed draw of n, in the data's type and on their device.
    """
    generator = torch.Generator().manual_seed(NOISE_SEED)
    drawn = torch.randn(1, *operator.out_shape, 2 if y.is_complex() else 1, generator=generator)
    noise = (torch.view_as_complex(drawn) if y.is_complex() else drawn[..., 0]).to(y)
    if operator.support is not None:
        noise = noise * operator.support
    return float(rms(operator.adjoint(noise)))


def image_norm(operator: LinearOperator, device: torch.device) -> float:
    """Return an upper estimate of ||A||: power iteration from a fixed start, which arrives from below, and a margin."""
    start = torch.randn(1, *operator.in_shape, dtype=operator.in_dtype, generator=torch.Generator().manual_seed(0))
    return MARGIN * operator_norm(operator, start.to(device))


def l1_weight(given: float | None, problem: Problem, operator: LinearOperator, factor: float, floor: float) -> Tensor:
    """Return the weight of a penalty that grows like |x|, shape (B,): `given`, or else a default from the noise.

    The default is max(factor * sigma sqrt(trace(A A^H)/pixels), floor * max |A^H y|): the noise as it arrives in the
    image, so that it keeps its meaning whatever the operator's scale and sampling; the second term is for exact data.
    """
    y = problem.y
    peak = operator.adjoint(y).abs().flatten(1).amax(1)
    if given is not None:
        return torch.full_like(peak, given)
    noise = problem.likelihood.noise_level(y, operator.measured()) * backprojected_gain(y, operator)
    return torch.maximum(factor * noise, floor * peak).clamp_min(1e-30)


def finish(x: Tensor, problem: Problem, shape: tuple[int, ...], operator_calls: int) -> Result:
    """Return the result: x repeated to the batch of `shape`, its residual, and whether it is finite."""
    residual = problem.likelihood.residual(problem.operator.forward(x), problem.y, problem.operator.measured())
    stats = Stats(operator_calls=operator_calls + 1, residuals=[residual])
    status = Status.OK if bool(torch.isfinite(x).all()) else Status.DIVERGED
    return Result(x.expand(shape[0], *x.shape[1:]).clone(), status, stats)
