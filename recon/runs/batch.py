"""`recon batch`: many reconstructions in one warm process.

Where it pays, inputs that are alike run side by side, and the network sees their images together (`lockstep.py`): each
keeps its own operator, noise and steps, so that its result is that of a run by itself to the rounding of the network.
A network is exported to a faster backend once for all, so that a batch may take one where a run by itself would not.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from recon.config.schema import Config
from recon.data import Measurement
from recon.errors import ReconError
from recon.io.registry import read_measurement
from recon.io.source import split_inner
from recon.priors.backends import WarmBackends
from recon.priors.base import Denoiser
from recon.priors.catalog import prior_path
from recon.priors.open import open_prior
from recon.runs.device import choose_chunk, choose_device
from recon.runs.execute import Accelerate, Progress
from recon.runs.lockstep import choose_together, in_lockstep
from recon.runs.manifest import BatchItem
from recon.runs.methods import make_method
from recon.runs.outputs import check_outputs, output_names
from recon.runs.plan import Plan
from recon.runs.reconstruct import OnProgress, RunReport, RunRequest, reconstruct

OK, FAILED, SKIPPED = "ok", "failed", "skipped"
# a larger file runs by itself: side by side, what each run holds adds up
SMALL_BYTES = 64 * 2**20


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

    A prior is opened once, and exported once where its backend asks for it. The next inputs are read while the network
    works. Outputs appear whole or not at all, so a batch that was killed goes on with `skip_existing`. Of inputs that
    run side by side, all are finished before `fail_fast` ends the batch.
    Raises before any work: OutputExistsError where an output exists and neither `skip_existing` nor `force` is set,
    ConfigError or ResourceError for a method, prior or device that no item could use.
    """
    run = request.config.run
    method = make_method(request.config.method.name, request.config.method.params)
    if method.uses_prior:
        prior_path(request.config.prior.name)
    device = choose_device(run.device)
    together = choose_together(run.together, method, choose_chunk(run.chunk, run.samples, device), device)
    for item in request.items:
        (request.folder / item.output).parent.mkdir(parents=True, exist_ok=True)
    done = _finished(request)
    yield from (BatchResult(item, SKIPPED) for item in request.items if item in done)
    groups, number = _groups([item for item in request.items if item not in done], together), len(done)
    warm = _Warm(on_plan, on_progress)
    with ThreadPoolExecutor(1) as reader:
        ahead = [_read(reader, item) for item in groups[0]] if groups else []
        for group, following in zip(groups, [*groups[1:], []], strict=False):
            reads, ahead = ahead, [_read(reader, item) for item in following]
            for item in group:
                number += 1
                on_start(number, item)
            results = _reconstructed(request, group, reads, warm)
            yield from results
            if request.fail_fast and any(result.status == FAILED for result in results):
                break


@final
class _Warm:
    """What the items of a batch share: the opened prior, its backend, and who is told how far they are."""

    def __init__(self, on_plan: Callable[[Plan], None], on_progress: OnProgress | None) -> None:
        self._open, self._on_plan, self._on_progress = functools.cache(open_prior), on_plan, on_progress
        self._one = threading.RLock()
        self.backends = WarmBackends()

    def opener(self, path: Path) -> Denoiser:
        """Return a prior, opened at the first call."""
        with self._one:
            return self._open(path)

    def planned(self, plan: Plan) -> None:
        """Tell of a plan, one at a time."""
        with self._one:
            self._on_plan(plan)

    def progress(self) -> OnProgress | None:
        """Return whom runs side by side tell how far they are: the foremost is shown."""
        on_progress, most = self._on_progress, 0
        if on_progress is None:
            return None

        def report(reached: Progress) -> None:
            nonlocal most
            with self._one:
                if reached.done > most:
                    most = reached.done
                    on_progress(reached)

        return report


def _groups(items: list[BatchItem], together: int) -> list[list[BatchItem]]:
    """Return the items in order, neighbours whose files are small in groups of up to `together`."""
    groups: list[list[BatchItem]] = []
    for item in items:
        small = together > 1 and _is_small(item.source)
        if groups and small and len(groups[-1]) < together and _is_small(groups[-1][-1].source):
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _is_small(source: Path) -> bool:
    path = Path(split_inner(str(source))[0])
    return path.is_file() and path.stat().st_size <= SMALL_BYTES


def _reconstructed(
    request: BatchRequest, group: list[BatchItem], reads: Sequence[Future[Measurement]], warm: _Warm
) -> list[BatchResult]:
    """Return the results of a group's items; those that are alike run side by side."""
    found: dict[int, BatchResult] = {}
    for places in _alike(group, reads):
        on_progress = warm.progress()
        singles = [_single(request, group[place], len(places)) for place in places]
        runs = [
            functools.partial(_run, single, reads[place], warm, on_progress)
            for place, single in zip(places, singles, strict=True)
        ]
        for place, ended in zip(places, in_lockstep(runs, warm.backends), strict=True):
            if isinstance(ended, RunReport):
                found[place] = BatchResult(group[place], OK, ended)
            else:
                found[place] = BatchResult(group[place], FAILED, error=_told(ended))
    return [found[place] for place in range(len(group))]


def _run(
    single: RunRequest, read: Future[Measurement], warm: _Warm, on_progress: OnProgress | None, accelerate: Accelerate
) -> RunReport:
    return reconstruct(single, warm.planned, on_progress, warm.opener, read.result(), accelerate)


def _alike(group: list[BatchItem], reads: Sequence[Future[Measurement]]) -> list[list[int]]:
    """Return the places in a group of the items whose data have one shape and type, and one kind of operator."""
    kinds: dict[Any, list[int]] = {}
    for place, (item, read) in enumerate(zip(group, reads, strict=True)):
        if read.exception() is not None:
            kinds[place] = [place]
            continue
        measurement = read.result()
        kind = measurement.operator.kind if measurement.operator is not None else None
        key = (measurement.y.shape, measurement.y.dtype, kind, item.operator is None)
        kinds.setdefault(key, []).append(place)
    return list(kinds.values())


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


def _single(request: BatchRequest, item: BatchItem, together: int) -> RunRequest:
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
        # those that are there already count, so that a batch that goes on takes the backend that it began with
        items=len(request.items),
        items_together=together,
    )


def _told(err: Exception) -> ReconError:
    """Return the error of one item as its result tells it; a bug in one must not lose the others."""
    if isinstance(err, ReconError):
        return err
    first = (str(err).splitlines() or [""])[0]
    return ReconError(f"unexpected {type(err).__name__}: {first}", "run this input alone with --debug and report it")
