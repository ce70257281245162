"""The picture of a comparison: truth and reconstructions above, error maps and the standard deviation below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from recon.errors import InputError
from recon.views.colour import grey
from recon.views.images import (
    Window,
    error_image,
    error_map,
    error_scale,
    image_panel,
    shared_limit,
    shared_window,
    std_map,
)
from recon.views.layout import Row, compose
from recon.views.png import encode_png


@final
@dataclass(frozen=True)
class Compared:
    """A reconstruction to show: its name, such as "TV (oracle)", and image (N, C, Y, X) in the truth's units."""

    name: str
    image: np.ndarray


def comparison(
    truth: np.ndarray,
    compared: Sequence[Compared],
    captions: Sequence[str] = (),
    std: np.ndarray | None = None,
    flip_rows: bool = False,
    index: int | None = None,
    window: Window | None = None,
    limit: float | None = None,
    heading: str = "",
) -> np.ndarray:
    """Return one RGB picture (Y, X, 3), uint8, of a truth (N, C, Y, X) and its reconstructions.

    captions: one for each reconstruction, such as "24.2 dB, SSIM 0.71", or none.
    std: standard deviation over samples (N, C, Y, X); it stands below the truth, in the colours of the errors.
    flip_rows: first row at the bottom.  index: item or slice to show; None: the middle one.
    window, limit: (black, white) of all images, and top of all error maps; None: from the truth and the errors shown.
    Raises InputError on mismatched shapes and numbers.
    """
    _check(truth, compared, captions, std)
    item = len(truth) // 2 if index is None else index
    if not 0 <= item < len(truth):
        raise InputError(f"slice {item + 1} is not among the {len(truth)} of the truth")
    reference, images = truth[item], [entry.image[item] for entry in compared]
    shown = shared_window(reference) if window is None else window
    top = shared_limit([error_image(image, reference) for image in images]) if limit is None else limit
    first = Row(
        [image_panel(image, shown, flip_rows) for image in (reference, *images)],
        ["truth", *(entry.name for entry in compared)],
        ["", *captions],
        (grey(*shown),),
        "image",
    )
    spread = None if std is None else std_map(std[item], top, flip_rows)
    second = Row(
        [spread, *(error_map(image, reference, top, flip_rows) for image in images)],
        ["" if std is None else "std over samples", *("|error|" for _ in images)],
        (),
        (error_scale(top),),
        "error",
        smooth=False,
    )
    position = f"slice {item + 1} of {len(truth)}" if len(truth) > 1 else ""
    return compose([first, second], "   ".join(part for part in (heading, position) if part))


def comparison_png(
    truth: np.ndarray,
    compared: Sequence[Compared],
    captions: Sequence[str] = (),
    std: np.ndarray | None = None,
    flip_rows: bool = False,
    heading: str = "",
) -> bytes:
    """Return `comparison` as the bytes of a PNG file."""
    return encode_png(comparison(truth, compared, captions, std, flip_rows, heading=heading))


def _check(truth: np.ndarray, compared: Sequence[Compared], captions: Sequence[str], std: np.ndarray | None) -> None:
    if not compared or truth.ndim != 4:
        raise InputError(f"a comparison needs a truth (N, C, Y, X) and a reconstruction, got {truth.shape}")
    for name, image in [*((entry.name, entry.image) for entry in compared), ("standard deviation", std)]:
        if image is not None and image.shape != truth.shape:
            raise InputError(f"{name} has shape {image.shape}, expected the truth's {truth.shape}")
    if captions and len(captions) != len(compared):
        raise InputError(f"{len(compared)} reconstructions got {len(captions)} captions")
