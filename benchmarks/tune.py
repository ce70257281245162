"""Choose a method's settings for a problem on training-side images, and write them as a preset.

    python benchmarks/tune.py run OUT.jsonl --methods mmps daps --problems mri-x4 sr4
    python benchmarks/tune.py table OUT.jsonl        python benchmarks/tune.py write OUT.jsonl presets
Candidates are in tuning.toml, images in the suite `tuning` of suites.toml (`--suite tuning-volume` for methods of
volumes); a line of OUT is one candidate on all images, and is not computed again. The best has the least mean squared
error of the mean of eight samples, as it follows from that of one and of two,
    E_8 = (E_1 + 7 E_inf)/8,     E_inf = 2 E_2 - E_1, at least 0,     E_S of the mean of S samples,
which favours neither samples that are too alike nor ones that differ too much.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from results import SUITES, cases, configure, measure, read_rows

from recon.data import to_stack
from recon.errors import ReconError
from recon.runs.methods import method_class

CANDIDATES = Path(__file__).with_name("tuning.toml")
SAMPLES = 2
EQUAL = 0.05  # dB, what two samples on two images cannot tell apart


def candidates(method: dict[str, Any], problem: str) -> Iterator[dict[str, Any]]:
    """Yield the settings to try for a problem: all combinations of a table, or each of a list of tables."""
    special = method.get("problems", {}).get(problem, {})
    base, tried = method["base"] | special.get("base", {}), special.get("try", method["try"])
    for table in tried if isinstance(tried, list) else [tried]:
        lists = [value if isinstance(value, list) else [value] for value in table.values()]
        for values in itertools.product(*lists):
            yield base | dict(zip(table, values, strict=True))


def run(args: argparse.Namespace) -> None:
    """Measure every candidate that OUT does not hold yet."""
    known, suite = tomllib.loads(CANDIDATES.read_text()), tomllib.loads(SUITES.read_text())[args.suite]
    out = Path(args.out)
    done = {_key(row) for row in read_rows([out])} if out.is_file() else set()
    named = [name for name in known if args.suite in known[name].get("suites", [args.suite])]
    fitting = [name for name in named if method_class(name).volume == suite.get("volume", False)]
    for problem, name in itertools.product(args.problems or suite["problems"], args.methods or fitting):
        for settings in candidates(known[name], problem):
            row: dict[str, Any] = {"suite": args.suite, "problem": problem, "method": name, "settings": settings}
            if _key(row) in done:
                continue
            row |= _measured(problem, name, settings, suite, args.prior)
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), file=sys.stderr, flush=True)


def _key(row: dict[str, Any]) -> str:
    return json.dumps([row["suite"], row["problem"], row["method"], row["settings"]], sort_keys=True)


def _measured(
    problem: str, method: str, settings: dict[str, Any], suite: dict[str, Any], prior: str | None
) -> dict[str, Any]:
    sets = suite.get("problem_set", {}).get(problem, [])
    sets = sets + [f"method.{key}={json.dumps(value)}" for key, value in settings.items()]
    found: dict[str, list[float]] = defaultdict(list)
    try:
        resolved = configure(problem, method, SAMPLES, prior or suite.get("prior"), sets)
        for _, _, truth in cases(suite, []):
            scores = measure(problem, method, truth, resolved, SAMPLES)
            for key in ("single_psnr", "psnr", "residual", "seconds_per_sample"):
                found[key].append(scores[key])
            found["nfe"].append(scores["nfe"] / len(to_stack(truth)))
    except ReconError as err:
        return {"error": err.message}
    return {key: float(np.mean(values)) for key, values in found.items()}


def psnr_of_eight(row: dict[str, Any]) -> float:
    """Return the PSNR in dB that the mean of eight samples is expected to have."""
    one, two = (10 ** (-row[key] / 10) for key in ("single_psnr", "psnr"))
    return float(-10 * np.log10((one + 7 * max(2 * two - one, 0.0)) / 8))


def best(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the best candidate of each (problem, method): among equals, the one that fits the data to their noise."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if "error" not in row:
            groups[row["problem"], row["method"]].append(row)
    chosen = {}
    for pair, tried in groups.items():
        top = max(map(psnr_of_eight, tried))
        equal = [row for row in tried if psnr_of_eight(row) > top - EQUAL]
        chosen[pair] = min(equal, key=lambda row: abs(np.log(row["residual"])))
    return chosen


def table(args: argparse.Namespace) -> None:
    """Print every candidate, the chosen ones marked."""
    rows = read_rows([Path(args.out)])
    chosen = {id(row) for row in best(rows).values()}
    print("| problem | method | settings | PSNR of one | of two | of eight, expected | residual | NFE | s | |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        text = " ".join(f"{key}={value}" for key, value in row["settings"].items())
        if "error" in row:
            print(f"| {row['problem']} | {row['method']} | {text} | {row['error']} | | | | | | |")
            continue
        numbers = [row["single_psnr"], row["psnr"], psnr_of_eight(row), row["residual"]]
        cells = [f"{n:.2f}" for n in numbers] + [f"{row['nfe']:.0f}", f"{row['seconds_per_sample']:.1f}"]
        mark = "chosen" if id(row) in chosen else ""
        print(f"| {row['problem']} | {row['method']} | {text} | {' | '.join(cells)} | {mark} |")


def write(args: argparse.Namespace) -> None:
    """Write the chosen settings as presets PROBLEM-METHOD.toml."""
    known, suites = tomllib.loads(CANDIDATES.read_text()), tomllib.loads(SUITES.read_text())
    rows = read_rows([Path(args.out)])
    tried = Counter((row["problem"], row["method"]) for row in rows if "error" not in row)
    for (problem, name), row in best(rows).items():
        described = tomllib.loads((Path(args.folder) / "problems" / f"{problem}.toml").read_text())["description"]
        steps = f", {row['nfe']:.0f} network evaluations" + (" a slice" if suites[row["suite"]].get("volume") else "")
        lines = [
            f'extends = "problems/{problem}"',
            f'description = "{described}; {known[name]["title"]}{steps}"',
            f'citation = "{known[name]["citation"]}"',
            "",
            "[prior]",
            f'name = "{suites[row["suite"]].get("prior", "brain-mri")}"',
            *_sections(suites[row["suite"]].get("problem_set", {}).get(problem, [])),
            "",
            *(f"# {line}" for line in known[name].get("note", [])),
            f"# the best of {tried[problem, name]} on images that the prior was trained on (benchmarks/tune.py)",
            "[method]",
            f'name = "{name}"',
            *(f"{key} = {json.dumps(value)}" for key, value in row["settings"].items()),
        ]
        (Path(args.folder) / f"{problem}-{name}.toml").write_text("\n".join(lines) + "\n")


def _sections(sets: list[str]) -> Iterator[str]:
    """Yield the lines of SECTION.KEY=VALUE settings, a section for each."""
    for text in sets:
        name, _, value = text.partition("=")
        section, _, key = name.partition(".")
        yield from ("", f"[{section}]", f"{key} = {value}")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measured = commands.add_parser("run", help="measure the candidates that OUT does not hold yet")
    measured.add_argument("out")
    measured.add_argument("--suite", default="tuning", choices=list(tomllib.loads(SUITES.read_text())))
    measured.add_argument("--problems", nargs="*", help="default: the suite's")
    measured.add_argument("--methods", nargs="*", help="default: those of tuning.toml for images, or for volumes")
    measured.add_argument("--prior", help="name or weight file, in place of the preset's")
    measured.set_defaults(action=run)
    shown = commands.add_parser("table", help="print all candidates as Markdown")
    shown.add_argument("out")
    shown.set_defaults(action=table)
    written = commands.add_parser("write", help="write the chosen settings as presets")
    written.add_argument("out")
    written.add_argument("folder")
    written.set_defaults(action=write)
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    main()
