"""Line charts on logarithmic axes, and tables of coloured numbers, as RGB pictures drawn by Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from recon.errors import InputError
from recon.views.colour import Scale, oklab_to_srgb
from recon.views.layout import CAPTION, FAINT, INK, PAPER, TITLE, draw_text

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

OVERSAMPLED = 2  # drawn larger and reduced, so that slanted lines are smooth
PANEL, LEFT, BELOW, ABOVE, RIGHT = (420, 320), 64, 54, 44, 18
KEY_LINE, KEY_ROOM = 22, 150
CELL, HEAD_ROOM, ROW_ROOM = (96, 30), 132, 210


@final
@dataclass(frozen=True)
class Line:
    """A named curve: positive x and y of equal length; y at or below the panel's floor is drawn there."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@final
@dataclass(frozen=True)
class Panel:
    """Curves that share axes.  bar: a level marked by a dashed line.  floor: the lowest y that is shown."""

    title: str
    x_label: str
    lines: Sequence[Line]
    floor: float
    bar: float | None = None


def line_chart(panels: Sequence[Panel]) -> np.ndarray:
    """Return panels side by side with one key, (Y, X, 3), uint8; a name has the same colour in all of them.

    Raises InputError where there is nothing to draw, or x is not positive.
    """
    from PIL import Image, ImageDraw

    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    if not names or any(min(line.x, default=0) <= 0 for panel in panels for line in panel.lines):
        raise InputError("a chart needs lines with positive x")
    colours = dict(zip(names, _colours(len(names)), strict=True))
    width = len(panels) * (LEFT + PANEL[0] + RIGHT) + KEY_ROOM
    height = max(ABOVE + PANEL[1] + BELOW, ABOVE + KEY_LINE * len(names) + RIGHT)
    page = Image.new("RGB", (OVERSAMPLED * width, OVERSAMPLED * height), PAPER)
    draw = ImageDraw.Draw(page)
    for index, panel in enumerate(panels):
        _draw_panel(draw, panel, index * (LEFT + PANEL[0] + RIGHT) + LEFT, colours)
    start = len(panels) * (LEFT + PANEL[0] + RIGHT)
    for index, name in enumerate(names):
        y = ABOVE + KEY_LINE * (index + 0.5)
        draw.line(_scaled((start, y), (start + 24, y)), fill=colours[name], width=3 * OVERSAMPLED)
        _label(draw, name, (start + 24 + (KEY_ROOM - 24) / 2, y), KEY_ROOM - 30)
    return np.array(page.resize((width, height), Image.Resampling.BOX))


def cell_chart(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: np.ndarray,
    texts: Sequence[Sequence[str]],
    scale: Scale,
) -> np.ndarray:
    """Return a table (Y, X, 3), uint8, of values (rows, columns) coloured by `scale` under their texts.

    NaN leaves a cell white. Raises InputError where rows, columns, values and texts do not fit.
    """
    from PIL import Image, ImageDraw

    if values.shape != (len(rows), len(columns)) or [len(row) for row in texts] != [len(columns)] * len(rows):
        raise InputError(f"a chart of {len(rows)} rows and {len(columns)} columns got values of shape {values.shape}")
    width, height = ROW_ROOM + CELL[0] * len(columns) + RIGHT, HEAD_ROOM + CELL[1] * len(rows) + RIGHT
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    draw_text(draw, title, (width / 2, TITLE), width - 2 * RIGHT, TITLE, INK)
    for j, name in enumerate(columns):
        for line, part in enumerate(_wrapped(name)):
            place = (ROW_ROOM + CELL[0] * (j + 0.5), HEAD_ROOM - CAPTION * (4.5 - line))
            draw_text(draw, part, place, CELL[0] - 4, CAPTION - 3, FAINT)
    for i, name in enumerate(rows):
        top = HEAD_ROOM + CELL[1] * i
        draw_text(draw, name, (ROW_ROOM / 2, top + CELL[1] / 2), ROW_ROOM - 12, CAPTION, INK)
        for j, value in enumerate(values[i]):
            left = ROW_ROOM + CELL[0] * j
            if not math.isnan(value):
                colour = tuple(int(c) for c in scale.colour(np.array(value)))
                draw.rectangle((left, top, left + CELL[0] - 2, top + CELL[1] - 2), fill=colour)
                ink = INK if sum(colour) > 380 else PAPER
                draw_text(draw, texts[i][j], (left + CELL[0] / 2, top + CELL[1] / 2), CELL[0] - 8, CAPTION - 2, ink)
            else:
                draw_text(draw, texts[i][j], (left + CELL[0] / 2, top + CELL[1] / 2), CELL[0] - 8, CAPTION - 2, FAINT)
    return np.array(page)


