"""`recon audit`: methods at their settings on cases whose posterior is exact; resumable, within a time budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from recon.audit.cases import build_case
from recon.audit.catalog import DEFAULT, all_cases, case_info
from recon.audit.rows import DIVERGED, DONE, SKIPPED, Row, judged
from recon.audit.settings import GIVEN, PRESET, TUNED, Settings, curve_settings, preset_settings, tuned_settings
from recon.audit.statistics import measure
from recon.audit.trial import OnShare, run_trial
from recon.config.sources import sets_layer
from recon.errors import ConfigError, NumericalError, UsageError
from recon.runs.execute import Progress
from recon.runs.methods import SAMPLERS, make_method, method_class, missing_needs
from recon.samplers.base import Status

LEAST_SAMPLES = 100
TICKS = 100  # of progress in a row
LOST = 1e3  # bias, in posterior standard deviations, that is a divergence and not an error
PATIENCE = 1.0  # seconds before the speed of a trial is believed


@dataclass(frozen=True)
class AuditRequest:
    """What to audit.

    methods: names of samplers; none stands for all.  cases: names; none stands for the default or, if `full`, all.
    kinds: "preset", "tuned".  given: settings of --set for all methods, as a third kind in place of the others.
    samples: for an image; cases of few dimensions take a multiple.  budget: seconds of one method; None: no limit.
    curves: run the methods' convergence curves, and the cases only if `full`.
    """

    methods: Sequence[str] = ()
    cases: Sequence[str] = ()
    kinds: Sequence[str] = (PRESET, TUNED)
    given: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 1000
    seed: int = 0
    full: bool = False
    budget: float | None = None
    curves: bool = False


@dataclass(frozen=True)
class Trialed:
    """One line of work: a method, its settings, and a case."""

    method: str
    settings: Settings
    case: str


def parse_kinds(text: str) -> tuple[str, ...]:
    """Return the kinds of settings that `--settings` names. Raises UsageError on anything else."""
    kinds = {"both": (PRESET, TUNED), PRESET: (PRESET,), TUNED: (TUNED,)}
    if text not in kinds:
        raise UsageError(f"--settings {text}", f"choose from: {', '.join(kinds)}")
    return kinds[text]


def parse_given(sets: Sequence[str]) -> dict[str, Any]:
    """Return the method's settings that `--set method.key=value` gives. Raises ConfigError for any other section."""
    values = sets_layer(sets).values
    section = values.pop("method", {})
    if values or not isinstance(section, dict) or "name" in section:
        raise ConfigError("an audit takes settings of the method alone", "use --set method.KEY=VALUE, and --method")
    return section


class OverBudget(Exception):
    """A trial would take longer than what is left of the budget; its text is the reason."""


def plan_audit(request: AuditRequest) -> list[Trialed]:
    """Return the work of a request, cases in order for one method after the other.

    Raises ConfigError on unknown methods, cases and settings, and for fewer than 100 samples.
    """
    if request.samples < LEAST_SAMPLES:
        raise ConfigError(f"an audit needs at least {LEAST_SAMPLES} samples, got {request.samples}")
    for name in request.methods:
        method_class(name)
        if name not in SAMPLERS:
            raise ConfigError(f"method '{name}' draws no samples to audit", f"choose from: {', '.join(SAMPLERS)}")
    cases = list(request.cases) or (all_cases() if request.full else list(DEFAULT))
    if request.curves and not request.full:
        cases = []
    work = []
    for method in request.methods or tuple(SAMPLERS):
        for case in cases:
            info = case_info(case)
            if request.given:
                found: list[Settings | None] = [Settings(GIVEN, "--set", dict(request.given))]
            else:
                makers = {PRESET: preset_settings, TUNED: tuned_settings}
                found = [makers[kind](method, info) for kind in request.kinds]
            work += [Trialed(method, settings, case) for settings in found if settings is not None]
        if request.curves:
            work += [Trialed(method, settings, case) for case, settings in curve_settings(method)]
    for trial in work:
        make_method(trial.method, trial.settings.params)
    return work


