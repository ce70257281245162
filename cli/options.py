"""Options that several commands share, each declared once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer


@dataclass
class Session:
    """What was asked of the whole call, before or after the command's name."""

    quiet: bool = False
    debug: bool = False


def session(context: typer.Context) -> Session:
    """Return the session of a call."""
    return context.find_root().ensure_object(Session)


def _quiet(context: typer.Context, value: bool) -> bool:
    """Note -q; the value is that of the whole call."""
    session(context).quiet |= value
    return session(context).quiet


def _debug(context: typer.Context, value: bool) -> bool:
    session(context).debug |= value
    return session(context).debug


def complete_preset(incomplete: str) -> list[str]:
    """Complete the name of a preset."""
    from recon.config.presets import preset_names

    return [name for name in preset_names() if name.startswith(incomplete)]


def complete_method(incomplete: str) -> list[str]:
    """Complete the name of a method."""
    from recon.runs.methods import METHODS

    return [name for name in METHODS if name.startswith(incomplete)]


def complete_operator(incomplete: str) -> list[str]:
    """Complete the kind of an operator."""
    from recon.operators.catalog import OPERATORS

    return [kind for kind in OPERATORS if kind.startswith(incomplete)]


def complete_prior(incomplete: str) -> list[str]:
    """Complete the name of a shipped prior."""
    from recon.priors.catalog import shipped_priors

    return [name for name in shipped_priors() if name.startswith(incomplete)]


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notices.", callback=_quiet)]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", callback=_debug)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite outputs that exist.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]

Preset = Annotated[
    str,
    typer.Option("--preset", "-p", metavar="NAME|FILE", help="Preset to start from.", autocompletion=complete_preset),
]
PresetOrNone = Annotated[
    str | None,
    typer.Option("--preset", "-p", metavar="NAME|FILE", help="Preset to start from.", autocompletion=complete_preset),
]
Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        "-m",
        metavar="NAME",
        help="Method, with its settings from the preset PROBLEM-METHOD if there is one.",
        autocompletion=complete_method,
    ),
]
Prior = Annotated[
    str | None,
    typer.Option("--prior", metavar="NAME|FILE", help="Prior, or a weight file.", autocompletion=complete_prior),
]
Operator = Annotated[
    Path | None,
    typer.Option("--operator", metavar="FILE", help="Operator file; goes before the measurement's and the preset's."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Set section.key=value; can be repeated."),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Configuration file, in place of the user's own."),
]
Samples = Annotated[
    int | None, typer.Option("--samples", metavar="N", help="Posterior samples; more than one gives mean and std.")
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of everything random.")]
Device = Annotated[str | None, typer.Option("--device", metavar="NAME", help="Device: auto, cpu, cuda, cuda:1, ...")]
Backend = Annotated[
    str | None,
    typer.Option("--backend", metavar="NAME", help="What evaluates the network: auto, eager, compile, onnxruntime."),
]
Truth = Annotated[Path | None, typer.Option("--truth", metavar="FILE", help="Image to score against.")]
Protocol = Annotated[str | None, typer.Option("--protocol", metavar="NAME", help="Metric protocol.")]
Axes = Annotated[
    str | None, typer.Option("--axes", metavar="AXES", help="Axes of the input, one letter each from n, z, c, y, x.")
]
Index = Annotated[int | None, typer.Option("--index", metavar="N", help="One slice or item of the input alone.")]
