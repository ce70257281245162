"""Reconstruction quality of methods on shipped images, beside classical baselines.

    python benchmarks/results.py run OUT.jsonl --suite brain [--methods dds tv-oracle] [--samples 8]
    python benchmarks/results.py table OUT.jsonl [OUT2.jsonl ...]
Suites are in suites.toml. A line of OUT holds one (problem, method, image, slice): scores of a single sample (mean over
samples), of the mean of all samples, the residual, network evaluations and seconds. A line that is there already is not
computed again, so an interrupted run goes on where it stopped. `tv-oracle`, `wavelet-oracle` and `tikhonov-oracle` have
the weight that is best on the truth: gains are over the best of them, image by image.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

# as the command does, and before torch loads OpenMP
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from recon.config.resolve import Resolved, resolve
from recon.data import Volume, take_item, to_stack
from recon.errors import ReconError
from recon.io.registry import read_volume
from recon.metrics.evaluate import evaluate
from recon.metrics.protocols import find_protocol
from recon.priors.catalog import file_sha256, prior_path
from recon.runs.execute import execute
from recon.runs.methods import BASELINES
from recon.runs.oracle import oracle_baseline
from recon.runs.plan import make_plan
from recon.runs.simulate import simulate

SUITES = Path(__file__).with_name("suites.toml")
ORACLE = "-oracle"
KEYS = ("suite", "problem", "method", "image", "item", "samples", "settings")


def cases(suite: dict[str, Any], images: list[str], folder: Path | None = None) -> Iterator[tuple[str, int, Volume]]:
    """Yield (file, item, image) for every slice of the suite's images, or for every volume, cropped.

    folder: of the images of a suite that has to be downloaded; the others are in sample_data.
    """
    for name in images or suite["images"]:
        with as_file(files("recon.sample_data") / name) as shipped:
            volume = read_volume(folder / name if suite.get("download") and folder else shipped)
        count = 1 if suite.get("volume") else to_stack(volume).shape[0]
        for item in range(count):
            yield name, item, cropped(take_item(volume, item) if count > 1 else volume, suite.get("crop"))


def cropped(truth: Volume, size: int | list[int] | None) -> Volume:
    """Return the middle of an image: `size` pixels along y and x, or a number for each of z, y and x; None for all."""
    if size is None:
        return truth
    sizes = dict(zip("zyx", size, strict=True)) if isinstance(size, list) else {"y": size, "x": size}
    window = tuple(
        slice((n - sizes[axis]) // 2, (n + sizes[axis]) // 2) if axis in sizes else slice(None)
        for axis, n in zip(truth.geometry.axes, truth.array.shape, strict=True)
    )
    return Volume(np.ascontiguousarray(truth.array[window]), replace(truth.geometry, affine=None))


def measure(problem: str, method: str, truth: Volume, resolved: Resolved, samples: int) -> dict[str, Any]:
    """Return the scores of one method on one image."""
    config = resolved.config
    measurement = simulate(truth, config)
    plan = make_plan(config, measurement)
    reference, protocol = to_stack(truth), find_protocol(config.metrics.protocol)
    start = time.monotonic()
    if method.endswith(ORACLE):
        image, weight = oracle_baseline(plan, truth, method.removesuffix(ORACLE))
        mean, extra = image, {"weight": weight}
    else:
        outcome = execute(plan)
        mean = outcome.mean
        singles = [_score(s, reference, protocol, truth)["psnr"] for s in outcome.samples]
        extra = {
            "single_psnr": float(np.mean(singles)),
            "residual": outcome.residual[0],
            "residual_of_mean": outcome.residual_of_mean[0],
            "nfe": outcome.nfe // plan.samples,
            "backprops": outcome.backprops // plan.samples,
            "prior": file_sha256(prior_path(config.prior.name))[:12] if plan.prior is not None else None,
        }
    scores = _score(mean, reference, protocol, truth)
    seconds = (time.monotonic() - start) / max(1, samples)
    return {"psnr": scores["psnr"], "ssim": scores["ssim"], "seconds_per_sample": round(seconds, 3), **extra}


def _score(image: np.ndarray, reference: np.ndarray, protocol: Any, truth: Volume) -> dict[str, Any]:
    return evaluate(image, reference, protocol, truth.geometry.value_range)


def configure(problem: str, method: str, samples: int, prior: str | None, sets: list[str]) -> Resolved:
    """Return the configuration of a pairing: the preset PROBLEM-METHOD, or the problem with the method's defaults."""
    flags = {"run.samples": samples, "prior.name": prior}
    return resolve(f"problems/{problem}", method=method.removesuffix(ORACLE), sets=sets, flags=flags, environ={})


