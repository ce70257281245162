"""`recon run`: read, plan, execute, score, write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from recon.config.schema import Config
from recon.data import Measurement, OperatorSpec, Volume, from_stack, to_stack
from recon.errors import InputError, ReconError
from recon.io.atomic import write_bytes
from recon.io.catalog import format_of_name
from recon.io.registry import read_measurement, read_volume, write_volume
from recon.io.source import real_name, split_inner
from recon.metrics.evaluate import evaluate
from recon.metrics.protocols import find_protocol
from recon.priors.backends import with_backend
from recon.priors.base import Denoiser
from recon.priors.open import open_prior
from recon.runs.execute import Accelerate, Diverged, Outcome, Progress, execute
from recon.runs.operator_files import load_operator
from recon.runs.outputs import (
    OutputNames,
    all_or_nothing,
    check_images,
    check_outputs,
    image_geometry,
    last_state_name,
    output_names,
    write_images,
    write_sidecar,
)
from recon.runs.plan import Plan, make_plan
from recon.runs.provenance import bytes_sha256, content_sha256, portable_path
from recon.runs.report import report_page
from recon.runs.saved import Keeper, Saved, check_identity, identity, pinned, read_saved, state_name
from recon.runs.sidecar import run_sidecar

OnProgress = Callable[[Progress], None]
Opener = Callable[[Path], Denoiser]


@dataclass(frozen=True)
class RunRequest:
    """What the user asked for. `source` is a path, or the bytes of standard input; `output` None is standard output.

    keep_state: save what is done when the run is interrupted.  resume: go on from what was saved.
    items: inputs of a batch, this one among them, that share the prior and its backend.
    items_together: those of them whose images the network may see together.
    """

    source: Path | bytes
    output: Path | None
    config: Config
    preset: str
    operator_file: Path | None = None
    truth: Path | None = None
    axes: str | None = None
    force: bool = False
    sidecar: bool = True
    command: tuple[str, ...] = ()
    report: Path | None = None
    keep_state: bool = False
    resume: bool = False
    items: int = 1
    items_together: int = 1


@dataclass(frozen=True)
class RunReport:
    """What `recon run` prints."""

    status: str
    metrics: dict[str, Any]
    protocol: str | None
    outputs: dict[str, str]
    statistics: dict[str, Any]
    notices: list[str]

    def json(self) -> dict[str, Any]:
        """The report as a JSON-able object."""
        return {
            "status": self.status,
            "metrics": self.metrics,
            "protocol": self.protocol,
            "outputs": self.outputs,
            **self.statistics,
            "notices": self.notices,
        }


def plan_request(
    request: RunRequest, opener: Opener = open_prior, measurement: Measurement | None = None
) -> tuple[Plan, Volume | None]:
    """Return the plan of a request and its truth; refuses outputs that exist before reading weights.

    measurement: what `request.source` holds, where it is read already.
    """
    if request.output is not None:
        check_outputs(output_names(request.output, request.config.run.samples, request.report), request.force)
    if measurement is None:
        measurement = read_measurement(request.source, axes=request.axes)
    spec = _operator_file(request.operator_file)
    truth = read_volume(request.truth) if request.truth is not None else None
    plan = make_plan(request.config, measurement, spec, opener, request.items)
    plan = replace(plan, items_together=request.items_together)
    if truth is not None:
        _check_truth(truth, plan)
    form = format_of_name(request.output.name) if request.output is not None else None
    if form is not None and form.name == "dicom":
        plan.notices.append("the DICOM series is derived and marked: not for diagnostic use")
    if request.output is not None:
        names, is_complex = output_names(request.output, plan.samples), plan.operator.in_dtype.is_complex
        check_images(names, plan.samples, plan.input.image_shape, is_complex, plan.input.measurement.geometry)
    return plan, truth


def reconstruct(
    request: RunRequest,
    on_plan: Callable[[Plan], None],
    on_progress: OnProgress | None,
    opener: Opener = open_prior,
    measurement: Measurement | None = None,
    accelerate: Accelerate = with_backend,
) -> RunReport:
    """Run a request from files to files; opener, measurement: see `plan_request`; accelerate: see `execute`.

    Raises ReconError; nothing is left behind on failure, but for the last good state of a method that diverged.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    saved = _saved(request)
    if saved is not None and request.output is not None:
        request = replace(request, config=pinned(request.config, saved, state_name(request.output).name))
    plan, truth = plan_request(request, opener, measurement)
    keeper = _keeper(request, plan, saved)
    on_plan(plan)
    try:
        outcome = execute(plan, on_progress, keeper, accelerate)
        report = _finish(request, plan, outcome, truth, started)
    except Diverged as err:
        _keep_last(request, plan, err, started)
        if keeper is not None:
            keeper.remove()
        raise
    except BaseException as err:
        if keeper is not None and not isinstance(err, Exception):
            _save(keeper, err)
        raise
    if keeper is not None:
        keeper.remove()
    return report


def _finish(request: RunRequest, plan: Plan, outcome: Outcome, truth: Volume | None, started: str) -> RunReport:
    """Score and write an outcome."""
    mean = outcome.mean
    metrics, protocol = _score(mean, outcome, truth, plan)
    statistics = {
        "seconds": round(outcome.seconds, 3),
        "nfe": outcome.nfe,
        "samples": plan.samples,
        "peak_memory_mb": round(outcome.peak_memory_mb, 1),
    }
    notices = list(plan.notices)
    if request.output is None:
        image = mean.astype(np.complex64 if np.iscomplexobj(mean) else np.float32)
        geometry = image_geometry(plan.input.measurement.geometry, mean.shape)
        write_volume("-", from_stack(image, geometry))
        return RunReport("ok", metrics, _name(protocol), {}, statistics, notices)
    names = output_names(request.output, plan.samples, request.report)
    outputs = _write(request, plan, outcome, names, metrics, protocol, started, truth=truth)
    shown = {k: str(names.image.parent / name) for k, name in outputs.items()}
    return RunReport("ok", metrics, _name(protocol), shown, statistics, notices)


