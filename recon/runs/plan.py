"""A plan: everything checked and known before the first network call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from recon.config.schema import Config
from recon.data import Measurement, OperatorSpec
from recon.errors import ConfigError
from recon.operators.base import Operator
from recon.priors.base import Denoiser
from recon.priors.catalog import prior_path
from recon.priors.open import open_prior
from recon.priors.slices import Slices
from recon.runs.backend import choose_backend
from recon.runs.device import choose_chunk, choose_device, choose_slices, choose_threads
from recon.runs.fit_prior import fit_prior
from recon.runs.methods import make_method, missing_needs
from recon.runs.problem import unit_norm
from recon.runs.resolve_input import ResolvedInput, resolve_input
from recon.runs.scaling import Window
from recon.runs.volumes import check_volume, count_images, is_volume
from recon.samplers.base import Method

# classical baselines work in units where black is 0 and white is 1
CLASSICAL_RANGE = (0.0, 1.0)


@dataclass(frozen=True)
class Plan:
    """What will run: resolved input, method, prior, units, device.

    items_together: inputs of a batch, this one among them, whose images the network may see together.
    """

    config: Config
    input: ResolvedInput
    method: Method
    prior: Denoiser | None
    window: Window
    norm: float | None
    device: torch.device
    threads: int
    chunk: int
    samples: int
    backend: str = "eager"
    notices: list[str] = field(default_factory=list)
    items_together: int = 1

    @property
    def value_range(self) -> tuple[float, float]:
        """The value range of the method's units."""
        return self.prior.info.value_range if self.prior is not None else CLASSICAL_RANGE

    @property
    def members(self) -> int:
        """How many samples are drawn of each item: an ensemble may need more than it returns."""
        return self.method.members(self.samples)

    @property
    def operator(self) -> Operator:
        """The forward operator, in image units."""
        return self.input.operator

    @property
    def is_volume(self) -> bool:
        """Whether slices are reconstructed together, as volumes."""
        return is_volume(self.method, self.operator)

    def describe(self) -> dict[str, Any]:
        """Return the plan as JSON-able facts, for --dry-run, check and the sidecar."""
        op, y = self.operator, self.input.measurement.y
        return {
            "operator": {"kind": self.input.spec.kind, "in_shape": list(op.in_shape), "out_shape": list(op.out_shape)},
            "items": int(y.shape[0]),
            "measured_numbers": op.measured(),
            "noise": vars(self.input.noise),
            "method": self.config.method.model_dump(),
            "prior": self.prior.info.name if self.prior is not None else None,
            "window": vars(self.window),
            "operator_norm": self.norm,
            "samples": self.samples,
            "members": self.members,
            "network_evaluations": self.method.evaluations(count_images(self.input)) * self.members,
            "together": "slices of a volume" if self.is_volume else "samples of an image",
            "device": str(self.device),
            "threads": self.threads,
            "chunk": self.chunk,
            "backend": self.backend,
            "items_together": self.items_together,
            "notices": self.notices,
        }


def make_plan(
    config: Config,
    measurement: Measurement,
    operator_file: OperatorSpec | None = None,
    opener: Callable[[Path], Denoiser] = open_prior,
    runs: int = 1,
) -> Plan:
    """Return the plan for a measurement.

    opener: how the prior's file is opened, so that a batch can open it once.  runs: that share the prior's backend.

    Raises ConfigError where method, operator and prior cannot work together, saying why; InputError for bad data.
    """
    device = choose_device(config.run.device)
    threads = choose_threads(config.run.threads)
    method = make_method(config.method.name, config.method.params)
    resolved = resolve_input(measurement, config, operator_file)
    check_pairing(config.method.name, method, resolved.operator, resolved.spec.kind)
    prior = opener(prior_path(config.prior.name)) if method.uses_prior else None
    notices = [*resolved.notices, *check_volume(resolved, config.method.name, method)]
    if prior is not None:
        prior, lines = fit_prior(prior, config.prior, resolved.operator, method, device)
        notices += lines
        if config.prior.auxiliary is not None:
            prior = _with_auxiliary(prior, config, resolved.operator, method, device, opener)
    samples = config.run.samples
    if samples > 1 and not method.stochastic:
        notices.append(f"method '{config.method.name}' is deterministic: one sample instead of {samples}")
        samples = 1
    window = resolved.window or resolved.find_window(config.scaling)
    norm = unit_norm(resolved.operator) if config.scaling.unit_norm else None
    members = method.members(samples)
    # the members of an ensemble see each other: it comes whole, and batches its own network calls
    chunk = members if method.ensemble else choose_chunk(config.run.chunk, members, device)
    if isinstance(prior, Slices):
        shape = (resolved.operator.in_shape[0], *resolved.operator.in_shape[-2:])
        each = prior.inner
        chunk = choose_slices(config.run.chunk, count_images(resolved), each, shape, resolved.operator.in_dtype, device)
        prior = prior.with_chunk(chunk)
    evaluations = method.evaluations(count_images(resolved)) * members * runs
    backend = choose_backend(config.run, config.method.name, method, prior, device, evaluations)
    return Plan(config, resolved, method, prior, window, norm, device, threads, chunk, samples, backend, notices)


def _with_auxiliary(
    prior: Denoiser,
    config: Config,
    operator: Operator,
    method: Method,
    device: torch.device,
    opener: Callable[[Path], Denoiser],
) -> Denoiser:
    """Return the prior with a second one for slices across another axis. Raises ConfigError where it has no use."""
    name = str(config.prior.auxiliary)
    if not (isinstance(prior, Slices) and method.two_planes):
        raise ConfigError(f"prior.auxiliary = '{name}' is of method 'tpdm', on volumes", "leave it out")
    second, _ = fit_prior(opener(prior_path(name)), config.prior, operator, method, device)
    if second.info.value_range != prior.info.value_range:
        raise ConfigError(
            f"priors '{prior.info.name}' and '{second.info.name}' have the ranges {prior.info.value_range} and "
            f"{second.info.value_range}",
            "choose priors of one range",
        )
    assert isinstance(second, Slices)
    return Slices(prior.inner, prior.chunk, auxiliary=second.inner)


def check_pairing(name: str, method: Method, operator: Operator, kind: str) -> None:
    """Raise ConfigError if the method needs what the operator does not offer."""
    missing = missing_needs(type(method), operator)
    if missing:
        raise ConfigError(
            f"method '{name}' needs {', '.join(missing)}, which operator '{kind}' does not offer",
            "choose another method (recon methods list)",
        )
