"""`recon convert`: convert an image between formats."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Axes, Force, Index, Json, Quiet
from .output import note, print_facts, print_json
from .streams import read_source


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="Image, volume, measurement; - for stdin.")],
    output: Annotated[str, typer.Argument(metavar="OUT", help="Image to write; - for npy on stdout.")],
    axes: Axes = None,
    index: Index = None,
    channel: Annotated[
        str | None, typer.Option("--channel", metavar="N|grey", help="One channel alone, or the luma of RGB.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="TYPE", help="Type of the values, such as float32; never lossy.")
    ] = None,
    content: Annotated[
        str | None,
        typer.Option(
            "--content", metavar="image|measurement", help="What to convert, of files that hold both; else chosen."
        ),
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert an image or a measurement between formats, keeping axes, spacing, affine and units where it has them.

    Values are never rescaled. A conversion that would lose values, such as of fractions to uint8, is refused.
    """
    from recon.errors import UsageError
    from recon.runs.convert import ConvertRequest
    from recon.runs.convert import convert as convert_file

    if output == "-" and json:
        raise UsageError("--json and an image cannot both go to standard output", "write the image to a file")
    facts = convert_file(ConvertRequest(read_source(source), output, axes, index, channel, dtype, force, content))
    if dtype is not None and facts["dtype"] != dtype:
        note(f"{facts['format']} files hold {facts['dtype']}: the values are those of {dtype}", quiet)
    if json:
        print_json(facts)
    elif output != "-":
        print_facts(facts)
