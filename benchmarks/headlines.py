"""The published comparisons, reproduced as ratios on committed images and shipped priors, in one run.

    python benchmarks/headlines.py run OUT.jsonl [--only NAME ...] [--tuning] [--prior NAME=FILE] [--set L=k=v]
    python benchmarks/headlines.py table OUT.jsonl [--json]
`dds-dps`      MRI x4: a sample of DDS beside a sample of DPS with 1000 steps, in PSNR and in time
`daps-dps`     phase retrieval: the best of four samples of DAPS beside the best of four of DPS, both labelled so
`enkg-gsg`     phase retrieval without derivatives of the model: EnKG beside DPS with gradients from random directions,
               a sample of each, at as many calls of the model
A line of OUT holds one contestant on one image. A line that is there already is not computed again, so that an
interrupted run goes on where it stopped. `--tuning` takes the images that settings are chosen on; `--set` changes the
settings of the contestant labelled L. Contestants take turns on each image, so that the machine treats them alike.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

# as the command does, and before torch loads OpenMP
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from results import cases, digest

from recon.config.resolve import Resolved, resolve
from recon.data import Volume, to_stack
from recon.metrics.evaluate import evaluate
from recon.metrics.protocols import find_protocol
from recon.priors.backends import WarmBackends
from recon.priors.base import Denoiser
from recon.priors.open import open_prior
from recon.runs.execute import Outcome, execute
from recon.runs.plan import Plan, make_plan
from recon.runs.simulate import simulate

KEYS = ("headline", "contestant", "image", "item", "settings")


@dataclass(frozen=True)
class Contestant:
    """A labelled method with its settings; samples: of which the score is taken as `Headline.score` says."""

    label: str
    method: str
    sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Headline:
    """Two contestants, the second the one to beat, on a problem.

    images, tuning: committed files to report on, and to choose settings on.  prior: its name.
    samples: drawn of each image.  score: "one" (their mean score) or "best" (the best one, labelled).
    crop: side of the central square that is taken of each image, in pixels; None for the whole.
    """

    problem: str
    images: tuple[str, ...]
    tuning: tuple[str, ...]
    prior: str
    samples: int
    score: str
    contestants: tuple[Contestant, Contestant]
    crop: int | None = None


BRAINS = ("brain_test_axial.nii.gz",), ("brain_tuning.nii.gz",)
PHOTOS = ("camera.png", "astronaut.png", "chelsea.png"), ("coffee_tuning.png", "china_tuning.png")
CLOTHES = ("fashion_test.tiff",), ("fashion_tuning.tiff",)
HEADLINES = {
    "dds-dps": Headline(
        "mri-x4",
        *BRAINS,
        "brain-mri",
        1,
        "one",
        (
            Contestant(
                "DDS, 45 steps", "dds", ("method.steps=45", "method.grid=edm:0.02:1", "run.backend=onnxruntime")
            ),
            Contestant("DPS, 1000 steps", "dps", ("method.steps=1000", "method.zeta=4.0")),
        ),
    ),
    "daps-dps": Headline(
        "phase-retrieval",
        *PHOTOS,
        "photo",
        4,
        "best",
        (
            Contestant("DAPS", "daps", ("method.steps=100",)),
            Contestant("DPS, 1000 steps", "dps", ("method.steps=1000", "method.zeta=1.0")),
        ),
        crop=64,
    ),
    "enkg-gsg": Headline(
        "phase-retrieval",
        *CLOTHES,
        "fashion32",
        1,
        "one",
        (
            Contestant("EnKG", "enkg"),
            Contestant("DPS with random directions", "dps-gsg"),
        ),
    ),
}


def truths(headline: Headline, tuning: bool, most: int | None) -> Iterator[tuple[str, int, Volume]]:
    """Yield (file, item, image) of every item of the headline's files, at most `most`."""
    suite = {"images": headline.tuning if tuning else headline.images, "crop": headline.crop}
    return islice(cases(suite, []), most)


def configured(headline: Headline, contestant: Contestant, prior: str | None, sets: list[str]) -> Resolved:
    """Return the configuration: the preset of the pairing, then the contestant's settings, then those asked for."""
    flags = {"run.samples": headline.samples, "prior.name": prior or headline.prior}
    chosen = (*contestant.sets, *sets)
    return resolve(f"problems/{headline.problem}", method=contestant.method, sets=chosen, flags=flags, environ={})


def measured(
    headline: Headline, resolved: Resolved, truth: Volume, opener: Callable[[Path], Denoiser], backends: WarmBackends
) -> dict[str, Any]:
    """Return what a contestant reached on an image; a network is exported for its first image alone, as in a batch."""
    config = resolved.config
    plan = make_plan(config, simulate(truth, config), opener=opener)
    start = time.monotonic()
    outcome = execute(plan, accelerate=backends)
    seconds = time.monotonic() - start
    scores = sample_scores(plan, outcome, truth)
    return {
        "psnr": max(scores) if headline.score == "best" else float(np.mean(scores)),
        "psnr_of_each": [round(s, 3) for s in scores],
        "seconds_per_sample": round(seconds / headline.samples, 3),
        "network_calls": outcome.nfe,
        "model_calls": outcome.operator_calls,
        "residual": outcome.residual[0],
    }


