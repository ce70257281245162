"""Many small images in one picture, without text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recon.errors import InputError
from recon.views.images import Window, image_panel

GAP = 2
WHITE = 255


def mosaic(images: Sequence[np.ndarray], window: Window, columns: int, magnify: int = 1) -> np.ndarray:
    """Return images (C, Y, X) of one size, in rows of up to `columns`, as an RGB picture (Y, X, 3), uint8.

    window: (black, white) of all.  magnify: side of the square that a pixel becomes. Raises InputError on images of
    different sizes, or none.
    """
    sizes = {image.shape for image in images}
    if len(sizes) != 1:
        raise InputError(f"a mosaic needs images of one size, got {sorted(sizes) or 'none'}")
    panels = [image_panel(image, window).repeat(magnify, axis=0).repeat(magnify, axis=1) for image in images]
    height, width, _ = panels[0].shape
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    page = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), WHITE, np.uint8)
    for index, panel in enumerate(panels):
        top, left = (index // columns) * (height + GAP), (index % columns) * (width + GAP)
        page[top : top + height, left : left + width] = panel
    return page
