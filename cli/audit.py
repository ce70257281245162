"""`recon audit`: hold methods against posteriors that are known exactly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .calibrate import run_calibration
from .options import Force, Json, Quiet, Set, complete_method, complete_preset
from .output import note, print_facts, print_json, print_table
from .progress import progress

if TYPE_CHECKING:
    from recon.audit.rows import Row

BUDGET = 30.0  # seconds of one method by default: with start-up and statistics under a minute


def complete_case(incomplete: str) -> list[str]:
    """Complete the name of a case."""
    from recon.audit.catalog import all_cases

    return [name for name in all_cases() if name.startswith(incomplete)]


def audit(
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME",
            help="Sampler; repeatable. All by default.",
            autocompletion=complete_method,
        ),
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option("--case", metavar="NAME", help="Case, such as gaussian-sr4-32.", autocompletion=complete_case),
    ] = None,
    settings: Annotated[
        str, typer.Option("--settings", metavar="KIND", help="Settings: preset, tuned or both.")
    ] = "both",
    set_: Set = None,
    samples: Annotated[
        int | None, typer.Option("--samples", metavar="N", help="Samples for an image; 1000, to calibrate 8.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the samples.")] = 0,
    full: Annotated[
        bool, typer.Option("--full", help="Every case, without a time limit; with --report, resumable.")
    ] = False,
    budget: Annotated[
        float | None, typer.Option("--budget", metavar="S", help="Seconds of one method; what takes longer is skipped.")
    ] = None,
    curve: Annotated[
        bool, typer.Option("--curve", help="Convergence curves: error against steps or particles.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="DIR", help="Write audit.json, audit.md and pictures.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the rows that the report has.")] = False,
    calibrate: Annotated[
        str | None,
        typer.Option(
            "--calibrate",
            metavar="PRESET",
            help="Fit a factor for the std of a preset on simulated measurements of --truth, in place of an audit.",
            autocompletion=complete_preset,
        ),
    ] = None,
    truth: Annotated[
        list[Path] | None, typer.Option("--truth", metavar="FILE", help="Images to calibrate on; repeatable.")
    ] = None,
    images: Annotated[int | None, typer.Option("--images", metavar="N", help="Of the images, evenly spaced.")] = None,
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="Calibration, for recon run --calibration FILE.")
    ] = Path("calibration.json"),
    strict: Annotated[bool, typer.Option("--strict", help="Exit 8 if a bar is missed.")] = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hold methods against posteriors that are known exactly: mean, spread, coverage, distance.

    The bars: a mean within 2 % of a posterior standard deviation, a spread within 5 % in every spectral band. The
    default takes under a minute for each method; cases that would take longer are skipped with the reason. With
    --calibrate, every other image of --truth is fitted, and coverage is measured on the rest.
    """
    if calibrate is not None:
        run_calibration(calibrate, method, set_, truth, images, samples, seed, output, force, json, quiet)
        return
    from recon.audit.rows import COLUMNS, DONE, SKIPPED
    from recon.errors import ThresholdError
    from recon.runs.audit import AuditRequest, parse_given, parse_kinds, run_audit
    from recon.runs.audit_files import audit_json, finish_report, open_report, save_rows

    limit = budget if budget is not None else None if full or curve or case else BUDGET
    request = AuditRequest(
        method or (),
        case or (),
        parse_kinds(settings),
        parse_given(set_ or ()),
        samples or 1000,
        seed,
        full,
        limit,
        curve,
    )
    known = open_report(report, resume, force) if report is not None else []
    rows: list[Row] = []
    with progress("audit", quiet) as show:
        for row in run_audit(request, known, show):
            rows.append(row)
            if report is not None:
                save_rows(report, rows, seed)
    outputs = finish_report(report, rows, seed) if report is not None else {}
    if json:
        print_json({**audit_json(rows, seed), "outputs": outputs})
    else:
        print_table(COLUMNS, [row.cells() for row in rows if row.status != SKIPPED])
        print_facts(outputs)
    for row in rows:
        if row.status == SKIPPED:
            note(f"skipped {row.method}, {row.kind}, {row.case}: {row.reason}", quiet)
    missed = [row for row in rows if row.status != SKIPPED and not (row.status == DONE and row.within)]
    if strict and missed:
        raise ThresholdError(
            f"{len(missed)} of {len(rows)} rows miss the bars", "first: " + " ".join(missed[0].cells()[:3])
        )
