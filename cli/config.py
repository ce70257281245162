"""`recon config show`."""

from __future__ import annotations

from typing import Annotated

import typer

from .lazy import new_group
from .options import ConfigFile, Device, Json, Method, PresetOrNone, Prior, Samples, Seed, Set, complete_preset
from .output import print_json, print_table

app = new_group("Show the resolved configuration and the origin of each value.")


@app.command("show")
def show_config(
    name: Annotated[
        str | None, typer.Argument(metavar="[PRESET]", help="Preset, or a TOML file.", autocompletion=complete_preset)
    ] = None,
    preset: PresetOrNone = None,
    method: Method = None,
    prior: Prior = None,
    samples: Samples = None,
    seed: Seed = None,
    device: Device = None,
    sets: Set = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show every value of a run, and where it comes from.

    The options are those of `recon run`; nothing is read but configuration.
    """
    from recon.config.resolve import describe, resolve
    from recon.errors import UsageError

    if (name is None) == (preset is None):
        raise UsageError("config show needs one preset", "recon config show PRESET, or --preset PRESET as in recon run")
    flags = {"prior.name": prior, "run.samples": samples, "run.seed": seed, "run.device": device}
    resolved = resolve(name or preset, method=method, config_file=config, sets=sets or [], flags=flags)
    if as_json:
        print_json({"values": resolved.values, "origins": resolved.origins})
    else:
        print_table(("key", "value", "from"), describe(resolved))
