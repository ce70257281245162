"""`recon view`: a picture of a reconstruction, alone, as slices, planes or frames, or beside the truth with maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recon.data import Geometry, Volume, take_item, to_stack
from recon.errors import InputError, UsageError
from recon.io.atomic import check_writable, write_bytes
from recon.io.registry import read_volume
from recon.metrics.evaluate import evaluate
from recon.metrics.protocols import find_protocol
from recon.views.comparison import Compared, comparison
from recon.views.gif import encode_gif
from recon.views.images import shared_window
from recon.views.planes import planes
from recon.views.png import encode_png
from recon.views.sheet import sheet, view_volume


@dataclass(frozen=True)
class ViewRequest:
    """What the user asked for.

    images: first the image itself, then those to compare with.  window: (black, white), or None for 0 to the largest
    value.  slices: at most this many of a volume.  planes: its three middle planes instead.
    An output that ends in .gif shows every slice of a volume in turn.
    """

    images: tuple[Path, ...]
    output: Path
    truth: Path | None = None
    std: Path | None = None
    index: int | None = None
    window: tuple[float, float] | None = None
    slices: int = 12
    protocol: str = "image01"
    axes: str | None = None
    force: bool = False
    planes: bool = False


def view(request: ViewRequest) -> dict[str, Any]:
    """Draw the picture; return {status, outputs, metrics by image}.

    Raises UsageError for an output that is no picture, a std without a truth, or planes or frames of more than one
    image; InputError for images that do not fit.
    """
    _check_request(request)
    if request.std is not None and request.truth is None:
        raise UsageError("--std is drawn beside error maps", "give the truth too, or view the std file by itself")
    check_writable([request.output], request.force)
    volumes = [_read(path, request) for path in request.images]
    flip = first_row_is_bottom(volumes[0].geometry)
    stacks = [to_stack(volume) for volume in volumes]
    metrics: dict[str, Any] = {}
    if request.truth is None:
        picture = _alone(request, volumes[0], flip) if _of_one(request) else _plain(request, stacks, flip)
    else:
        truth = _read(request.truth, request)
        metrics = _metrics(request, stacks, truth)
        captions = [f"{_number(m['psnr'], 2)} dB, SSIM {_number(m['ssim'], 3)}" for m in metrics.values()]
        compared = [Compared(_title(path), stack) for path, stack in zip(request.images, stacks, strict=True)]
        std = to_stack(_read(request.std, request)) if request.std is not None else None
        heading = f"protocol {request.protocol}"
        picture = encode_png(
            comparison(to_stack(truth), compared, captions, std, flip, window=request.window, heading=heading)
        )
    write_bytes(request.output, picture, force=request.force)
    return {"status": "ok", "metrics": metrics, "outputs": {"picture": str(request.output)}}


def _check_request(request: ViewRequest) -> None:
    if request.output.suffix.lower() not in (".png", ".gif"):
        raise UsageError(f"a view is a PNG or a GIF, got {request.output.name}", "name the output with .png or .gif")
    if _of_one(request) and (len(request.images) > 1 or request.truth is not None):
        raise UsageError(
            "planes and frames show one image", "leave out --truth and --compare, or write a PNG of slices"
        )
    if request.planes and request.output.suffix.lower() == ".gif":
        raise UsageError("planes are one picture, not frames", "name the output with .png")


def _of_one(request: ViewRequest) -> bool:
    return request.planes or request.output.suffix.lower() == ".gif"


def _alone(request: ViewRequest, volume: Volume, flip: bool) -> bytes:
    """Return the planes, or every slice as a frame, of one volume."""
    stack = to_stack(volume)
    window = request.window or shared_window(stack)
    if request.planes:
        return encode_png(planes(stack, _steps(volume.geometry), window, flip))
    return encode_gif([sheet([s], [f"{i + 1} of {len(stack)}"], [], window, 1, flip) for i, s in enumerate(stack)])


def _steps(geometry: Geometry) -> tuple[float, float, float]:
    """Return the spacing of slices, rows and columns; 1 where the file does not say."""
    known = dict(zip(geometry.axes, geometry.spacing or (), strict=False))
    z, y, x = (float(known.get(name, 1.0)) for name in "zyx")
    return z, y, x


def _plain(request: ViewRequest, stacks: list[np.ndarray], flip: bool) -> bytes:
    if len(stacks) > 1:
        if any(s.shape != stacks[0].shape for s in stacks):
            raise InputError(f"images of shapes {sorted({s.shape for s in stacks})} cannot stand side by side")
        middle = [s[len(s) // 2] for s in stacks]
        titles = [_title(path) for path in request.images]
        window = request.window or shared_window(stacks[0])
        return encode_png(sheet(middle, titles, [], window, flip_rows=flip))
    return encode_png(view_volume(stacks[0], request.slices, request.window, flip_rows=flip))


def _metrics(request: ViewRequest, stacks: list[np.ndarray], truth: Volume) -> dict[str, Any]:
    protocol, reference = find_protocol(request.protocol), to_stack(truth)
    declared = truth.geometry.value_range
    scores = [evaluate(stack, reference, protocol, declared) for stack in stacks]
    return {str(path): s for path, s in zip(request.images, scores, strict=True)}


def _read(path: Path, request: ViewRequest) -> Volume:
    volume = read_volume(path, axes=request.axes)
    return volume if request.index is None else take_item(volume, request.index)


def first_row_is_bottom(geometry: Geometry | None) -> bool:
    """Whether rows go towards the front of the head, as in a NIfTI image with positive y: drawn from the bottom up."""
    affine = geometry.affine if geometry is not None else None
    return affine is not None and bool(affine[1, 1] > 0)


def _title(path: Path) -> str:
    return path.name.split(".")[0]


def _number(value: float | None, digits: int) -> str:
    return "inf" if value is None else f"{value:.{digits}f}"
