"""`recon rerun`: repeat a reconstruction from its sidecar."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .options import Device, Force, Json, Quiet
from .output import note
from .progress import progress
from .run import announce, show_report


def rerun(
    sidecar: Annotated[Path, typer.Argument(metavar="SIDECAR.json", help="Sidecar of an earlier run.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Image to write.")],
    source: Annotated[
        Path | None, typer.Option("--input", metavar="FILE", help="The input, if it is elsewhere now.")
    ] = None,
    device: Device = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Repeat a reconstruction from its JSON sidecar, bit for bit on the same device and versions.

    Inputs and weights are checked against the sidecar's hashes first.
    """
    from recon.runs.reconstruct import reconstruct
    from recon.runs.rerun import read_rerun

    found = read_rerun(sidecar, output, source, force, ("recon", *sys.argv[1:]), device)
    for line in found.notices:
        note(line, quiet)
    with progress("rerun", quiet) as report:
        result = reconstruct(found.request, lambda plan: announce(plan, quiet), report)
    show_report(result, json)