def run(args: argparse.Namespace) -> None:
    """Measure everything of a suite that OUT does not hold yet."""
    suite, out = tomllib.loads(SUITES.read_text())[args.suite], Path(args.out)
    done = {tuple(row[k] for k in KEYS) for row in read_rows([out])} if out.is_file() else set()
    for problem in args.problems or suite["problems"]:
        for method in args.methods or suite["methods"]:
            samples = 1 if method.removesuffix(ORACLE) in BASELINES else args.samples or suite["samples"]
            sets = settings_of(suite, problem, method) + ([] if method.endswith(ORACLE) else args.set)
            resolved = configure(problem, method, samples, args.prior or suite.get("prior"), sets)
            for name, item, truth in cases(suite, args.images, args.folder):
                row = {"suite": args.suite, "problem": problem, "method": method, "image": name, "item": item}
                row |= {"samples": samples, "settings": digest(resolved)}
                if tuple(row[k] for k in KEYS) in done:
                    continue
                try:
                    row |= measure(problem, method, truth, resolved, samples)
                except ReconError as err:
                    row |= {"error": err.message}
                row["set"] = sets
                with out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), file=sys.stderr, flush=True)


def settings_of(suite: dict[str, Any], problem: str, method: str) -> list[str]:
    """Return what a suite sets beyond the presets, as KEY=VALUE: of the problem, and of the method."""
    of_problem: list[str] = suite.get("problem_set", {}).get(problem, [])
    of_method: list[str] = suite.get("set", {}).get(method, [])
    return of_problem + of_method


def digest(resolved: Resolved) -> str:
    """Return a short hash of everything that determines the result: of a prior, which baselines ignore, its weights."""
    config = resolved.config
    baseline = config.method.name in BASELINES
    weights = "" if baseline else file_sha256(prior_path(config.prior.name))
    content = (
        json.dumps(config.model_dump(mode="json", exclude={"prior"} if baseline else None), sort_keys=True) + weights
    )
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def read_rows(paths: list[Path]) -> list[dict[str, Any]]:
    """Return the lines of result files."""
    return [json.loads(line) for path in paths for line in path.read_text().splitlines() if line.strip()]


def grouped(
    rows: list[dict[str, Any]],
) -> tuple[dict[tuple[Any, ...], list[dict[str, Any]]], dict[tuple[Any, ...], float]]:
    """Return rows by (suite, problem, method, samples, settings, ...), and each case's best oracle baseline in dB."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    oracle: dict[tuple[Any, ...], float] = {}
    for row in rows:
        groups[row["suite"], row["problem"], row["method"], row["samples"], row["settings"], *row["set"]].append(row)
        if row["method"].endswith(ORACLE) and "psnr" in row:
            oracle[case_of(row)] = max(row["psnr"], oracle.get(case_of(row), -math.inf))
    return groups, oracle


def table(args: argparse.Namespace) -> None:
    """Print a Markdown table: averages over the images of a suite, and the gain over the best oracle baseline."""
    groups, oracle = grouped(read_rows([Path(p) for p in args.files]))
    head = ("suite", "problem", "method", "images", "PSNR of one", "PSNR of the mean", "SSIM")
    head += ("one - oracle", "mean - oracle", "residual", "NFE", "s")
    print(f"| {' | '.join(head)} |\n|" + "---|" * len(head))
    for (suite, problem, method, samples, _, *sets), rows in groups.items():
        good = [r for r in rows if "psnr" in r]
        label = " ".join([method, *sets])
        if not good:
            print(f"| {suite} | {problem} | {label} | {rows[0].get('error', '')} |" + " |" * 8)
            continue
        base = [oracle.get(case_of(r), math.nan) for r in good]
        mean = np.mean([r["psnr"] for r in good])
        one = np.mean([r.get("single_psnr", math.nan) for r in good])
        cells = [suite, problem, f"{label} ({samples})" if samples > 1 else label, str(len(good))]
        cells += [number(one), number(mean), number(np.mean([r["ssim"] for r in good]), 3)]
        cells += [number(one - np.mean(base)), number(mean - np.mean(base))]
        cells += [number(np.mean([r.get("residual", math.nan) for r in good]))]
        cells += [str(good[0].get("nfe", "")), number(np.median([r["seconds_per_sample"] for r in good]), 1)]
        print("| " + " | ".join(cells) + " |")


def case_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what names the image and problem of a row."""
    return tuple(row[key] for key in ("suite", "problem", "image", "item"))


def number(value: float, digits: int = 2) -> str:
    """Return a table's cell; empty where there is nothing to say."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measured = commands.add_parser("run", help="measure what OUT does not hold yet")
    measured.add_argument("out")
    measured.add_argument("--suite", default="brain", choices=list(tomllib.loads(SUITES.read_text())))
    measured.add_argument("--problems", nargs="*", help="default: the suite's")
    measured.add_argument("--methods", nargs="+", help="default: the suite's")
    measured.add_argument("--images", nargs="*", help="default: the suite's")
    measured.add_argument("--folder", type=Path, help="of the images of a suite that has to be downloaded")
    measured.add_argument("--samples", type=int, help="default: the suite's")
    measured.add_argument("--prior", help="name or weight file, in place of the preset's")
    measured.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    measured.set_defaults(action=run)
    shown = commands.add_parser("table", help="print the averages as Markdown")
    shown.add_argument("files", nargs="+")
    shown.set_defaults(action=table)
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    main()
