"""Search settings of a method for exactness on cases of the audit, for recon/audit/settings/METHOD.toml.

    python benchmarks/tune_audit.py dds --case gaussian-inpaint-16 --case gaussian-sr4-16 gamma=0.1,1,10 steps=50,200

Runs every combination of the listed values and prints them by the larger of bias / 2 % and spread error / 5 %, the best
last, for each case and over all of them.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from typing import Any

from recon.audit.pictures import mean_error, std_error
from recon.audit.settings import GIVEN, Settings
from recon.audit.statistics import MEAN_BAR, STD_BAR
from recon.config.sources import parse_value
from recon.runs.audit import AuditRequest, Trialed, audit_one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("grid", nargs="*", metavar="KEY=A,B,...")
    parser.add_argument("--case", action="append", required=True)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--show", type=int, default=5, help="of the best combinations")
    arguments = parser.parse_intermixed_args()
    keys, values = [], []
    for text in arguments.grid:
        key, _, listed = text.partition("=")
        keys.append(key)
        values.append([parse_value(part) for part in listed.split(",")])
    totals: dict[str, list[float]] = defaultdict(list)
    for case in arguments.case:
        found = []
        for combination in itertools.product(*values):
            params: dict[str, Any] = dict(zip(keys, combination, strict=True))
            request = AuditRequest(samples=arguments.samples)
            row = audit_one(Trialed(arguments.method, Settings(GIVEN, "search", params), case), request, None)
            if row.status != "done":
                print(f"{case} {params}: {row.status} {row.reason}")
                continue
            score = max(mean_error(row) / MEAN_BAR, std_error(row) / STD_BAR)
            totals[str(params)].append(score)
            found.append((score, params, row))
        for score, params, row in sorted(found, key=lambda entry: -entry[0])[-arguments.show :]:
            print(f"{case} {score:.2f} {params} {' | '.join(row.cells()[4:])}", flush=True)
    whole = [(max(scores), name) for name, scores in totals.items() if len(scores) == len(arguments.case)]
    for score, name in sorted(whole, reverse=True)[-arguments.show :]:
        print(f"all {score:.2f} {name}")


if __name__ == "__main__":
    main()
