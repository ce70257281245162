"""EDM and InverseBench checkpoints: DhariwalUNet or SongUNet with EDM, VP, VE or iDDPM preconditioning.

EDM pickles hold the exponential average `ema` as a persistent-class record, with its settings; InverseBench .pt files
hold state dicts `ema` and `net` and no settings. The architecture is inferred from the tensors either way
(`edm_shapes.py`). Where the file does not say its preconditioning: iDDPM if it has a table `u`, else EDM for
DhariwalUNet, VP for SongUNet with positional features, VE for Fourier features, which is how they were published.
Value range: [-1, 1]; two channels are real and imaginary parts, with 0 at 0 and the 0.99 quantile of the magnitude at
1, as InverseBench scales MRI.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from recon.errors import ConfigError
from recon.priors.base import PriorInfo
from recon.priors.networks.dhariwal import DhariwalConfig, DhariwalUNet
from recon.priors.networks.song import SongConfig, SongUNet
from recon.priors.preconditioned import PreconditionedDenoiser
from recon.priors.preconditioning import VP
from recon.priors.published.content import Record
from recon.priors.published.edm_shapes import infer_dhariwal, infer_song
from recon.priors.published.states import find_state
from recon.priors.published.weights import filled

KINDS = {"EDMPrecond": "edm", "VPPrecond": "vp", "VEPrecond": "ve", "iDDPMPrecond": "iddpm"}
MODELS = ("SongUNet", "DhariwalUNet")
MARKS = ("model.map_layer0.weight", "model.map_layer1.weight")
PREFIX = "model."
# EDM pickles allow any level; their authors' sampler uses these
SIGMA_RANGES = {"edm": (0.002, 80.0), "ve": (0.02, 100.0)}
# what x is, by the names of the published InverseBench files, which do not say it themselves
UNITS = {
    "ns-5m": "vorticity / 10",
    "inv-scatter-5m": "2 f - 1, permittivity contrast f in [0, 1]",
    "in-scatter-5m": "2 f - 1, permittivity contrast f in [0, 1]",
    "fwi-5m": "(v - 3000 m/s) / (1000 m/s), wave speed v",
    "blackhole": "2 f - 1, image f in [0, 1]",
    "mri-knee": "complex image / 0.99 quantile of its magnitude",
    "mri-brain": "complex image / 0.99 quantile of its magnitude",
}


@dataclass(frozen=True)
class _Found:
    """The tensors of F, the table of levels, the preconditioning and settings that the file says, and their source."""

    tensors: dict[str, Tensor]
    levels: Tensor | None
    said: str
    settings: dict[str, Any]

    @property
    def kind(self) -> str:
        if self.said:
            return self.said
        if self.levels is not None:
            return "iddpm"
        if "out_conv.weight" in self.tensors:
            return "edm"
        return "ve" if "map_noise.freqs" in self.tensors else "vp"


def matches(content: Any) -> bool:
    """Tell whether a checkpoint is of this family."""
    return _record(content) is not None or find_state(content, MARKS) is not None


def describe(content: Any) -> dict[str, Any]:
    """Return JSON-able facts about the checkpoint's network."""
    found = _find(content, "the checkpoint")
    config = _config(found.tensors, "the checkpoint")
    return {**_facts(found, config), **asdict(config)}


def load(content: Any, name: str) -> PreconditionedDenoiser:
    """Return the denoiser, in float32 on the CPU.

    name: of the prior. Raises ConfigError where the tensors do not fit the network that they describe.
    """
    found = _find(content, name)
    config = _config(found.tensors, name)
    network: DhariwalUNet | SongUNet
    if isinstance(config, DhariwalConfig):
        network = filled(lambda: DhariwalUNet(config), found.tensors, name)
    else:
        network = filled(lambda: SongUNet(config), found.tensors, name)
    wanted = config.in_channels * (2 if found.kind == "iddpm" else 1)
    if config.out_channels != wanted:
        raise ConfigError(f"{name}: {found.kind} takes a network with {wanted} channels out, not {config.out_channels}")
    parameters, span = _parameters(found, name)
    complex_channels = config.in_channels == 2
    units = UNITS.get(name)
    info = PriorInfo(
        name,
        config.in_channels,
        multiple=config.multiple,
        sigma_min=span[0],
        sigma_max=span[1],
        value_range=(0.0, 1.0) if complex_channels else (-1.0, 1.0),
        complex_channels=complex_channels,
        provenance={"family": "edm", **_facts(found, config), **({"units": units} if units else {})},
    )
    return PreconditionedDenoiser(network, info, found.kind, **parameters)