def _draw_panel(draw: ImageDraw, panel: Panel, left: float, colours: dict[str, tuple[int, int, int]]) -> None:
    xs = [x for line in panel.lines for x in line.x]
    ys = [max(y, panel.floor) for line in panel.lines for y in line.y] + [panel.floor, panel.bar or panel.floor]
    across, up = _decades(xs), _decades(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        share = [(math.log10(v) - low) / (high - low) for v, (low, high) in ((x, across), (max(y, panel.floor), up))]
        return left + PANEL[0] * share[0], ABOVE + PANEL[1] * (1 - share[1])

    right = left + PANEL[0]
    draw.rectangle(_scaled((left, ABOVE), (right, ABOVE + PANEL[1])), outline=FAINT, width=OVERSAMPLED)
    for decade in range(math.ceil(up[0]), math.floor(up[1]) + 1):
        y = place(10.0 ** across[0], 10.0**decade)[1]
        draw.line(_scaled((left, y), (right, y)), fill=(225, 225, 225), width=OVERSAMPLED)
        _label(draw, f"{10.0**decade:g}", (left - LEFT / 2, y), LEFT - 8)
    for x in sorted(set(xs)):
        if x in _few(sorted(set(xs))):
            _label(draw, f"{x:g}", (place(x, panel.floor)[0], ABOVE + PANEL[1] + CAPTION), 60)
    if panel.bar is not None:
        y = place(10.0 ** across[0], panel.bar)[1]
        for start in range(int(left), int(right), 12):
            draw.line(_scaled((start, y), (min(start + 6, right), y)), fill=FAINT, width=OVERSAMPLED)
    for line in panel.lines:
        points = [place(x, y) for x, y in sorted(zip(line.x, line.y, strict=True))]
        draw.line(_scaled(*points), fill=colours[line.name], width=3 * OVERSAMPLED, joint="curve")
        for x, y in points:
            draw.ellipse(_scaled((x - 4, y - 4), (x + 4, y + 4)), fill=colours[line.name])
    _label(draw, panel.title, (left + PANEL[0] / 2, ABOVE / 2), PANEL[0], TITLE - 2)
    _label(draw, panel.x_label, (left + PANEL[0] / 2, ABOVE + PANEL[1] + BELOW - CAPTION / 2 - 2), PANEL[0])


def _label(draw: ImageDraw, text: str, centre: tuple[float, float], room: float, size: float = CAPTION - 2) -> None:
    x, y = _scaled(centre)
    draw_text(draw, text, (x, y), room * OVERSAMPLED, size * OVERSAMPLED, INK)


def _scaled(*points: tuple[float, float]) -> list[float]:
    return [OVERSAMPLED * value for point in points for value in point]


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """Return the logarithms of a range around positive values, with a margin."""
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max(0.05 * (high - low), 0.05)
    return low - margin, high + margin


def _few(values: Sequence[float], least: float = 0.16) -> list[float]:
    """Return values whose labels keep apart on a logarithmic axis."""
    gap = least * max(math.log10(values[-1] / values[0]), 1e-9)
    kept: list[float] = []
    for value in values:
        if not kept or math.log10(value / kept[-1]) >= gap:
            kept.append(value)
    return kept


def _colours(count: int) -> list[tuple[int, int, int]]:
    """Return colours of evenly spaced hues, alternately darker and lighter."""
    hue = 2 * np.pi * np.arange(count) / count + 0.4
    light = np.where(np.arange(count) % 2, 0.7, 0.5)
    lab = np.stack([light, 0.14 * np.cos(hue), 0.14 * np.sin(hue)], axis=-1)
    return [(int(r), int(g), int(b)) for r, g, b in oklab_to_srgb(lab)]


def _wrapped(name: str) -> list[str]:
    """Return a name in at most four lines, broken at hyphens."""
    return name.split("-")[:4]
