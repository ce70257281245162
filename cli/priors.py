"""`recon priors list|show|convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .lazy import new_group
from .options import Force, Json, complete_prior
from .output import print_facts, print_json, print_table, text_of

app = new_group("List, show and convert diffusion priors.")


@app.command("list")
def list_priors(as_json: Json = False) -> None:
    """List the shipped priors."""
    from recon.priors.catalog import prior_path, shipped_priors

    found = [{"name": name, "bytes": prior_path(name).stat().st_size} for name in shipped_priors()]
    if as_json:
        print_json({"priors": found})
    else:
        print_table(("prior", "bytes"), [tuple(entry.values()) for entry in found])


@app.command("show")
def show_prior(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", autocompletion=complete_prior)], as_json: Json = False
) -> None:
    """Show a prior's shape, training, licence and hash; of a published checkpoint also its family.

    Nothing in a file is executed.
    """
    from recon.priors.catalog import describe_prior

    _print(describe_prior(name), as_json)


@app.command("convert")
def convert_prior(
    source: Annotated[str, typer.Argument(metavar="FILE", help="Published checkpoint, or a diffusers folder.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="Weight file to write.")],
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="State what the file does not, such as heads=4."),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a published checkpoint in recon's own format, with its configuration inside.

    The keys of --set are those that `recon priors show` lists: of the network, the value range, the sizes, the name.
    """
    from recon.runs.priors import convert_prior as convert

    _print(convert(source, output, sets or (), force), as_json)


def _print(facts: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    print_facts({key: _lines(value) for key, value in facts.items()})


def _lines(value: object) -> object:
    """Return a mapping with a line per entry."""
    if not isinstance(value, dict):
        return value
    return "\n".join(f"{key}: {text_of(entry)}" for key, entry in value.items())
