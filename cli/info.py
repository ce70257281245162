"""`recon info`: describe a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Axes, Json
from .output import print_facts, print_json, text_of
from .streams import read_source

if TYPE_CHECKING:
    import numpy as np


def info(
    source: Annotated[str, typer.Argument(metavar="FILE", help="Image, measurement or operator; - for stdin.")],
    axes: Axes = None,
    json: Json = False,
) -> None:
    """Describe a file: format, shape, axes, units, range of values; of a measurement also its operator and noise."""
    from recon.io.describe import describe

    facts = describe(read_source(source), axes, _checkpoint)
    if json:
        print_json(facts)
    else:
        # the header of the file's own format is for programs
        print_facts({name: _lines(value) for name, value in facts.items() if name != "meta"})


def _checkpoint(path: Path) -> np.ndarray:
    from recon.runs.operator_files import checkpoint_array

    return checkpoint_array(path)


def _lines(value: Any) -> Any:
    """Return a mapping with a line per entry, an affine with a line per row."""
    if isinstance(value, dict):
        return "\n".join(f"{name}: {text_of(entry)}" for name, entry in value.items() if entry is not None)
    if isinstance(value, list) and value and isinstance(value[0], list):
        return "\n".join(text_of(row) for row in value)
    return value
