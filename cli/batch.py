"""`recon batch`: many reconstructions in one process."""

from __future__ import annotations

import json as jsonlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import ConfigFile, Device, Force, Json, Method, Preset, Prior, Protocol, Quiet, Samples, Seed, Set
from .output import note, plain, text_of
from .progress import progress
from .run import announce

if TYPE_CHECKING:
    from recon.runs.batch import BatchResult


def batch(
    manifest: Annotated[
        str, typer.Argument(metavar="MANIFEST", help="TSV, CSV or JSON Lines file, a folder, or a quoted pattern.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="OUTDIR", help="Folder of the outputs; made if need be.")],
    preset: Preset,
    prior: Prior = None,
    method: Method = None,
    set_: Set = None,
    config: ConfigFile = None,
    samples: Samples = None,
    seed: Seed = None,
    device: Device = None,
    protocol: Protocol = None,
    extension: Annotated[
        str, typer.Option("--extension", metavar="EXT", help="Of outputs that the manifest does not name.")
    ] = ".nii.gz",
    part: Annotated[
        str | None, typer.Option("--part", metavar="K/N", help="Every N-th item from the K-th, for job arrays.")
    ] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave finished outputs; go on where a batch stopped.")
    ] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first item that fails.")] = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Reconstruct every input of a manifest, in one process that opens the prior once.

    A manifest has a column `input`, and any of `output`, `truth`, `operator`, `axes`, `seed`; its paths start from its
    own folder. Items that fail are listed, the others go on, and the exit code is 9. With --json, one object a line.
    On a GPU, small inputs that are alike go through the network together (--set run.together=N; 1 for none).
    """
    from recon.config.resolve import resolve
    from recon.errors import BatchError, UsageError
    from recon.io.catalog import format_of_name
    from recon.runs.batch import FAILED, BatchRequest, run_batch
    from recon.runs.manifest import BatchItem, part_of, read_manifest

    form = format_of_name(f"x{extension}")
    if form is None or "image" not in form.writes:
        raise UsageError(f"no image format has the extension '{extension}'", "such as --extension .nii.gz")
    flags = {
        "run.samples": samples,
        "run.seed": seed,
        "run.device": device,
        "prior.name": prior,
        "metrics.protocol": protocol,
    }
    resolved = resolve(preset, method=method, config_file=config, sets=set_ or (), flags=flags)
    items = part_of(read_manifest(manifest, extension), part)
    folder.mkdir(parents=True, exist_ok=True)
    request = BatchRequest(
        items=items,
        folder=folder,
        config=resolved.config,
        preset=preset if not preset.endswith(".toml") else Path(preset).name,
        skip_existing=skip_existing,
        fail_fast=fail_fast,
        force=force,
        command=("recon", *sys.argv[1:]),
    )

    def started(number: int, item: BatchItem) -> None:
        note(f"{number}/{len(items)} {item.source}", quiet)

    failed = []
    with progress("batch", quiet) as report:
        for result in run_batch(request, started, lambda plan: announce(plan, quiet), report):
            _show(result, json)
            failed += [result] if result.status == FAILED else []
    if failed:
        raise BatchError(
            f"{len(failed)} of {len(items)} failed: {', '.join(str(r.item.source) for r in failed)}",
            "mend them and run again with --skip-existing",
        )


def _show(result: BatchResult, json: bool) -> None:
    """Print one item's result as a line on stdout, at once."""
    if json:
        print(jsonlib.dumps(plain(result.json())), flush=True)
        return
    cells = [result.status, str(result.item.source)]
    if result.report is not None:
        shown = {k: v for k, v in result.report.metrics.items() if k in ("psnr", "ssim", "residual")}
        cells += [result.report.outputs["image"], text_of(shown), f"{result.report.statistics['seconds']:.1f} s"]
    if result.error is not None:
        cells.append(result.error.message)
    print("  ".join(cells), flush=True)
