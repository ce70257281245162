"""`recon eval`: score a reconstruction against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Axes, Json, Quiet
from .output import print_facts, print_json


def evaluate(
    recon: Annotated[Path, typer.Argument(metavar="RECON", help="Reconstruction.")],
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="The true image, in the same units.")],
    protocol: Annotated[str, typer.Option("--protocol", metavar="NAME", help="Metric protocol.")] = "image01",
    mask: Annotated[Path | None, typer.Option("--mask", metavar="FILE", help="Foreground, scored separately.")] = None,
    fail_if: Annotated[
        list[str] | None, typer.Option("--fail-if", metavar="COND", help="Exit 8 if it holds: 'psnr<30'; repeatable.")
    ] = None,
    axes: Axes = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a reconstruction against the truth under a named protocol.

    Protocols: image01, fastmri, volume. An infinite PSNR is null in JSON.
    """
    from recon.runs.evaluate import check_conditions, evaluate_files, parse_condition

    conditions = [parse_condition(text) for text in fail_if or ()]
    result = evaluate_files(recon, truth, protocol, mask, axes)
    if json:
        print_json(result)
    else:
        print_facts({**result["metrics"], "protocol": result["protocol"]["name"]})
    check_conditions(result["metrics"], conditions)
