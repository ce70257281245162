"""`recon rerun`: repeat a run from its sidecar, bit for bit on the same device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recon.config.schema import Config
from recon.errors import InputError, ResourceError
from recon.io.source import split_inner
from recon.priors.catalog import is_file, prior_path, weights_sha256
from recon.runs.provenance import content_sha256, versions
from recon.runs.reconstruct import RunRequest
from recon.runs.sidecar import SIDECAR_VERSION


@dataclass(frozen=True)
class Rerun:
    """A request that repeats a sidecar, and what differs from the time it was written."""

    request: RunRequest
    notices: list[str]


def read_rerun(
    sidecar: Path, output: Path, source: Path | None, force: bool, command: tuple[str, ...], device: str | None = None
) -> Rerun:
    """Return the request that a sidecar describes, writing to `output`.

    source: the input, if it is no longer where the sidecar says.
    Raises InputError for a file that is no sidecar of `recon run` or an input or weights that changed,
    ResourceError for an input that is missing.
    """
    content = _read(sidecar)
    folder = sidecar.parent
    try:
        facts = content["Recon"]
        config = _config(facts, folder, device)
        preset, weights = str(facts["Preset"]), None if facts["Weights"] is None else str(facts["Weights"]["sha256"])
        sources = {
            role: (str(entry["file"]), str(entry["sha256"]), entry.get("axes"))
            for role, entry in content["Sources"].items()
        }
        notices = _differences(facts.get("Versions", {}))
        together = int(facts.get("Plan", {}).get("items_together", 1))
        file, expected, axes = sources["input"]
    except (KeyError, TypeError, AttributeError, ValidationError) as err:
        reason = f"no {err}" if isinstance(err, KeyError) else str(err).splitlines()[0]
        raise InputError(f"{sidecar.name} is damaged: {reason}", "give the .json as recon wrote it") from err
    if file == "-" and source is None:
        raise InputError("the input came from a pipe", "save it to a file and give it with --input FILE")
    if together > 1:
        notices.append(
            f"the network saw up to {together} inputs of a batch together: by itself the result agrees to rounding"
        )
    given = source if source is not None else folder / file
    _check_hash(given, expected, "input")
    others = {role: folder / sources[role][0] for role in ("operator", "truth") if role in sources}
    for role, path in others.items():
        _check_hash(path, sources[role][1], role)
    if weights is not None and weights_sha256(prior_path(config.prior.name)) != weights:
        raise InputError(
            f"the weights of prior '{config.prior.name}' are not those of the sidecar",
            "install the same version of recon",
        )
    request = RunRequest(
        given, output, config, preset, others.get("operator"), others.get("truth"), axes, force, True, command
    )
    return Rerun(request, notices)


def _config(facts: dict[str, Any], folder: Path, device: str | None) -> Config:
    """Return the configuration of the run, on its device, threads and backend; a weight file lies by the sidecar."""
    pinned = {"device": device or facts["Device"], "threads": facts["Threads"], "chunk": facts["Chunk"]}
    if device is None:
        # sidecars of versions without a choice are of eager runs
        pinned["backend"] = facts.get("Backend", "eager")
    content, prior = facts["Config"], facts["Config"]["prior"]
    if is_file(prior["name"]):
        slash = "/" if prior["name"].endswith("/") else ""
        prior = {**prior, "name": str(folder / prior["name"]) + slash}
    return Config.model_validate({**content, "prior": prior, "run": {**content["run"], **pinned}})


def _read(sidecar: Path) -> dict[str, Any]:
    try:
        content = json.loads(sidecar.read_bytes())
    except FileNotFoundError as err:
        raise InputError(f"no such file: {sidecar}") from err
    except (OSError, ValueError) as err:
        raise InputError(f"cannot read {sidecar.name} as JSON: {err}") from err
    facts, sources = (content.get(k) if isinstance(content, dict) else None for k in ("Recon", "Sources"))
    if not isinstance(facts, dict) or not isinstance(sources, dict) or "input" not in sources:
        raise InputError(f"{sidecar.name} is not the sidecar of a reconstruction", "give the .json beside an output")
    version = facts.get("SidecarVersion")
    if version != SIDECAR_VERSION:
        raise InputError(
            f"{sidecar.name} has sidecar version {version}, expected {SIDECAR_VERSION}", "use the recon that wrote it"
        )
    return dict(content)


def _check_hash(path: Path, expected: str, role: str) -> None:
    path = Path(split_inner(str(path))[0])
    if not path.exists():
        hint = "say where it is with --input FILE" if role == "input" else "put it back where the sidecar says"
        raise ResourceError(f"the {role} {path} of the run is missing", hint)
    if content_sha256(path) != expected:
        raise InputError(f"the {role} {path} is not the file of the run: its SHA-256 differs")


def _differences(then: dict[str, str]) -> list[str]:
    now = versions("onnxruntime" if "onnxruntime" in then else "eager")
    changed = [f"{k} {v} then, {now.get(k)} now" for k, v in then.items() if now.get(k) != v]
    return [f"versions differ, so the result may too: {'; '.join(changed)}"] if changed else []
