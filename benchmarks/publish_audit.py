"""Run the full audit and publish it: docs/audit.md, pictures and numbers in docs/audit/, recon/audit/published.json.

    python benchmarks/publish_audit.py                  every method; resumes where it was stopped
    python benchmarks/publish_audit.py --method dds     one method alone, beside the rows of the others
    python benchmarks/publish_audit.py --curves         the curves of convergence alone
    python benchmarks/publish_audit.py --draw           the page and pictures alone, from the recorded rows

Rows are kept by method, settings, case, samples and seed; after a change to a method's code, use --again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from recon import __version__
from recon.audit.pictures import pictures
from recon.audit.published import condensed
from recon.audit.report import markdown
from recon.audit.rows import Row
from recon.audit.settings import CURVE
from recon.runs.audit import AuditRequest, blank, plan_audit, run_audit
from recon.runs.audit_files import JSON_NAME, PAGE_NAME, finish_report, open_report, page_facts, save_rows
from recon.runs.methods import SAMPLERS

ROOT = Path(__file__).resolve().parent.parent
FOLDER, PAGE = ROOT / "docs" / "audit", ROOT / "docs" / "audit.md"
PUBLISHED = ROOT / "recon" / "audit" / "published.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", action="append", choices=list(SAMPLERS))
    parser.add_argument("--case", action="append")
    parser.add_argument("--curves", action="store_true", help="the curves alone")
    parser.add_argument("--again", action="store_true", help="run the methods' rows anew")
    parser.add_argument("--draw", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    known = open_report(FOLDER, resume=True, force=False)
    methods = arguments.method or list(SAMPLERS)
    if not arguments.draw:
        if arguments.again:
            known = [row for row in known if row.method not in methods]
        known = _run(known, methods, arguments.case or (), arguments.curves)
    _write(known)


def _run(known: list[Row], methods: list[str], cases: list[str], curves: bool) -> list[Row]:
    """Return the known rows with those of the full audit of the methods in their place, saved one by one."""
    request = AuditRequest(methods, cases, full=not curves, curves=curves or not cases)
    planned = [blank(trial, request) for trial in plan_audit(request)]
    total, started = len(planned), time.monotonic()
    # rows at settings that a file or a preset no longer has
    keys, places = {str(row.key) for row in planned}, {(row.method, row.kind, row.case) for row in planned}
    known = [row for row in known if str(row.key) in keys or (row.method, row.kind, row.case) not in places]
    rows = {str(row.key): row for row in known}
    for number, row in enumerate(run_audit(request, known), start=1):
        rows[str(row.key)] = row
        save_rows(FOLDER, list(rows.values()), request.seed)
        minutes = (time.monotonic() - started) / 60
        print(f"{number}/{total} {minutes:.0f}m", *row.cells()[:5], row.seconds, file=sys.stderr, flush=True)
    return list(rows.values())


def _write(rows: list[Row]) -> None:
    """Write the page, the pictures and the numbers that warnings come from, methods in the order of their table."""
    order = {name: i for i, name in enumerate(SAMPLERS)}
    rows = sorted((row for row in rows if row.method in order), key=lambda row: order[row.method])
    finish_report(FOLDER, rows, seed=0)
    (FOLDER / PAGE_NAME).unlink()
    drawn = {title: f"{FOLDER.name}/{name}" for title, (name, _) in pictures(rows).items()}
    facts = {**page_facts(rows, 0), "numbers": f"{FOLDER.name}/{JSON_NAME}"}
    PAGE.write_text(markdown(rows, facts, drawn) + "\nMade by `python benchmarks/publish_audit.py`.\n")
    short = [condensed(asdict(row)) for row in rows if row.kind != CURVE]
    lines = ",\n".join(json.dumps(row) for row in short)
    PUBLISHED.write_text(f'{{"recon": "{__version__}", "rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
