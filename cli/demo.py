"""`recon demo`: the whole chain on shipped data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .options import ConfigFile, Device, Force, Json, Quiet, Samples, Seed, Set
from .output import note, print_facts, print_json, print_table
from .progress import progress

DEFAULT_SAMPLES = 4


def demo(
    preset: Annotated[str, typer.Argument(metavar="[PRESET]", help="Preset, or a TOML file.")] = "mri-x4-dds",
    folder: Annotated[Path, typer.Option("--folder", metavar="DIR", help="Where results go.")] = Path("recon-demo"),
    truth: Annotated[
        Path | None, typer.Option("--truth", metavar="FILE", help="Image to use in place of the shipped brain slice.")
    ] = None,
    samples: Samples = None,
    seed: Seed = None,
    set_: Set = None,
    config: ConfigFile = None,
    device: Device = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Simulate a measurement of a shipped image, reconstruct it, score it and draw the comparison.

    The classical baselines run on the same measurement; the weight of total variation is chosen on the truth (an
    oracle). Everything goes into --folder: measurement, reconstruction, sidecar and comparison.png.
    """
    from recon.config.resolve import resolve
    from recon.runs.demo import demo as run_demo

    flags = {"run.samples": samples or DEFAULT_SAMPLES, "run.seed": seed, "run.device": device}
    resolved = resolve(preset, config_file=config, sets=set_ or (), flags=flags)
    with progress("demo", quiet) as report:
        command = ("recon", *sys.argv[1:])
        found = run_demo(resolved.config, preset, folder, truth, force, command, lambda line: note(line, quiet), report)
    if json:
        rows = [vars(row) for row in found.rows]
        print_json(
            {
                "status": "ok",
                "reconstructions": rows,
                "protocol": found.protocol,
                "residual": found.residual,
                "outputs": found.outputs,
            }
        )
        return
    table = [
        (
            r.name,
            f"{r.psnr:.2f}" if r.psnr is not None else None,
            f"{r.ssim:.3f}" if r.ssim is not None else None,
            f"{r.seconds:.1f}" if r.seconds is not None else None,
        )
        for r in found.rows
    ]
    print_table(["reconstruction", "PSNR dB", "SSIM", "seconds"], table)
    facts = {"protocol": found.protocol, "residual over noise": found.residual}
    print_facts({**facts, "picture": found.outputs["picture"]})
