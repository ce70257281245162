"""`recon eval`: score a reconstruction against a truth, and check thresholds."""

from __future__ import annotations

import operator
import re
from pathlib import Path
from typing import Any

from recon.data import to_stack
from recon.errors import ThresholdError, UsageError
from recon.io.registry import read_volume
from recon.metrics.evaluate import evaluate
from recon.metrics.protocols import find_protocol

COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
CONDITION = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+.\deE]+)\s*")


def evaluate_files(recon: Path, truth: Path, protocol: str, mask: Path | None, axes: str | None) -> dict[str, Any]:
    """Return {status, metrics, protocol}; the protocol is described in full."""
    chosen = find_protocol(protocol)
    reference = read_volume(truth, axes=axes)
    region = to_stack(read_volume(mask)) if mask is not None else None
    scores = evaluate(
        to_stack(read_volume(recon, axes=axes)), to_stack(reference), chosen, reference.geometry.value_range, region
    )
    return {"status": "ok", "metrics": scores, "protocol": chosen.describe()}


def parse_condition(text: str) -> tuple[str, str, float]:
    """Return (metric, comparison, bound) of a condition such as "psnr<30". Raises UsageError if it is none."""
    match = CONDITION.fullmatch(text)
    try:
        if match is None:
            raise ValueError(text)
        return match[1].lower(), match[2], float(match[3])
    except ValueError as err:
        raise UsageError(
            f"--fail-if '{text}' is not METRIC<NUMBER or METRIC>NUMBER", "for example: --fail-if 'psnr<30'"
        ) from err


def check_conditions(scores: dict[str, Any], conditions: list[tuple[str, str, float]]) -> None:
    """Raise ThresholdError naming every condition that holds; an unknown metric is a UsageError.

    An infinite PSNR is stored as None and is above every bound; another metric that is None is undefined and fails.
    """
    failed = []
    for name, comparison, bound in conditions:
        if name not in scores or isinstance(scores[name], list | str):
            known = ", ".join(k for k, v in scores.items() if not isinstance(v, list | str))
            raise UsageError(f"--fail-if names no metric '{name}'", f"choose from: {known}")
        if scores[name] is None and not name.startswith("psnr"):
            failed.append(f"{name} is undefined")
            continue
        value = float("inf") if scores[name] is None else scores[name]
        if COMPARISONS[comparison](value, bound):
            failed.append(f"{name} = {value:.6g} is {comparison} {bound:g}")
    if failed:
        raise ThresholdError("; ".join(failed))
