"""`recon run`: reconstruct an image from a measurement."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import (
    Axes,
    Backend,
    ConfigFile,
    Device,
    DryRun,
    Force,
    Json,
    Method,
    Operator,
    Preset,
    Prior,
    Protocol,
    Quiet,
    Samples,
    Seed,
    Set,
    Truth,
)
from .output import note, print_facts, print_json
from .progress import progress
from .streams import read_source

if TYPE_CHECKING:
    from recon.runs.plan import Plan
    from recon.runs.reconstruct import RunReport


def run(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="Measurement file, image or array; - for stdin.")],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Image to write; - for npy on stdout.")],
    preset: Preset,
    operator: Operator = None,
    prior: Prior = None,
    method: Method = None,
    set_: Set = None,
    config: ConfigFile = None,
    samples: Samples = None,
    seed: Seed = None,
    device: Device = None,
    backend: Backend = None,
    truth: Truth = None,
    protocol: Protocol = None,
    axes: Axes = None,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", metavar="FILE", help="Factor for the std, from recon audit --calibrate."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="FILE.html", help="Also write one page: pictures, settings, scores, citations."
        ),
    ] = None,
    dry_run: DryRun = False,
    sidecar: Annotated[bool, typer.Option(help="Write OUTPUT.json with everything needed to repeat the run.")] = True,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from OUTPUT.state.npz, which an interrupted run has left.")
    ] = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Reconstruct an image from a measurement.

    Writes the mean of the samples to OUTPUT, and with --samples N > 1 also OUTPUT_std and OUTPUT_samples; the JSON
    sidecar OUTPUT.json holds what `recon rerun` needs.
    """
    from recon.config.resolve import resolve
    from recon.errors import UsageError
    from recon.runs.calibrate import read_calibration
    from recon.runs.reconstruct import RunRequest, plan_request, reconstruct

    if output == "-" and json:
        raise UsageError("--json and an image cannot both go to standard output", "write the image to a file")
    if resume and output == "-":
        raise UsageError("--resume needs an output that is a file", "name the OUTPUT of the interrupted run")
    if report is not None and (output == "-" or not sidecar):
        raise UsageError("--report describes a run with an image and a sidecar", "leave out --no-sidecar, name a file")
    if report is not None and report.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"a report is HTML, got {report.name}", "name it with .html")
    fitted = read_calibration(calibration) if calibration is not None else None
    flags = {
        "run.std_factor": fitted.factor if fitted is not None else None,
        "run.samples": samples,
        "run.seed": seed,
        "run.device": device,
        "run.backend": backend,
        "prior.name": prior,
        "metrics.protocol": protocol,
    }
    resolved = resolve(preset, method=method, config_file=config, sets=set_ or (), flags=flags)
    for line in fitted.conflicts(resolved.config) if fitted is not None else ():
        note(line, quiet)
    request = RunRequest(
        source=read_source(source),
        output=None if output == "-" else Path(output),
        config=resolved.config,
        preset=preset if not preset.endswith(".toml") else Path(preset).name,
        operator_file=operator,
        truth=truth,
        axes=axes,
        force=force,
        sidecar=sidecar,
        command=("recon", *sys.argv[1:]),
        report=report,
        keep_state=True,
        resume=resume,
    )
    if dry_run:
        _show_plan(plan_request(request)[0], json, quiet)
        return
    with progress("run", quiet) as reached:
        result = reconstruct(request, lambda plan: announce(plan, quiet), reached)
    if output != "-":
        show_report(result, json)


def announce(plan: Plan, quiet: bool) -> None:
    """Print to stderr what was inferred, and what conflicts were settled."""
    for line in plan.notices:
        note(line, quiet)
    note(f"image values {plan.window.low:.4g} to {plan.window.high:.4g} span the range ({plan.window.source})", quiet)


def show_report(report: RunReport, json: bool) -> None:
    """Print the result of a run to stdout."""
    if json:
        print_json(report.json())
        return
    facts: dict[str, Any] = {"status": report.status}
    facts |= {k: v for k, v in report.metrics.items() if k not in ("items", "data_range", "data_range_source")}
    if report.protocol is not None:
        facts["protocol"] = report.protocol
    facts |= report.statistics | report.outputs
    print_facts(facts)


def _show_plan(plan: Plan, json: bool, quiet: bool) -> None:
    announce(plan, quiet)
    described = plan.describe()
    if json:
        print_json({"status": "planned", **described})
    else:
        print_facts({k: v for k, v in described.items() if k != "notices"})