def run_audit(
    request: AuditRequest, known: Sequence[Row] = (), on_progress: Callable[[Progress], None] | None = None
) -> Iterator[Row]:
    """Yield a row for each line of work as it is done; rows of `known` with the same key are not run again."""
    work = plan_audit(request)
    finished = {str(row.key): row for row in known if row.status != SKIPPED}
    spent: dict[str, float] = {}
    for number, trial in enumerate(work):
        row = finished.get(str(blank(trial, request).key))
        if row is None:
            started = time.monotonic()
            left = None if request.budget is None else request.budget - spent.get(trial.method, 0.0)
            row = audit_one(trial, request, left, _ticks(number, len(work), on_progress))
            spent[trial.method] = spent.get(trial.method, 0.0) + time.monotonic() - started
        if on_progress is not None:
            on_progress(Progress((number + 1) * TICKS, len(work) * TICKS, 0.0))
        yield row


def audit_one(
    trial: Trialed, request: AuditRequest, left: float | None, on_share: OnShare = lambda share, sigma: None
) -> Row:
    """Return the row of one line of work.

    left: seconds that it may take; the trial stops, and the row is skipped, as soon as its speed shows that it takes
    longer. A method that refuses the problem gives a skipped row with its reason.
    """
    empty = blank(trial, request)
    case = build_case(trial.case)
    missing = missing_needs(method_class(trial.method), case.problem.operator)
    if missing:
        return _with(empty, status=SKIPPED, reason=f"needs {', '.join(missing)}, which the operator does not offer")
    method = make_method(trial.method, trial.settings.params)
    try:
        done = run_trial(method, case, empty.samples, request.seed, _deadline(left, on_share))
    except NumericalError as err:
        return _with(empty, status=DIVERGED, reason=err.message)
    except ConfigError as err:
        return _with(empty, status=SKIPPED, reason=err.message)
    except OverBudget as over:
        return _with(empty, status=SKIPPED, reason=f"{over} (--budget, --full)")
    counts = {
        "nfe": done.nfe,
        "backprops": done.backprops,
        "operator_calls": done.operator_calls,
        "seconds": round(done.seconds, 2),
        "linear_gaussian": case.linear_gaussian,
    }
    if done.status is not Status.OK:
        return _with(empty, status=DIVERGED, reason="samples became non-finite", **counts)
    found = measure(done.rows, case, request.seed)
    if not found.mean.value < LOST:
        return _with(empty, status=DIVERGED, reason=f"samples are {found.mean.value:.1g} spreads off", **counts)
    return _with(empty, **judged(found), **counts)


def blank(trial: Trialed, request: AuditRequest) -> Row:
    """Return the row of one line of work before it is run."""
    info = case_info(trial.case)
    return Row(
        method=trial.method,
        kind=trial.settings.kind,
        source=trial.settings.source,
        params=trial.settings.params,
        case=trial.case,
        samples=request.samples * info.share,
        seed=request.seed,
        status=DONE,
        linear_gaussian=False,
    )


def _with(row: Row, **changes: Any) -> Row:
    return Row(**{**asdict(row), **changes})


def _deadline(left: float | None, on_share: OnShare) -> OnShare:
    """Return a callback that reports the share done, and raises OverBudget once the end is out of reach.

    The speed is that after the first report, for a first step also loads what it needs.
    """
    started = time.monotonic()
    first: list[tuple[float, float]] = []

    def report(share: float, sigma: float) -> None:
        on_share(share, sigma)
        now = time.monotonic()
        if left is None or share >= 1:
            return
        if now - started > left:
            raise OverBudget("the time budget is spent")
        if not first:
            first.append((now, share))
        elif now - first[0][0] > PATIENCE:
            whole = now - started + (1 - share) * (now - first[0][0]) / (share - first[0][1])
            if whole > left:
                raise OverBudget(f"takes about {whole:.0f} s, over the time budget")

    return report


def _ticks(number: int, total: int, on_progress: Callable[[Progress], None] | None) -> OnShare:
    """Return a callback that turns the share done of row `number` into progress over all rows."""

    def report(share: float, sigma: float) -> None:
        if on_progress is not None:
            on_progress(Progress(number * TICKS + int(share * TICKS), total * TICKS, sigma))

    return report
