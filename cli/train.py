"""`recon train`: train a prior."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Force, Json, Quiet
from .output import note, print_facts, print_json, print_table


def train(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="Shipped configuration by name, or a TOML file.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Weights to write (.safetensors).")],
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="Folder that the data paths start from.")] = Path(
        "."
    ),
    state: Annotated[
        Path, typer.Option("--state", metavar="DIR", help="Where checkpoints go, in a folder of the prior's name.")
    ] = Path("training-runs"),
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="Stop after this step.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", metavar="M", help="Stop after this time.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    ema: Annotated[int, typer.Option("--ema", metavar="I", help="Which average to write, from 0.")] = 0,
    dtype: Annotated[str, typer.Option("--dtype", metavar="TYPE", help="float16 or float32.")] = "float16",
    report: Annotated[bool, typer.Option("--report", help="Print the held-out denoising report.")] = False,
    card: Annotated[
        Path | None, typer.Option("--card", metavar="FILE.md", help="Write the model card; its own sections are kept.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", metavar="DIR", help="Where the card's pictures go, if not beside it.")
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a prior from a typed configuration, and write one of its averages as weights with their provenance.

    Checkpoints go to --state every few minutes; Ctrl-C loses at most those, and --resume goes on exactly.
    """
    import torch

    from recon.errors import UsageError
    from recon.io.atomic import check_writable
    from recon.runs.model_card import CardRequest, check_card, write_card
    from recon.runs.training import (
        TrainRequest,
        export_prior,
        losses_on_test,
        read_train_config,
        report_on_test,
        run_training,
    )

    if dtype not in ("float16", "float32"):
        raise UsageError(f"--dtype {dtype} is not float16 or float32")
    check_writable([output], force)
    settings = read_train_config(config)
    wanted = CardRequest(card, card.parent if pictures is None else pictures) if card is not None else None
    if wanted is not None:
        check_card(wanted, settings.name, force)
    if steps is not None:
        settings = settings.model_copy(update={"steps": steps})
    request = TrainRequest(settings, data, state / settings.name, minutes * 60 if minutes is not None else None, resume)

    def log(row: dict[str, float]) -> None:
        note(
            f"step {row['step']:.0f}  loss {row['loss']:.4f}  {row['crops_per_second']:.1f} crops/s  "
            f"{row['hours']:.2f} h",
            quiet,
        )

    run_training(request, log)
    provenance = export_prior(request, output, ema, getattr(torch, dtype), force)
    evaluated = report or wanted is not None
    rows = report_on_test(request, ema) if evaluated else []
    losses = losses_on_test(request) if evaluated else []
    facts = {"status": "ok", "step": provenance["step"], "crops": provenance["crops"], "hours": provenance["hours"]}
    facts["outputs"] = {"weights": str(output)}
    if wanted is not None:
        command = f"recon train {config} OUT.safetensors --data DIR --resume --minutes 0 --ema {ema} --report"
        write_card(request, wanted, ema, rows, losses, command, force)
        facts["outputs"] |= {"card": str(wanted.card), "samples": str(wanted.sheet(settings.name))}
    if json:
        sweep = dict(zip(map(str, settings.ema), losses, strict=False))
        print_json({**facts, "report": [vars(row) | {"gain": row.gain} for row in rows], "held_out_loss": sweep})
        return
    if report:
        names = list(rows[0].baselines)
        table = [
            (r.image, r.sigma, *(f"{v:.2f}" for v in (r.noisy, r.tv_oracle, *r.baselines.values(), r.prior, r.gain)))
            for r in rows
        ]
        extra = [f"{name} (oracle) dB" for name in names]
        print_table(["image", "sigma", "noisy dB", "TV (oracle) dB", *extra, "prior dB", "gain dB"], table)
        print_table(["average", "held-out loss"], [(e, f"{v:.4f}") for e, v in zip(settings.ema, losses, strict=True)])
    print_facts(facts)
