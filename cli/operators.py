"""`recon operators list|show`."""

from __future__ import annotations

from typing import Annotated

import typer

from .lazy import new_group
from .options import Json, complete_operator
from .output import print_facts, print_json, print_table
from .settings import rows_of, settings, summary

app = new_group("List and show forward operators and their parameters.")


@app.command("list")
def list_operators(as_json: Json = False) -> None:
    """List forward operators."""
    from recon.operators.catalog import OPERATORS

    if as_json:
        print_json({"operators": [{"kind": k, "description": line} for k, (_, line) in OPERATORS.items()]})
    else:
        print_table(("operator", "description"), [(k, line) for k, (_, line) in OPERATORS.items()])


@app.command("show")
def show_operator(
    kind: Annotated[str, typer.Argument(metavar="KIND", autocompletion=complete_operator)], as_json: Json = False
) -> None:
    """Show an operator's parameters and arrays."""
    from recon.operators.catalog import OPERATORS
    from recon.operators.registry import family

    found = family(kind)
    parameters, documentation = settings(found.params), summary(found.params)
    if as_json:
        facts = {"kind": kind, "description": OPERATORS[kind][1], "documentation": documentation}
        print_json({**facts, "parameters": parameters, "arrays": found.arrays})
        return
    print_facts({"operator": kind, "description": OPERATORS[kind][1]})
    print(f"\n{documentation}\n")
    print_table(("parameter", "default", "type"), rows_of(parameters))
    if found.arrays:
        print()
        print_table(("array", "what it is"), list(found.arrays.items()))
