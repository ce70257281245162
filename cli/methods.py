"""`recon methods list|show`."""

from __future__ import annotations

from typing import Annotated

import typer

from .lazy import new_group
from .options import Json, complete_method
from .output import print_facts, print_json, print_table
from .settings import rows_of, settings, summary

app = new_group("List and show methods and their settings.")


@app.command("list")
def list_methods(as_json: Json = False) -> None:
    """List methods: posterior samplers and classical baselines."""
    from recon.runs.methods import METHODS, SAMPLERS

    found = [
        {"name": name, "kind": "sampler" if name in SAMPLERS else "baseline", "description": line}
        for name, (_, _, line) in METHODS.items()
    ]
    if as_json:
        print_json({"methods": found})
    else:
        print_table(("method", "kind", "description"), [tuple(entry.values()) for entry in found])


@app.command("show")
def show_method(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_method)], as_json: Json = False
) -> None:
    """Show a method's settings, needs, presets, citation, and what the published audit found."""
    from recon.audit.published import audit_facts
    from recon.config.presets import list_presets
    from recon.runs.methods import METHODS, SAMPLERS, method_class

    cls = method_class(name)
    used = [preset.name for preset in list_presets() if preset.method == name]
    facts = {
        "name": name,
        "description": METHODS[name][2],
        "needs": sorted(cls.needs),
        "uses_prior": cls.uses_prior,
        "stochastic": cls.stochastic,
        "presets": used,
        "citation": cls.citation,
    }
    if name in SAMPLERS:
        facts |= audit_facts(name)
    found = settings(cls)
    if as_json:
        print_json({**facts, "settings": found, "documentation": summary(cls)})
        return
    print_facts(facts)
    print(f"\n{summary(cls)}\n")
    print_table(("setting", "default", "type"), rows_of(found))
    print("\nset one with --set method.NAME=VALUE, or in the [method] section of a preset")
