"""`recon check`: every problem of a preset at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import ConfigFile, Device, Json, Method, Prior, Quiet, Samples, Set
from .output import print_facts, print_json, print_table


def check(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help="Preset, or a TOML file.")],
    source: Annotated[Path | None, typer.Argument(metavar="[INPUT]", help="Measurement to check it with.")] = None,
    method: Method = None,
    prior: Prior = None,
    set_: Set = None,
    config: ConfigFile = None,
    samples: Samples = None,
    device: Device = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a preset, and an input with it, before running: all problems at once.

    Schema, parameters, shapes, what the method needs, the adjoint, the weights; then an estimate of time and memory.
    Exit code 4 if anything is wrong.
    """
    from recon.config.resolve import resolve
    from recon.errors import ConfigError
    from recon.runs.check import check as find_problems

    flags = {"run.samples": samples, "run.device": device, "prior.name": prior}
    resolved = resolve(preset, method=method, config_file=config, sets=set_ or (), flags=flags)
    findings, estimate = find_problems(resolved.config, source)
    failed = [f for f in findings if not f.ok]
    if json:
        rows = [{"check": f.name, "ok": f.ok, "detail": f.detail} for f in findings]
        print_json({"status": "failed" if failed else "ok", "checks": rows, "estimate": estimate})
    else:
        print_table(["check", "result", "detail"], [(f.name, "ok" if f.ok else "FAILED", f.detail) for f in findings])
        print_facts(estimate)
    if failed:
        raise ConfigError(f"{len(failed)} of {len(findings)} checks failed: {', '.join(f.name for f in failed)}")
