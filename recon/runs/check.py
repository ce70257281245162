"""`recon check`: every problem of a preset at once, before anything runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from recon.config.schema import Config
from recon.data import Measurement
from recon.errors import ConfigError, ReconError
from recon.io.registry import read_measurement
from recon.likelihoods import per_item_dot, per_item_norm
from recon.metrics.protocols import find_protocol
from recon.operators.base import LinearOperator, Operator
from recon.operators.registry import build, draw, family, parse_params
from recon.priors.base import Denoiser
from recon.priors.catalog import prior_path
from recon.priors.open import open_prior
from recon.runs.backend import choose_backend
from recon.runs.device import choose_device
from recon.runs.fit_prior import fit_prior
from recon.runs.methods import make_method
from recon.runs.plan import check_pairing, make_plan
from recon.samplers.base import Method

# images that a preset is checked on when no input is given
DEFAULT_SIDE = 128
DEFAULT_SLICES = 16
ADJOINT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Finding:
    """One check: what, whether it holds, and details or the error."""

    name: str
    ok: bool
    detail: str


def check(config: Config, source: Path | None) -> tuple[list[Finding], dict[str, Any]]:
    """Return all findings, and estimates {seconds, memory_mb, network_evaluations} where they can be made."""
    findings: list[Finding] = []

    def attempt(name: str, action: Callable[[], tuple[Any, str]]) -> Any:
        try:
            value, detail = action()
        except ReconError as err:
            findings.append(Finding(name, False, err.message + (f" ({err.hint})" if err.hint else "")))
            return None
        findings.append(Finding(name, True, detail))
        return value

    op = config.operator
    attempt("operator parameters", lambda: (parse_params(op.kind, op.params), op.kind))
    method = attempt(
        "method settings", lambda: (make_method(config.method.name, config.method.params), config.method.name)
    )
    attempt("metric protocol", lambda: (find_protocol(config.metrics.protocol), config.metrics.protocol))
    device = attempt("device", lambda: (d := choose_device(config.run.device), str(d)))
    opened = prior = None
    if method is not None and method.uses_prior:
        opened = attempt("prior", lambda: (open_prior(prior_path(config.prior.name)), config.prior.name))
    operator = attempt("operator", lambda: _operator(config, source, opened))
    items = 1
    if source is not None:
        measurement = attempt("input", lambda: _measurement(source))
        if measurement is not None and method is not None and operator is not None:
            plan = attempt("plan", lambda: (p := make_plan(config, measurement), "; ".join(p.notices) or "complete"))
            operator = plan.operator if plan is not None else operator
            items = int(plan.input.measurement.y.shape[0]) if plan is not None else 1
    if operator is not None and method is not None:
        attempt("method fits operator", lambda: _pairing(config, method, operator))
    if operator is not None and opened is not None and method is not None and device is not None:
        prior = attempt("prior fits operator", lambda: _fits(config, opened, operator, method, device))
        attempt("backend", lambda: _backend(config, method, prior, device, items))
    if isinstance(operator, LinearOperator):
        attempt("adjoint", lambda: _adjoint(operator))
    complete = all(f.ok for f in findings) and operator is not None and method is not None and device is not None
    if not complete:
        return findings, {}
    members = method.members(config.run.samples)
    return findings, _estimate(members, method, operator, prior, device, items)


def _operator(config: Config, source: Path | None, prior: Denoiser | None) -> tuple[Operator, str]:
    """Build the preset's operator on a default size, so that it can be checked without an input."""
    channels = prior.info.channels if prior is not None and not prior.info.complex_channels else 1
    slices = (DEFAULT_SLICES,) if family(config.operator.kind).volume else ()
    shape = (channels, *slices, DEFAULT_SIDE, DEFAULT_SIDE)
    spec = draw(config.operator.kind, config.operator.params, shape, config.run.seed)
    operator = build(spec)
    return operator, f"{tuple(operator.in_shape)} -> {tuple(operator.out_shape)}"


def _pairing(config: Config, method: Method, operator: Operator) -> tuple[None, str]:
    check_pairing(config.method.name, method, operator, config.operator.kind)
    return None, f"{config.method.name} on {config.operator.kind}"


def _fits(
    config: Config, prior: Denoiser, operator: Operator, method: Method, device: torch.device
) -> tuple[Denoiser, str]:
    fitted, lines = fit_prior(prior, config.prior, operator, method, device)
    return fitted, "; ".join([f"{tuple(operator.in_shape)}", *lines])


def _backend(
    config: Config, method: Method, prior: Denoiser | None, device: torch.device, items: int
) -> tuple[str, str]:
    evaluations = method.evaluations(items) * method.members(config.run.samples)
    chosen = choose_backend(config.run, config.method.name, method, prior, device, evaluations)
    return chosen, chosen


def _measurement(source: Path) -> tuple[Measurement, str]:
    found = read_measurement(source)
    return found, f"{source.name}: {tuple(found.y.shape)}"


def _adjoint(operator: LinearOperator) -> tuple[None, str]:
    """Check <A x, A x> = <x, A^H A x> and with random y, in float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, *operator.in_shape, generator=generator, dtype=operator.in_dtype)
    y = torch.randn(1, *operator.out_shape, generator=generator, dtype=operator.out_dtype)
    ax = operator.forward(x)
    worst = 0.0
    for right in (ax, y):
        mismatch = (per_item_dot(ax, right) - per_item_dot(x, operator.adjoint(right))).abs()
        worst = max(worst, float(mismatch / (per_item_norm(ax) * per_item_norm(right)).clamp_min(1e-30)))
    if worst > ADJOINT_TOLERANCE:
        raise ConfigError(f"the adjoint does not match: relative mismatch {worst:.1e}", "report this operator")
    return None, f"relative mismatch {worst:.1e}"


def _estimate(
    members: int, method: Method, operator: Operator, prior: Denoiser | None, device: torch.device, items: int
) -> dict[str, Any]:
    """Time one network call at the image's size, and extrapolate; memory is this process's plus the samples."""
    images = operator.in_shape[1] if len(operator.in_shape) == 4 else 1
    evaluations = method.evaluations(items * images) * members
    seconds = 0.0
    if prior is not None and evaluations:
        moved = prior.to(device)
        x = torch.zeros(1, *operator.in_shape, device=device, dtype=operator.in_dtype)
        with torch.inference_mode():
            moved(x, 1.0)
            start = time.perf_counter()
            float(moved(x, 1.0).x0.abs().sum())
        seconds = evaluations / images * (time.perf_counter() - start)
    size = torch.Size(operator.in_shape).numel() * 4 * members * items
    memory = (psutil.Process().memory_info().rss + 4 * size) / 2**20
    return {
        "network_evaluations": evaluations,
        "network_seconds": round(seconds, 1),
        "memory_mb": round(memory),
    }
