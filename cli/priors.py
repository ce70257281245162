"""`recon priors list|show`."""

from __future__ import annotations

from typing import Annotated

import typer

from .lazy import new_group
from .options import Json, complete_prior
from .output import print_facts, print_json, print_table, text_of

app = new_group("List and show diffusion priors.")


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
    """Show a prior's shape, training, licence and hash."""
    from recon.priors.catalog import describe_prior

    facts = describe_prior(name)
    if as_json:
        print_json(facts)
        return
    print_facts({key: _lines(value) for key, value in facts.items()})


def _lines(value: object) -> object:
    """Return a mapping with a line per entry."""
    if not isinstance(value, dict):
        return value
    return "\n".join(f"{key}: {text_of(entry)}" for key, entry in value.items())
