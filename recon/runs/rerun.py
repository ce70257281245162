"""`recon rerun`: repeat a run from its sidecar, bit for bit on the same device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recon.config.schema import Config
from recon.errors import InputError, ResourceError
from recon.priors.catalog import prior_path
from recon.runs.provenance import file_sha256, versions
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
    facts, sources = content["Recon"], content["Sources"]
    folder = sidecar.parent
    try:
        config = Config.model_validate(facts["Config"])
        pinned = {"device": device or facts["Device"], "threads": facts["Threads"], "chunk": facts["Chunk"]}
        config = config.model_copy(update={"run": config.run.model_copy(update=pinned)})
        preset, weights = facts["Preset"], facts["Weights"]
    except (KeyError, ValidationError) as err:
        raise InputError(f"{sidecar.name} is damaged: {str(err).splitlines()[0]}") from err
    if sources["input"]["file"] == "-" and source is None:
        raise InputError("the input came from a pipe", "save it to a file and give it with --input FILE")
    given = source if source is not None else folder / sources["input"]["file"]
    _check_hash(given, sources["input"]["sha256"], "input")
    others = {role: folder / sources[role]["file"] for role in ("operator", "truth") if role in sources}
    for role, path in others.items():
        _check_hash(path, sources[role]["sha256"], role)
    if weights is not None and file_sha256(prior_path(config.prior.name)) != weights["sha256"]:
        raise InputError(
            f"the weights of prior '{config.prior.name}' are not those of the sidecar",
            "install the same version of recon",
        )
    request = RunRequest(
        given, output, config, preset, others.get("operator"), others.get("truth"), None, force, True, command
    )
    return Rerun(request, _differences(facts))


def _read(sidecar: Path) -> dict[str, Any]:
    try:
        content = json.loads(sidecar.read_bytes())
    except FileNotFoundError as err:
        raise InputError(f"no such file: {sidecar}") from err
    except (OSError, ValueError) as err:
        raise InputError(f"cannot read {sidecar.name} as JSON: {err}") from err
    if not isinstance(content, dict) or "Recon" not in content or "input" not in content.get("Sources", {}):
        raise InputError(f"{sidecar.name} is not the sidecar of a reconstruction", "give the .json beside an output")
    if content["Recon"].get("SidecarVersion") != SIDECAR_VERSION:
        raise InputError(f"{sidecar.name} has sidecar version {content['Recon'].get('SidecarVersion')}, expected 1")
    return content


def _check_hash(path: Path, expected: str, role: str) -> None:
    if not path.is_file():
        hint = "say where it is with --input FILE" if role == "input" else "put it back where the sidecar says"
        raise ResourceError(f"the {role} {path} of the run is missing", hint)
    if file_sha256(path) != expected:
        raise InputError(f"the {role} {path} is not the file of the run: its SHA-256 differs")


def _differences(facts: dict[str, Any]) -> list[str]:
    now = versions()
    changed = [f"{k} {v} then, {now.get(k)} now" for k, v in facts.get("Versions", {}).items() if now.get(k) != v]
    return [f"versions differ, so the result may too: {'; '.join(changed)}"] if changed else []
