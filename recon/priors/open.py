"""One entry point to every prior that a file or folder holds: our own format and the published families."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from recon.errors import ConfigError, ResourceError
from recon.priors.adapter_file import FORMAT as ADAPTERS
from recon.priors.base import Denoiser
from recon.priors.catalog import SUFFIX, folder_files, weights_sha256
from recon.priors.preconditioning import KINDS, Flow
from recon.priors.published.families import family, identify
from recon.priors.published.reader import read_checkpoint
from recon.priors.published.weights import check_shapes
from recon.priors.store import FORMAT, load_prior, read_metadata

# what a user may state of a prior, beside its network's architecture and its denoiser's settings
_STATED = ("name", "sizes", "sigma_min", "sigma_max", "value_range", "complex_channels")
# what "prediction=flow" stands for, by the network: how such files were published by torchcfm and rectified flow
_FLOWS: dict[str, dict[str, Any]] = {
    "ADM": {"scale": 1.0, "to_data": True},
    "NCSNpp": {"scale": 999.0, "to_data": True, "centred": True, "value_range": (-1.0, 1.0)},
}
# what a family may raise for tensors that are not what their names say
_MISFITS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError)


def open_prior(path: Path) -> Denoiser:
    """Return the denoiser of a weight file or folder, in float32 on the CPU.

    Raises InputError for files that are damaged, or ask for anything but tensors and plain values; ConfigError for
    checkpoints of no known family, and for those whose tensors do not fit their family's network.
    """
    if is_stored(path):
        return load_prior(path)
    if is_adapters(path):
        raise ConfigError(
            f"{path.name} holds adapters of a prior, and is none by itself", "see: recon priors show FILE"
        )
    content = read_checkpoint(path)
    name = path.resolve().name if path.is_dir() else path.stem
    found = identify(content, path.resolve().name)
    try:
        return family(found).load(content, name)
    except _MISFITS as err:
        raise ConfigError(
            f"{path.name} looks like a checkpoint of family '{found}', but does not fit it: {_first_line(err)}",
            "the file is incomplete, or a variant of the architecture that is not known here",
        ) from err


def is_stored(path: Path) -> bool:
    """Tell whether a file is in our own format. Raises InputError for a damaged safetensors file."""
    return _format(path) == FORMAT.partition("/")[0]


def is_adapters(path: Path) -> bool:
    """Tell whether a file holds trained adapters. Raises InputError for a damaged safetensors file."""
    return _format(path) == ADAPTERS.partition("/")[0]


def _format(path: Path) -> str:
    """Return what a safetensors file says that it is, without the version; "" for other files."""
    if path.is_dir():
        return ""
    if path.suffix != SUFFIX:
        try:
            with path.open("rb") as stream:
                start = stream.read(9)
        except OSError as err:
            raise ResourceError(f"cannot read {path.name}: {err.strerror or 'the system refused it'}") from err
        if start[8:] != b"{" or int.from_bytes(start[:8], "little") > path.stat().st_size:
            return ""
    return read_metadata(path).get("format", "").partition("/")[0]


def describe_file(path: Path) -> dict[str, Any]:
    """Return what a published checkpoint is and says about itself, as JSON-able facts. Raises as `open_prior`."""
    prior = open_prior(path)
    network = getattr(prior, "network", None)
    facts: dict[str, Any] = {**asdict(prior.info), "denoiser": getattr(prior, "settings", None)}
    config = getattr(network, "config", None)
    if config is not None:
        facts["network"] = asdict(config)
    parameters = sum(p.numel() for p in network.parameters()) if isinstance(network, nn.Module) else None
    files = folder_files(path) if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files)
    return {**facts, "file": path.name, "bytes": size, "parameters": parameters, "sha256": weights_sha256(path)}


def with_changes(prior: Denoiser, changes: dict[str, Any]) -> Denoiser:
    """Return a prior with fields of its network's architecture, its declaration or its denoiser's settings replaced.

    This is how a user states what a checkpoint's shapes cannot: attention heads, value range, sizes; `kind`, with the
    settings of that kind (see `preconditioning.py`); or `prediction` = "flow", for flow matching as it was published
    with networks of this kind.
    Raises ConfigError for a name that none of them has, and where the weights do not fit any more.
    """
    network = getattr(prior, "network", None)
    settings = getattr(prior, "settings", None)
    if not isinstance(network, nn.Module) or not isinstance(settings, dict):
        raise ConfigError(f"prior '{prior.info.name}' has nothing that can be changed")
    config: Any = network.config
    if changes.get("prediction") == Flow.kind:
        stated = {key: value for key, value in changes.items() if key != "prediction"}
        changes = {"kind": Flow.kind, **_FLOWS.get(type(network).__name__, {}), **stated}
    kind = changes.get("kind", settings.get("kind"))
    # another kind of denoiser has settings of its own
    other = kind != settings.get("kind")
    own = ["kind", *(field.name for field in fields(KINDS[kind]))] if other and kind in KINDS else list(settings)
    known = {"network": list(asdict(config)), "info": list(_STATED), "settings": own}
    parts: dict[str, dict[str, Any]] = {part: {} for part in known}
    for key, value in changes.items():
        part = next((part for part in known if key in known[part]), None)
        if part is None:
            names = ", ".join(name for entries in known.values() for name in entries)
            raise ConfigError(f"prior '{prior.info.name}' has no setting '{key}'", f"it has: {names}")
        parts[part][key] = value
    stated = {"set": changes} if changes else {}
    try:
        info = _validated(prior.info, parts["info"] | {"provenance": prior.info.provenance | stated})
        with torch.device("meta"):
            changed = type(network)(_validated(config, parts["network"]))
        expected = {key: tuple(value.shape) for key, value in changed.state_dict().items()}
        check_shapes(expected, network.state_dict(), prior.info.name)
        changed.load_state_dict(network.state_dict(), assign=True)
        kept = {} if other else settings
        made: Denoiser = type(prior)(changed, info, **{**kept, **parts["settings"]})  # type: ignore[call-arg]
    except _MISFITS as err:
        raise ConfigError(f"prior '{prior.info.name}' cannot be changed so: {_first_line(err)}") from err
    span = getattr(getattr(made, "preconditioning", None), "range", None)
    if span is not None and parts["settings"]:
        # the levels follow from the table, unless they are stated too
        info = replace(info, **({"sigma_min": span[0], "sigma_max": span[1]} | parts["info"]))
        made.info = info
    low, high = info.value_range
    if not low < high or not 0 <= info.sigma_min < info.sigma_max:
        raise ConfigError(f"prior '{prior.info.name}' cannot be changed so: a range goes from low to high")
    return made


def _validated(given: Any, changes: dict[str, Any]) -> Any:
    """Return a dataclass with changed fields of the right types. Raises ValueError naming the field otherwise."""
    try:
        return TypeAdapter(type(given)).validate_python({**asdict(given), **changes})
    except ValidationError as err:
        first = err.errors()[0]
        raise ValueError(f"{'.'.join(str(p) for p in first['loc'])}: {first['msg']}") from err


def _first_line(err: Exception) -> str:
    return (str(err) or type(err).__name__).splitlines()[0][:120]
