"""`recon view`: a picture of images, errors and maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Axes, Force, Index, Json, Quiet, Truth
from .output import print_facts, print_json


def view(
    image: Annotated[Path, typer.Argument(metavar="IN", help="Reconstruction, or any image or volume.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.png", help="Picture to write; .gif shows every slice.")],
    compare: Annotated[
        list[Path] | None, typer.Option("--compare", metavar="FILE", help="Another image beside it; repeatable.")
    ] = None,
    truth: Truth = None,
    std: Annotated[Path | None, typer.Option("--std", metavar="FILE", help="Standard deviation map.")] = None,
    index: Index = None,
    low: Annotated[float | None, typer.Option("--low", metavar="V", help="Value shown black.")] = None,
    high: Annotated[float | None, typer.Option("--high", metavar="V", help="Value shown white.")] = None,
    slices: Annotated[int, typer.Option("--slices", metavar="N", help="At most so many slices of a volume.")] = 12,
    planes: Annotated[bool, typer.Option("--planes", help="The three middle planes of a volume.")] = False,
    protocol: Annotated[str, typer.Option("--protocol", metavar="NAME", help="Protocol of the scores.")] = "image01",
    axes: Axes = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw images, errors and maps side by side as a PNG, or the slices of a volume as an animated GIF.

    With --truth: the truth, the reconstruction with its scores, error maps and the std map, in one window and one error
    scale. Without: slices of a volume, or images side by side; with --planes its three middle planes. No image is
    stretched by itself.
    """
    from recon.errors import UsageError
    from recon.runs.view import ViewRequest
    from recon.runs.view import view as draw

    if (low is None) != (high is None):
        raise UsageError("--low and --high go together", "give both, or neither")
    window = (low, high) if low is not None and high is not None else None
    request = ViewRequest(
        (image, *(compare or ())), output, truth, std, index, window, slices, protocol, axes, force, planes
    )
    result = draw(request)
    if json:
        print_json(result)
    else:
        print_facts(result["outputs"])