def _saved(request: RunRequest) -> Saved | None:
    return read_saved(state_name(request.output)) if request.resume and request.output is not None else None


def _keeper(request: RunRequest, plan: Plan, saved: Saved | None) -> Keeper | None:
    """Return what takes in how far the run is. Raises ConfigError where a saved state is of another run."""
    if not request.keep_state or request.output is None:
        return None
    path, source, operator = state_name(request.output), request.source, request.operator_file
    digest = bytes_sha256(source) if isinstance(source, bytes) else _source(source, path.parent)["sha256"]
    now = identity(plan, digest, None if operator is None else content_sha256(operator))
    if saved is not None:
        check_identity(saved, now, path.name)
        plan.notices.append(f"going on from {path.name}: {saved.describe()}")
    elif request.resume:
        plan.notices.append(f"nothing to resume: there is no {path.name}")
    elif path.exists():
        plan.notices.append(f"{path.name} is left by an interrupted run, and not used: --resume goes on from it")
    return Keeper(path, now, saved)


def _save(keeper: Keeper, err: BaseException) -> None:
    """Save what is done as a run is interrupted, and say so in a note of the error."""
    try:
        if keeper.save():
            err.add_note(f"state saved in {keeper.path.name}; go on with --resume")
    except ReconError as failure:
        err.add_note(f"state not saved: {failure.message}")


def _write(
    request: RunRequest,
    plan: Plan,
    outcome: Outcome,
    names: OutputNames,
    metrics: dict[str, Any] | None,
    protocol: dict[str, Any] | None,
    started: str,
    status: str = "ok",
    truth: Volume | None = None,
) -> dict[str, str]:
    """Write all files of a run or none; return their names by kind."""
    mean, folder = outcome.mean, names.image.parent
    geometry = image_geometry(plan.input.measurement.geometry, mean.shape)
    kinds = {"image": names.image, "std": names.std, "samples": names.samples}
    outputs = {k: p.name for k, p in kinds.items() if p is not None}
    if names.report is not None:
        outputs["report"] = portable_path(names.report, folder)
    with all_or_nothing(names):
        std = request.config.run.std_factor * outcome.std if names.std is not None else None
        write_images(names, mean, std, outcome.samples, geometry, request.force)
        if request.sidecar:
            sources = _sources(request, folder)
            command = list(request.command)
            content = run_sidecar(
                plan, outcome, command, folder, sources, request.preset, metrics, protocol, outputs, started, status
            )
            write_sidecar(names.sidecar, content, request.force)
            outputs["sidecar"] = names.sidecar.name
            if names.report is not None:
                html = report_page(plan, outcome, truth, content)
                write_bytes(names.report, html.encode(), force=request.force)
    return outputs


def _keep_last(request: RunRequest, plan: Plan, err: Diverged, started: str) -> None:
    """Write the last good state of a run that diverged beside its output, and say so in the error's hint."""
    if request.output is None or err.last is None:
        return
    names = output_names(last_state_name(request.output), 1)
    try:
        check_outputs(names, request.force)
        _write(request, plan, err.last, names, None, None, started, "diverged")
    except (ReconError, OSError):
        err.hint = f"{err.hint}; its last good state was not saved: {names.image.name} cannot be written"
    else:
        err.hint = f"{err.hint}; its last good state is in {names.image.name}"


def _operator_file(path: Path | None) -> OperatorSpec | None:
    return load_operator(path) if path is not None else None


def _check_truth(truth: Volume, plan: Plan) -> None:
    stack = to_stack(truth)
    expected = plan.input.image_shape
    if stack.shape != expected:
        raise InputError(
            f"the truth has shape {stack.shape} (items, channels, rows, columns), the reconstruction {expected}",
            "give the image that the measurement was made of",
        )


def _score(
    mean: np.ndarray, outcome: Outcome, truth: Volume | None, plan: Plan
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the metrics of the mean and the protocol's description; without a truth the residual alone."""
    metrics: dict[str, Any] = {"residual": float(np.mean(outcome.residual_of_mean))}
    if truth is None:
        return metrics, None
    protocol, reference = find_protocol(plan.config.metrics.protocol), to_stack(truth)
    declared = truth.geometry.value_range
    metrics |= evaluate(mean, reference, protocol, declared)
    if plan.samples > 1:
        single = [evaluate(s, reference, protocol, declared)["psnr"] for s in outcome.samples]
        known = [p for p in single if p is not None]
        metrics["psnr_single_sample"] = float(np.mean(known)) if known else None
    return metrics, protocol.describe()


def _name(protocol: dict[str, Any] | None) -> str | None:
    return str(protocol["name"]) if protocol is not None else None


def _sources(request: RunRequest, folder: Path) -> dict[str, dict[str, str]]:
    sources = {}
    if isinstance(request.source, bytes):
        sources["input"] = {"file": "-", "sha256": bytes_sha256(request.source)}
    else:
        sources["input"] = _source(request.source, folder)
    if request.axes is not None:
        sources["input"]["axes"] = request.axes
    if request.operator_file is not None:
        sources["operator"] = _source(request.operator_file, folder)
    if request.truth is not None:
        sources["truth"] = _source(request.truth, folder)
    return sources


def _source(path: Path, folder: Path) -> dict[str, str]:
    head, inner = split_inner(str(path))
    head = real_name(head)
    name = portable_path(Path(head), folder)
    return {"file": name if inner is None else f"{name}::{inner}", "sha256": content_sha256(Path(head))}
