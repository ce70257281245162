"""`recon audit --calibrate`: a factor for the spread of a preset's samples."""

from __future__ import annotations

from pathlib import Path

from .output import print_facts, print_json
from .progress import progress

SAMPLES = 8


def run_calibration(
    preset: str,
    methods: list[str] | None,
    sets: list[str] | None,
    truths: list[Path] | None,
    most: int | None,
    samples: int | None,
    seed: int,
    output: Path,
    force: bool,
    json: bool,
    quiet: bool,
) -> None:
    """Fit the factor, write it to `output`, and print it with the coverage of held-out images before and after."""
    from dataclasses import asdict

    from recon.config.resolve import resolve
    from recon.errors import UsageError
    from recon.io.atomic import check_writable, write_bytes
    from recon.io.registry import read_volume
    from recon.runs.calibrate import calibrate, split_images

    if not truths:
        raise UsageError("a calibration needs images", "give images like those to reconstruct with --truth FILE")
    if methods and len(methods) > 1:
        raise UsageError("a calibration is of one method", "give --method once")
    check_writable([output], force)
    flags = {"run.samples": samples or SAMPLES, "run.seed": seed}
    resolved = resolve(preset, method=methods[0] if methods else None, sets=sets or (), flags=flags)
    images = split_images([read_volume(path) for path in truths], most)
    with progress("calibrate", quiet) as report:
        name = Path(preset).name if preset.endswith(".toml") else preset
        found = calibrate(resolved.config, name, images, report)
    write_bytes(output, found.encode(), force)
    facts = {**asdict(found), "output": str(output)}
    if json:
        print_json({"status": "ok", **facts})
    else:
        print_facts(facts)
