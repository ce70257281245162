"""The folder of an audit's report: audit.json after every row, audit.md and pictures at the end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recon import __version__
from recon.audit.pictures import pictures
from recon.audit.report import markdown
from recon.audit.rows import DONE, Row, bars
from recon.errors import InputError
from recon.io.atomic import check_writable, write_bytes

JSON_NAME, PAGE_NAME = "audit.json", "audit.md"


def audit_json(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """Return the audit as one JSON-able object."""
    judged = [row for row in rows if row.status == DONE]
    return {
        "status": "ok",
        "recon": __version__,
        "seed": seed,
        "bars": bars(),
        "within": sum(row.within for row in judged),
        "judged": len(judged),
        "rows": [asdict(row) for row in rows],
    }


def open_report(folder: Path, resume: bool, force: bool) -> list[Row]:
    """Make the folder, refuse one that holds a report, and return the rows to resume from.

    Raises OutputExistsError where a report is there and neither `resume` nor `force` is given, InputError where it
    cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / JSON_NAME
    check_writable([target, folder / PAGE_NAME], force or resume)
    return read_rows(target) if resume and target.exists() else []


def read_rows(path: Path) -> list[Row]:
    """Return the rows of an audit.json. Raises InputError where it is none."""
    try:
        return [Row(**row) for row in json.loads(path.read_text())["rows"]]
    except (ValueError, KeyError, TypeError) as err:
        raise InputError(f"{path.name} is no report of an audit that this version can read", "use --force") from err


def save_rows(folder: Path, rows: Sequence[Row], seed: int) -> None:
    """Write audit.json."""
    content = json.dumps(audit_json(rows, seed), indent=1, allow_nan=False)
    write_bytes(folder / JSON_NAME, (content + "\n").encode(), force=True)


def finish_report(folder: Path, rows: Sequence[Row], seed: int) -> dict[str, str]:
    """Write the page and its pictures; return role -> path of every file of the report."""
    save_rows(folder, rows, seed)
    drawn = pictures(rows)
    for name, png in drawn.values():
        write_bytes(folder / name, png, force=True)
    page = markdown(rows, page_facts(rows, seed), {title: name for title, (name, _) in drawn.items()})
    write_bytes(folder / PAGE_NAME, page.encode(), force=True)
    outputs = {"json": str(folder / JSON_NAME), "page": str(folder / PAGE_NAME)}
    return outputs | {name.removesuffix(".png"): str(folder / name) for name, _ in drawn.values()}


def page_facts(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    """Return what the page says of the run."""
    samples = sorted({row.samples for row in rows})
    seconds = sum(row.seconds for row in rows)
    return {
        "recon": __version__,
        "seed": seed,
        "samples": " to ".join(dict.fromkeys(map(str, (samples[0], samples[-1])))) if samples else "none",
        "seconds": f"{seconds:.0f}",
    }
