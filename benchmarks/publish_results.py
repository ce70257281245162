"""Measure every method on every problem of its suite, and publish it: docs/results.jsonl and docs/results.md.

    python benchmarks/publish_results.py                  all suites; resumes where it was stopped
    python benchmarks/publish_results.py --suite photo    one suite alone, beside the rows of the others
    python benchmarks/publish_results.py --draw           the page alone, from the recorded rows
    python benchmarks/publish_results.py --folder DIR     the suites of images that have to be downloaded, too
A row is computed again when the settings or the weights that it depends on have changed.
"""

from __future__ import annotations

import argparse
import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from results import ORACLE, SUITES, case_of, configure, digest, grouped, number, read_rows, run, settings_of

from recon.errors import ReconError
from recon.runs.methods import BASELINES

ROOT = Path(__file__).resolve().parent.parent
ROWS, PAGE = ROOT / "docs" / "results.jsonl", ROOT / "docs" / "results.md"
INTRODUCTION = """# Results

Every method at its preset on images that no prior was trained on and no setting was chosen on, beside classical
baselines; those named oracle have the weight that is best on the truth, which no user could choose. Made by
`python benchmarks/publish_results.py`, which measures what is not in `results.jsonl` yet.

PSNR in dB and SSIM under the problem's protocol, averaged over the images; `gain` is that of the mean over the best
oracle baseline of each image; `residual` is ||y - A x|| over its expected norm, 1 at the truth; network evaluations and
seconds are a sample's, of a volume those of all its slices, on two shared CPU cores. A classical baseline of a volume
has no oracle but `tv`, in three dimensions.
"""
HEAD = ("method", "one sample", "mean", "SSIM of the mean", "gain", "residual", "network evaluations", "seconds")


def main() -> None:
    """Parse the command line."""
    suites = {name: suite for name, suite in tomllib.loads(SUITES.read_text()).items() if "tuning" not in name}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", action="append", choices=list(suites))
    parser.add_argument("--draw", action="store_true", help="run nothing")
    parser.add_argument("--folder", type=Path, help="of images that are not shipped; without it their suites are left")
    arguments = parser.parse_args()
    possible = [name for name, suite in suites.items() if arguments.folder or not suite.get("download")]
    for name in [] if arguments.draw else arguments.suite or possible:
        defaults = dict.fromkeys(("problems", "methods", "images", "samples", "prior"))
        run(argparse.Namespace(out=ROWS, suite=name, set=[], folder=arguments.folder, **defaults))
        PAGE.write_text(page(suites, read_rows([ROWS])))
    PAGE.write_text(page(suites, read_rows([ROWS])))


def page(suites: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Return the page: a table for each problem, the best mean first."""
    parts = [INTRODUCTION]
    for name, suite in suites.items():
        parts.append(f"## {name}: {suite['description']}\n")
        for problem in suite["problems"]:
            here = [row for row in rows if row["suite"] == name and row["problem"] == problem]
            current = [row for row in here if _current(row, suite)]
            parts.append(f"### {problem}\n\n{_table(current, suite['methods']) if current else _missing(name, suite)}")
    return "\n".join(parts)


def _missing(name: str, suite: dict[str, Any]) -> str:
    """Return the line in place of a table without rows."""
    folder = " --folder DIR" if suite.get("download") else ""
    return f"Not measured yet: `python benchmarks/publish_results.py --suite {name}{folder}`.\n"


def _current(row: dict[str, Any], suite: dict[str, Any]) -> bool:
    """Whether a row was measured with the settings and weights that the suite and the presets name now."""
    if row["set"] != settings_of(suite, row["problem"], row["method"]):
        return False
    try:
        resolved = configure(row["problem"], row["method"], row["samples"], suite.get("prior"), row["set"])
    except ReconError:
        return False
    return row["settings"] == digest(resolved)


def _table(rows: list[dict[str, Any]], methods: list[str]) -> str:
    groups, oracle = grouped(rows)
    lines, refused = [], []
    images = max((len(group) for group in groups.values()), default=0)
    for (_, _, method, samples, *_), group in groups.items():
        good = [row for row in group if "psnr" in row]
        if not good:
            refused.append(f"`{method}`: {group[0]['error']}")
            continue
        lines.append((float(np.mean([row["psnr"] for row in good])), _line(method, samples, good, oracle, images)))
    ordered = [line for _, line in sorted(lines, key=lambda pair: -pair[0])]
    head = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    notes = ["", "Not possible: " + "; ".join(refused) + "."] if refused else []
    left = sorted(set(methods) - {row["method"] for row in rows})
    notes += ["", f"Not measured yet: {', '.join(left)}."] if left else []
    return "\n".join([*head, *ordered, *notes, ""])


def _line(
    method: str, samples: int, rows: list[dict[str, Any]], oracle: dict[tuple[Any, ...], float], images: int
) -> str:
    def mean(key: str) -> float:
        return float(np.mean([row.get(key, math.nan) for row in rows]))

    classical = method.removesuffix(ORACLE) in BASELINES
    gain = np.mean([row["psnr"] - oracle.get(case_of(row), math.nan) for row in rows])
    label = method.replace(ORACLE, ", oracle") if classical else f"**{method}** ({samples})"
    label += f", {len(rows)} of {images} images" if len(rows) < images else ""
    cells = [label, "" if classical else number(mean("single_psnr")), number(mean("psnr")), number(mean("ssim"), 3)]
    cells += [number(float(gain)), number(mean("residual")), "" if classical else str(rows[0]["nfe"])]
    seconds = float(np.median([row["seconds_per_sample"] for row in rows]))
    cells.append("" if method.endswith(ORACLE) else number(seconds, 1))
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
