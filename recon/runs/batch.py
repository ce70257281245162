"""`recon batch`: many reconstructions in one warm process."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recon.config.schema import Config
from recon.data import Measurement
from recon.errors import ReconError
from recon.io.registry import read_measurement
from recon.priors.backends import WarmBackends
from recon.priors.catalog import prior_path
from recon.priors.open import open_prior
from recon.runs.manifest import BatchItem
from recon.runs.methods import make_method
from recon.runs.outputs import check_outputs, output_names
from recon.runs.plan import Plan
from recon.runs.reconstruct import OnProgress, RunReport, RunRequest, reconstruct

OK, FAILED, SKIPPED = "ok", "failed", "skipped"


@dataclass(frozen=True)
class BatchRequest:
    """What the user asked for: items, where their outputs go, and the configuration that they share."""

    items: list[BatchItem]
    folder: Path
    config: Config
    preset: str
    skip_existing: bool = False
    fail_fast: bool = False
    force: bool = False
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class BatchResult:
    """How one item ended: the report of its run, or the error that it ended with."""

    item: BatchItem
    status: str
    report: RunReport | None = None
    error: ReconError | None = None

    def json(self) -> dict[str, Any]:
        """The result as a JSON-able object."""
        found: dict[str, Any] = {"input": str(self.item.source), "status": self.status}
        if self.report is not None:
            found |= self.report.json() | {"status": self.status}
        if self.error is not None:
            found |= {"error": self.error.message, "hint": self.error.hint, "exit_code": self.error.exit_code}
        return found


def run_batch(
    request: BatchRequest,
    on_start: Callable[[int, BatchItem], None],
    on_plan: Callable[[Plan], None],
    on_progress: OnProgress | None,
) -> Iterator[BatchResult]:
    """Yield the result of each item in turn; an item that fails does not stop the others, unless `fail_fast`.

    A prior is opened once, and exported once where its backend asks for it. The next input is read while the network
    works. Outputs appear whole or not at all, so a batch that was killed goes on with `skip_existing`.
    Raises before any work: OutputExistsError where an output exists and neither `skip_existing` nor `force` is set,
    ConfigError or ResourceError for a method or prior that no item could use.
    """
    method = make_method(request.config.method.name, request.config.method.params)
    if method.uses_prior:
        prior_path(request.config.prior.name)
    for item in request.items:
        (request.folder / item.output).parent.mkdir(parents=True, exist_ok=True)
    done = _finished(request)
    yield from (BatchResult(item, SKIPPED) for item in request.items if item in done)
    work, opener = [item for item in request.items if item not in done], functools.cache(open_prior)
    accelerate = WarmBackends()
    with ThreadPoolExecutor(1) as reader:
        reads = deque(_read(reader, item) for item in work[:1])
        for number, item in enumerate(work):
            read = reads.popleft()
            reads.extend(_read(reader, following) for following in work[number + 1 : number + 2])
            on_start(len(done) + number + 1, item)
            try:
                report = reconstruct(_single(request, item), on_plan, on_progress, opener, read.result(), accelerate)
            except Exception as err:
                yield BatchResult(item, FAILED, error=_told(err))
                if request.fail_fast:
                    break
            else:
                yield BatchResult(item, OK, report)


def _finished(request: BatchRequest) -> set[BatchItem]:
    """Return the items that are there already, by their sidecar, which is written last."""
    done = set()
    for item in request.items:
        names = output_names(request.folder / item.output, request.config.run.samples)
        if request.skip_existing and names.sidecar.exists():
            done.add(item)
        elif not request.skip_existing:
            check_outputs(names, request.force)
    return done


def _read(reader: ThreadPoolExecutor, item: BatchItem) -> Future[Measurement]:
    return reader.submit(read_measurement, item.source, axes=item.axes)


def _single(request: BatchRequest, item: BatchItem) -> RunRequest:
    config = request.config
    if item.seed is not None:
        config = config.model_copy(update={"run": config.run.model_copy(update={"seed": item.seed})})
    return RunRequest(
        source=item.source,
        output=request.folder / item.output,
        config=config,
        preset=request.preset,
        operator_file=item.operator,
        truth=item.truth,
        axes=item.axes,
        # what an interrupted batch left behind without its sidecar is not a result
        force=request.force or request.skip_existing,
        command=request.command,
    )


def _told(err: Exception) -> ReconError:
    """Return the error of one item as its result tells it; a bug in one must not lose the others."""
    if isinstance(err, ReconError):
        return err
    first = (str(err).splitlines() or [""])[0]
    return ReconError(f"unexpected {type(err).__name__}: {first}", "run this input alone with --debug and report it")
