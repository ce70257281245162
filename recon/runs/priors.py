"""`recon priors convert`: a published checkpoint written in our own format, with its configuration inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recon.config.sources import parse_value
from recon.errors import UsageError
from recon.io.atomic import check_writable, write_bytes
from recon.priors.catalog import SUFFIX, describe_prior, prior_path, weights_sha256
from recon.priors.open import open_prior, with_changes
from recon.priors.store import dump_prior


def convert_prior(source: str, output: Path, sets: Sequence[str] = (), force: bool = False) -> dict[str, Any]:
    """Write the prior `source` (a name, file or folder) to `output` in our format; return what was written.

    sets: "key=value" pairs that state what the checkpoint does not: attention heads, value range, sizes, name.
    The provenance keeps the source's name and SHA-256. Raises UsageError for another extension, OutputExistsError
    before anything is read, and as `open_prior`.
    """
    if output.suffix != SUFFIX:
        raise UsageError(f"cannot write {output}: priors are written as {SUFFIX} files", f"name it OUT{SUFFIX}")
    check_writable([output], force)
    path = prior_path(source)
    prior = with_changes(open_prior(path), _changes(sets))
    origin = {"converted_from": {"file": path.resolve().name, "sha256": weights_sha256(path)}}
    prior.info = replace(prior.info, provenance=prior.info.provenance | origin)
    write_bytes(output, dump_prior(prior), force)
    return {"output": str(output), **describe_prior(str(output.absolute()))}


def _changes(sets: Sequence[str]) -> dict[str, Any]:
    changes = {}
    for text in sets:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise UsageError(f"--set {text}: expected key=value", "for instance --set heads=4")
        changes[key] = parse_value(value)
    return changes
