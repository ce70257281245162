"""The audit as one page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recon.audit.catalog import case_info
from recon.audit.rows import COLUMNS, SKIPPED, Row
from recon.audit.settings import CURVE
from recon.audit.statistics import MEAN_BAR, STD_BAR

HEAD = f"""# Audit of the methods against exact posteriors

Each method draws samples of problems whose posterior is known exactly: Gaussian priors with a power-law spectrum under
linear operators, Gaussian mixtures with several posterior modes, and non-linear measurements of a single number.
`preset` rows have the settings of the shipped preset of that problem, or the method's defaults where there is none;
`tuned` rows have settings chosen for exactness (`recon/audit/settings/`).

The bars: a mean within {100 * MEAN_BAR:g} % of a posterior standard deviation (root mean square over values, the
expected error of the samples' own mean taken off), and a standard deviation within {100 * STD_BAR:g} % of the exact one
in every spectral band. Errors are one standard error, by the jackknife. Numbers in brackets are what as many exact
draws give.

- mean bias: in percent of the posterior standard deviation.
- std / exact: mean over values of the samples' over the exact standard deviation, in four bands of spatial frequency
  (up to 1/8, 1/4, 1/2 of the Nyquist frequency, and beyond).
- covariance: relative error along the eight directions in which the posterior spreads most.
- sliced W2: Wasserstein distance of projections on random directions, in posterior standard deviations.
- coverage: exact probability of the samples' central intervals.
- residual: ||y - A x|| over its expected norm.
- data use: share of the way from the prior's mean to the posterior's that the samples' mean has gone.
- NFE: network evaluations for each sample.
"""


def markdown(rows: Sequence[Row], facts: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """Return the page; facts: name -> value of the run, pictures: title -> file name."""
    table = [row for row in rows if row.kind != CURVE]
    parts = [HEAD, "Run: " + ", ".join(f"{name} {value}" for name, value in facts.items()) + ".\n"]
    parts += [f"![{title}]({name})\n" for title, name in pictures.items()]
    for method in dict.fromkeys(row.method for row in table):
        mine = [row for row in table if row.method == method]
        parts.append(f"## {method}\n\n" + _table(COLUMNS[1:], [row.cells()[1:] for row in mine if row.statistics]))
        left_out = [f"- {row.case}, {row.kind}: {row.reason} ({row.status})" for row in mine if not row.statistics]
        if left_out:
            parts.append("Without numbers:\n\n" + "\n".join(left_out) + "\n")
    points = [row for row in rows if row.kind == CURVE and row.status != SKIPPED]
    if points:
        titles = ("method", "setting", *COLUMNS[2:])
        cells = [(row.method, f"{row.source} = {row.params[row.source]}", *row.cells()[2:]) for row in points]
        parts.append("## Convergence curves\n\n" + _table(titles, cells))
    names = dict.fromkeys(row.case for row in rows)
    parts.append("## Cases\n\n" + "\n".join(f"- {name}: {case_info(name).description}" for name in names) + "\n")
    return "\n".join(parts)


def _table(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (titles, ["---"] * len(titles), *cells)]
    return "\n".join(lines) + "\n"
