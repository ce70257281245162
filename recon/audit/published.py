"""The audit that this version was published with, and the warnings that follow from it; without torch or numpy.

`published.json` holds the numbers of a recorded run, written by `benchmarks/publish_audit.py` and never by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

# what is worth a warning: spread in a band over the exact one, and the share of the way from prior to posterior mean
COLLAPSED, INFLATED, UNUSED = 0.5, 2.0, 0.5
KINDS = ("preset", "tuned")


def published() -> list[dict[str, Any]]:
    """Return the recorded rows; none where nothing was published."""
    path = files("recon.audit") / "published.json"
    found: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.is_file() else []
    return found


def condensed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is published of a row of the audit given as JSON."""
    kept = {key: row[key] for key in ("method", "kind", "source", "case", "status", "linear_gaussian", "within")}
    statistics = row["statistics"]
    if statistics is not None:
        kept["mean"] = _short(statistics["mean"]["value"])
        kept["std"] = {band: _short(e["value"]) for band, e in statistics["std"].items()}
        kept["data_use"] = _short(statistics["data_use"])
    return kept


def audit_facts(method: str, rows: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Return {"audit": one line, "warnings": lines} of a method, from `rows` or the published ones.

    A warning names the presets (cases, where a method has its defaults) whose spread collapses below half of the exact
    one in a band, or exceeds twice of it, that use less than half of what the data say, and that diverge; each with its
    worst case.
    """
    mine = [row for row in (published() if rows is None else rows) if row["method"] == method]
    if not mine:
        return {"audit": "not audited", "warnings": []}
    line = "; ".join(text for kind in KINDS if (text := _met([row for row in mine if row["kind"] == kind], kind)))
    preset = [row for row in mine if row["kind"] == "preset"]
    measured = [row for row in preset if "std" in row]
    low = [(min(row["std"].values()), row) for row in measured]
    high = [(-max(row["std"].values()), row) for row in measured]
    use = [(row["data_use"], row) for row in measured if row["linear_gaussian"]]
    diverged = [(0.0, row) for row in preset if row["status"] == "diverged"]
    lines = [
        _warning("collapses its spread", "{:.2g} of the exact one", [(v, r) for v, r in low if v < COLLAPSED]),
        _warning("spreads too far", "{:.2g} times the exact spread", [(v, r) for v, r in high if v < -INFLATED]),
        _warning("ignores its data", "{:.2g} of what they say is used", [(v, r) for v, r in use if v < UNUSED]),
        _warning("diverges", "", diverged),
    ]
    return {"audit": line, "warnings": [line for line in lines if line]}


def _met(rows: Sequence[Mapping[str, Any]], kind: str) -> str:
    done = [row for row in rows if row["linear_gaussian"] and row["status"] != "skipped"]
    met = sum(row["within"] for row in done)
    return f"within the bars on {met} of {len(done)} linear-Gaussian cases at {kind} settings" if done else ""


def _warning(what: str, unit: str, found: Sequence[tuple[float, Mapping[str, Any]]]) -> str:
    """Return one line that names presets with their lowest value and its case, or cases with the value; or ""."""
    worst: dict[str, str] = {}
    for value, row in sorted(found, key=lambda entry: entry[0]):
        kind, _, name = row["source"].partition(" ")
        is_preset = kind == "preset"
        facts = [unit.format(abs(value))] * bool(unit) + [row["case"]] * is_preset
        worst.setdefault(name if is_preset else row["case"], f" ({', '.join(facts)})" if facts else "")
    return f"{what}: {', '.join(name + facts for name, facts in worst.items())}" if worst else ""


def _short(value: float) -> float:
    return float(f"{value:.4g}")
