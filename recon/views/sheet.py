"""Contact sheets of images in one window, and of the slices of a stack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recon.errors import InputError
from recon.views.colour import grey
from recon.views.images import Window, image_panel, shared_window
from recon.views.layout import Row, compose

COLUMNS = 6


def sheet(
    panels: Sequence[np.ndarray],
    titles: Sequence[str],
    captions: Sequence[str],
    window: Window,
    columns: int = COLUMNS,
    flip_rows: bool = False,
    heading: str = "",
) -> np.ndarray:
    """Return images (Y, X) or (C, Y, X) side by side in one window as an RGB picture (Y, X, 3), uint8.

    titles, captions: one for each panel, above and below it, or none.  window: (black, white) of all panels; its bar
    stands at the right.  columns: panels a row.  Raises InputError on images of different sizes, and where the texts
    are not as many as the panels.
    """
    for name, texts in (("titles", titles), ("captions", captions)):
        if texts and len(texts) != len(panels):
            raise InputError(f"a sheet of {len(panels)} panels got {len(texts)} {name}")
    drawn = [image_panel(panel, window, flip_rows) for panel in panels]
    rows = [
        Row(drawn[i : i + columns], titles[i : i + columns], captions[i : i + columns], (grey(*window),))
        for i in range(0, len(drawn), columns)
    ]
    return compose(rows, heading)


def view_volume(
    stack: np.ndarray,
    count: int = 12,
    window: Window | None = None,
    columns: int = COLUMNS,
    flip_rows: bool = False,
    heading: str = "",
) -> np.ndarray:
    """Return up to `count` evenly spaced slices of a stack (N, C, Y, X) as a contact sheet, titled by their number.

    window: of all slices; None: that of the entire stack (see `shared_window`).
    """
    chosen = spaced(len(stack), count)
    titles = [f"slice {i + 1} of {len(stack)}" for i in chosen] if len(stack) > 1 else []
    shown = shared_window(stack) if window is None else window
    return sheet([stack[i] for i in chosen], titles, [], shown, min(columns, len(chosen)), flip_rows, heading)


def spaced(total: int, count: int) -> list[int]:
    """Return up to `count` indices of 0..total-1, evenly spaced at the middles of equal parts."""
    count = min(total, count)
    return [int((i + 0.5) * total / count) for i in range(count)]
