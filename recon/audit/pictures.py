"""The audit's pictures: what each method gets wrong on each case, and how curves approach the exact posterior."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from recon.audit.rows import DIVERGED, Row
from recon.audit.settings import CURVE, PRESET, TUNED
from recon.audit.statistics import MEAN_BAR, STD_BAR
from recon.views.chart import Line, Panel, cell_chart, line_chart
from recon.views.colour import ember
from recon.views.png import encode_png

FLOOR = 1e-3
WORST = 1.0  # error at which a cell has the top colour


def pictures(rows: Sequence[Row]) -> dict[str, tuple[str, bytes]]:
    """Return title -> (file name, PNG) of the pictures that the rows allow."""
    found = {}
    for kind in (PRESET, TUNED):
        mine = [row for row in rows if row.kind == kind and (row.statistics or row.status == DIVERGED)]
        for what, name, of in (("Bias of the mean", "mean", mean_error), ("Error of the spread", "std", std_error)):
            if mine:
                title = f"{what} at {kind} settings, percent"
                found[title] = (f"{name}-{kind}.png", _cells(title, mine, of))
    points = [row for row in rows if row.kind == CURVE and row.statistics]
    for case in dict.fromkeys(row.case for row in points):
        mine = [row for row in points if row.case == case and row.nfe > 0]
        if mine:
            found[f"Convergence on {case}"] = (f"curve-{case}.png", _curves(case, mine))
    return found


def mean_error(row: Row) -> float:
    """Return the bias of the mean in posterior standard deviations; infinite where the method diverged."""
    return math.inf if row.statistics is None else float(row.statistics["mean"]["value"])


def std_error(row: Row) -> float:
    """Return the largest |s_hat/s - 1| over bands; infinite where the method diverged."""
    if row.statistics is None:
        return math.inf
    return max(abs(float(e["value"]) - 1) for e in row.statistics["std"].values())


def _cells(title: str, rows: Sequence[Row], of: Callable[[Row], float]) -> bytes:
    methods, cases = (list(dict.fromkeys(names)) for names in ([r.method for r in rows], [r.case for r in rows]))
    values = np.full((len(methods), len(cases)), np.nan)
    for row in rows:
        values[methods.index(row.method), cases.index(row.case)] = min(of(row), 1e3)
    texts = [["" if np.isnan(v) else "diverged" if v >= 1e3 else f"{100 * v:.1f}" for v in line] for line in values]
    # square roots, so that the colours tell small errors apart
    return encode_png(cell_chart(title, methods, cases, np.sqrt(values), texts, ember(WORST)))


def _curves(case: str, rows: Sequence[Row]) -> bytes:
    named: dict[str, list[Row]] = {}
    for row in rows:
        named.setdefault(f"{row.method} ({row.source})", []).append(row)
    label = "network evaluations for each sample"

    def lines(of: Callable[[Row], float]) -> list[Line]:
        return [Line(name, [r.nfe for r in mine], [of(r) for r in mine]) for name, mine in named.items()]

    panels = [
        Panel(f"{case}: bias of the mean", label, lines(mean_error), FLOOR, MEAN_BAR),
        Panel(f"{case}: error of the spread", label, lines(std_error), FLOOR, STD_BAR),
    ]
    return encode_png(line_chart(panels))