def sample_scores(plan: Plan, outcome: Outcome, truth: Volume) -> list[float]:
    """Return each sample's PSNR under the problem's protocol."""
    protocol, reference = find_protocol(plan.config.metrics.protocol), to_stack(truth)
    return [float(evaluate(s, reference, protocol, truth.geometry.value_range)["psnr"]) for s in outcome.samples]


def run(args: argparse.Namespace) -> None:
    """Measure everything that OUT does not hold yet."""
    out = Path(args.out)
    done = {tuple(row[k] for k in KEYS) for row in read_rows(out)} if out.is_file() else set()
    priors = dict(entry.split("=", 1) for entry in args.prior)
    opened, backends = functools.cache(open_prior), WarmBackends()
    for name in args.only or HEADLINES:
        headline = HEADLINES[name]
        chosen = {
            c.label: configured(headline, c, priors.get(name), settings_of(c.label, args.set))
            for c in headline.contestants
            if not args.labels or c.label in args.labels
        }
        for image, item, truth in truths(headline, args.tuning, args.images):
            for label, resolved in chosen.items():
                row = {
                    "headline": name,
                    "contestant": label,
                    "image": image,
                    "item": item,
                    "settings": digest(resolved),
                }
                if tuple(row[k] for k in KEYS) in done:
                    continue
                row |= measured(headline, resolved, truth, opened, backends) | {
                    "method": resolved.config.method.model_dump()
                }
                with out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), file=sys.stderr, flush=True)


def settings_of(label: str, sets: list[str]) -> list[str]:
    """Return the k=v of every L=k=v of this label."""
    return [entry.removeprefix(f"{label}=") for entry in sets if entry.startswith(f"{label}=")]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of results."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def compared(name: str, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return a headline's ratios over the images that both contestants have; None where there is none."""
    first, second = (c.label for c in HEADLINES[name].contestants)
    held = {(r["contestant"], r["image"], r["item"]): r for r in rows if r["headline"] == name}
    shared = sorted({key[1:] for key in held if key[0] == first} & {key[1:] for key in held if key[0] == second})
    if not shared:
        return None
    mine, theirs = ([held[(label, *key)] for key in shared] for label in (first, second))

    def mean(of: list[dict[str, Any]], key: str) -> float:
        return float(np.mean([row[key] for row in of]))

    gaps = [a["psnr"] - b["psnr"] for a, b in zip(mine, theirs, strict=True)]
    return {
        "headline": name,
        "score": "best of 4" if HEADLINES[name].score == "best" else "sample",
        "images": len(shared),
        "contestants": [first, second],
        "psnr": [mean(mine, "psnr"), mean(theirs, "psnr")],
        "psnr_of_each_mean": [float(np.mean([r["psnr_of_each"] for r in rows])) for rows in (mine, theirs)],
        "gap_db": float(np.mean(gaps)),
        "gap_db_of_each": [round(g, 2) for g in gaps],
        "seconds_per_sample": [float(np.median([r["seconds_per_sample"] for r in rows])) for rows in (mine, theirs)],
        "network_calls": [mean(mine, "network_calls"), mean(theirs, "network_calls")],
        "model_calls": [mean(mine, "model_calls"), mean(theirs, "model_calls")],
        "time_ratio": mean(theirs, "seconds_per_sample") / mean(mine, "seconds_per_sample"),
    }


def table(args: argparse.Namespace) -> None:
    """Print the comparisons as Markdown, or as one JSON object."""
    rows = read_rows(Path(args.out))
    found = [line for name in HEADLINES if (line := compared(name, rows)) is not None]
    if args.json:
        print(json.dumps({"headlines": found}))
        return
    head = (
        "headline",
        "images",
        "score",
        "PSNR",
        "of each",
        "gap dB",
        "s a sample",
        "time",
        "network calls",
        "model calls",
    )
    print(f"| {' | '.join(head)} |\n|" + "---|" * len(head))
    for line in found:
        cells = [" beside ".join(line["contestants"]), str(line["images"]), line["score"], pair(line["psnr"], 2)]
        cells += [pair(line["psnr_of_each_mean"], 2), f"{line['gap_db']:+.2f}", pair(line["seconds_per_sample"], 1)]
        cells += [f"1/{line['time_ratio']:.3g}", pair(line["network_calls"], 0), pair(line["model_calls"], 0)]
        print("| " + " | ".join(cells) + " |")


def pair(values: list[float], digits: int) -> str:
    """Return two numbers side by side."""
    return " / ".join(f"{v:.{digits}f}" for v in values)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    measuring = commands.add_parser("run", help="measure what OUT does not hold yet")
    measuring.add_argument("out")
    measuring.add_argument("--only", nargs="+", choices=list(HEADLINES))
    measuring.add_argument("--labels", nargs="+", help="contestants; default: both")
    measuring.add_argument("--tuning", action="store_true", help="the images that settings are chosen on")
    measuring.add_argument("--images", type=int, help="at most so many of each headline")
    measuring.add_argument("--prior", action="append", default=[], metavar="HEADLINE=FILE")
    measuring.add_argument("--set", action="append", default=[], metavar="LABEL=KEY=VALUE")
    measuring.set_defaults(action=run)
    shown = commands.add_parser("table", help="print the comparisons")
    shown.add_argument("out")
    shown.add_argument("--json", action="store_true")
    shown.set_defaults(action=table)
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    main()
