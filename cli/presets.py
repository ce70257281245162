"""`recon presets list|show`."""

from __future__ import annotations

from typing import Annotated

import typer

from .lazy import new_group
from .options import Json, complete_preset
from .output import print_facts, print_json, print_table

app = new_group("List and show presets: problem, prior and method together.")


@app.command("list")
def list_presets(as_json: Json = False) -> None:
    """List presets.

    Those of a problem alone (problems/...) take their method from --method.
    """
    from recon.config import presets

    found = presets.list_presets()
    if as_json:
        print_json({"presets": [vars(info) for info in found]})
    else:
        print_table(("preset", "method", "description"), [(i.name, i.method, i.description) for i in found])


@app.command("show")
def show_preset(
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", autocompletion=complete_preset)], as_json: Json = False
) -> None:
    """Show a preset's values and the files they come from."""
    from recon.config.presets import load_preset

    preset = load_preset(name)
    values, origins = preset.layer.values, preset.layer.origins
    about = {key: str(values.get(key, "")) for key in ("description", "citation")}
    facts = {"name": preset.name, "problem": preset.problem, **about, "extends": list(preset.chain[1:])}
    facts["sha256"] = preset.sha256
    sections = {key: value for key, value in values.items() if isinstance(value, dict)}
    if as_json:
        print_json({**facts, "values": sections, "origins": origins})
        return
    print_facts(facts)
    print()
    rows = [
        (f"{section}.{key}", value, origins[f"{section}.{key}"])
        for section, content in sections.items()
        for key, value in content.items()
    ]
    print_table(("key", "value", "from"), rows)
