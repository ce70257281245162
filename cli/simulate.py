"""`recon simulate`: make a measurement of an image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Axes, ConfigFile, Force, Index, Json, Operator, Preset, Quiet, Seed, Set
from .output import note, print_facts, print_json
from .streams import read_source


def simulate(
    truth: Annotated[str, typer.Argument(metavar="TRUTH", help="Image or volume; - for npy on stdin.")],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Measurement file (.h5, .npz); - for npz on stdout.")],
    preset: Preset,
    operator: Operator = None,
    set_: Set = None,
    config: ConfigFile = None,
    seed: Seed = None,
    index: Index = None,
    axes: Axes = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a measurement of an image: forward operator and noise of the preset.

    Masks, kernels and noise are drawn from the seed and stored, so OUTPUT is all that `recon run` needs. A volume gives
    one measurement a slice; --index takes one slice alone.
    """
    from recon.config.resolve import resolve
    from recon.errors import UsageError
    from recon.io.atomic import check_writable
    from recon.io.registry import read_volume, write_measurement
    from recon.runs.operator_files import load_operator
    from recon.runs.simulate import simulate as make_measurement

    if output == "-" and json:
        raise UsageError("--json and a measurement cannot both go to standard output", "write it to a file")
    resolved = resolve(preset, config_file=config, sets=set_ or (), flags={"run.seed": seed}, fallback_method="adjoint")
    if output != "-":
        check_writable([Path(output)], force)
    volume = read_volume(read_source(truth), axes=axes)
    spec = load_operator(operator) if operator is not None else None
    measurement = make_measurement(volume, resolved.config, index, spec)
    facts = {
        "status": "ok",
        "operator": measurement.operator.kind if measurement.operator else None,
        "items": int(measurement.y.shape[0]),
        "shape": list(measurement.y.shape[1:]),
        "noise": vars(measurement.noise) if measurement.noise else None,
    }
    if output == "-":
        note(f"{facts['items']} measurement(s) of shape {facts['shape']}", quiet)
        write_measurement(output, measurement)
        return
    write_measurement(output, measurement, force=force)
    facts["outputs"] = {"measurement": output}
    if json:
        print_json(facts)
    else:
        print_facts(facts)
