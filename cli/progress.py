"""Progress on stderr: a bar on a terminal; otherwise a plain line every 10 % or 60 s; nothing with -q."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Protocol

from .output import fancy

LINE_SHARE = 0.1
LINE_SECONDS = 60.0


class Reached(Protocol):
    """How far a run is, such as `recon.runs.execute.Progress`."""

    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def sigma(self) -> float: ...


Report = Callable[[Reached], None]


@contextmanager
def progress(label: str, quiet: bool = False, stream: IO[str] | None = None) -> Iterator[Report]:
    """Give a callback that shows how far a run is, for as long as the block lasts."""
    stream = stream or sys.stderr
    if quiet:
        yield lambda reached: None
    elif fancy(stream):
        with _bar(label, stream) as report:
            yield report
    else:
        yield Lines(label, stream).report


class Lines:
    """A plain line when another tenth is done, or a minute has passed since the last."""

    def __init__(self, label: str, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.label, self.stream, self.clock = label, stream, clock
        self.started = self.last = clock()
        self.shown = 0

    def report(self, reached: Reached) -> None:
        """Print a line if one is due."""
        now = self.clock()
        share = reached.done / max(reached.total, 1)
        if int(share / LINE_SHARE + 1e-9) <= self.shown and now - self.last < LINE_SECONDS:
            return
        self.shown, self.last = int(share / LINE_SHARE + 1e-9), now
        left = duration((now - self.started) * (1 - share) / share) if share > 0 else "?"
        line = f"{self.label}: step {reached.done}/{reached.total} sigma {reached.sigma:.3g} eta {left}"
        print(line, file=self.stream, flush=True)


@contextmanager
def _bar(label: str, stream: IO[str]) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("sigma {task.fields[sigma]:.3g}"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(file=stream), transient=False) as bar:
        # hidden until the first step, which comes after checks and baselines
        task = bar.add_task(label, total=None, sigma=0.0, visible=False)
        yield lambda reached: bar.update(
            task, completed=reached.done, total=reached.total, sigma=reached.sigma, visible=True
        )


def duration(seconds: float) -> str:
    """Return seconds as 42s, 3m or 1h05m."""
    minutes = round(seconds / 60)
    if round(seconds) < 60:
        return f"{round(seconds)}s"
    return f"{minutes}m" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