def _facts(found: _Found, config: DhariwalConfig | SongConfig) -> dict[str, Any]:
    return {
        "architecture": "DhariwalUNet" if isinstance(config, DhariwalConfig) else "SongUNet",
        "preconditioning": found.kind + ("" if found.said else " (inferred: the file does not say)"),
    }


def _record(content: Any) -> Record | None:
    """Return the record of a preconditioned network in a pickle."""
    candidates = [content.get("ema"), content.get("net")] if isinstance(content, dict) else [content]
    for found in candidates:
        if isinstance(found, Record) and found.class_name in KINDS:
            inner = _part(found, "_modules").get("model")
            if isinstance(inner, Record) and inner.class_name in MODELS:
                return found
    return None


def _find(content: Any, name: str) -> _Found:
    record = _record(content)
    if record is not None:
        tensors = module_state(record)
        inner = {key.removeprefix(PREFIX): value for key, value in tensors.items() if key.startswith(PREFIX)}
        return _Found(inner, tensors.get("u"), KINDS[record.class_name], record.state or {})
    state = find_state(content, MARKS)
    if state is None:
        raise ConfigError(f"{name} is no EDM or InverseBench checkpoint")
    inner = {key.removeprefix(PREFIX): value for key, value in state.tensors.items() if key != "u"}
    return _Found(inner, state.tensors.get("u"), "", {})


def _config(tensors: dict[str, Tensor], name: str) -> DhariwalConfig | SongConfig:
    return infer_dhariwal(tensors, name) if "out_conv.weight" in tensors else infer_song(tensors, name)


def _parameters(found: _Found, name: str) -> tuple[dict[str, Any], tuple[float, float]]:
    """Return the parameters of the preconditioning and (sigma_min, sigma_max)."""

    def number(key: str, default: float) -> float:
        value = found.settings.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise ConfigError(f"{name}: {key} is no number above zero")
        return float(value)

    if found.kind == "iddpm":
        if found.levels is None or found.levels.ndim != 1 or len(found.levels) < 2:
            raise ConfigError(f"{name} has no table u of noise levels, which iDDPM preconditioning needs")
        levels = tuple(found.levels.double().tolist())
        if not all(math.isfinite(u) for u in levels) or sorted(levels, reverse=True) != list(levels):
            raise ConfigError(f"{name}: the table u of noise levels does not fall from high to low")
        return {"levels": levels}, (levels[-2], levels[0])
    if found.kind == "vp":
        vp = VP(number("beta_d", 19.9), number("beta_min", 0.1), int(number("M", 1000)))
        return asdict(vp), (vp.sigma(number("epsilon_t", 1e-5)), vp.sigma(1.0))
    low, high = SIGMA_RANGES[found.kind]
    span = (number("sigma_min", low) or low, number("sigma_max", high))
    if not math.isfinite(span[1]):
        span = (span[0], high)
    return ({"sigma_data": number("sigma_data", 0.5)} if found.kind == "edm" else {}), span


def module_state(record: Record) -> dict[str, Tensor]:
    """Return the tensors of a torch module's record by their full names: parameters, buffers, those of its modules."""
    tensors: dict[str, Tensor] = {}
    waiting = [("", record)]
    while waiting:
        prefix, module = waiting.pop()
        own = {**_part(module, "_parameters"), **_part(module, "_buffers")}
        tensors |= {f"{prefix}{key}": value for key, value in own.items() if isinstance(value, Tensor)}
        children = [(f"{prefix}{key}.", value) for key, value in _part(module, "_modules").items()]
        waiting += [(key, value) for key, value in reversed(children) if isinstance(value, Record)]
    return tensors


def _part(record: Record, part: str) -> dict[str, Any]:
    found = (record.state or {}).get(part)
    return found if isinstance(found, dict) else {}
