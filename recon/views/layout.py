"""Rows of panels with titles, captions and colour bars, drawn into one RGB picture.

Pillow draws the text and is loaded only here and in `recon.views.png`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import numpy as np

from recon.errors import InputError
from recon.views.colour import Scale

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

LEAST_SIDE, MOST_SIDE = 250, 512  # of a panel's longer side, in pixels
SMOOTH_UP_TO = 3  # larger magnifications show the pixels as they are
GAP, MARGIN = 14, 22
TITLE, CAPTION, LEAST_TEXT = 20, 16, 9
BAR, BAR_ROOM, LABEL_ROOM = 14, 92, 30
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (95, 95, 95)


@final
@dataclass(frozen=True)
class Row:
    """Panels side by side.

    panels: RGB arrays (Y, X, 3), uint8, all of one size; None leaves a gap.  titles: above, captions: below the panels
    (empty: none).  scales: drawn as bars with numbers at the right.  label: at the left, upright.
    smooth: whether magnified panels are interpolated; maps are not, so that every colour is one of the scale's.
    """

    panels: Sequence[np.ndarray | None]
    titles: Sequence[str] = ()
    captions: Sequence[str] = ()
    scales: Sequence[Scale] = field(default=())
    label: str = ""
    smooth: bool = True


def compose(rows: Sequence[Row], heading: str = "") -> np.ndarray:
    """Return the rows as one RGB picture (Y, X, 3), uint8.

    Panels are magnified by a whole number until their longer side has 250 pixels (bicubic up to 3 times, then nearest),
    and reduced where it has more than 512. Raises InputError if there is no panel, or panels differ in size.
    """
    from PIL import Image, ImageDraw

    height, width = _panel_size(rows)
    columns = max(len(row.panels) for row in rows)
    left = MARGIN + (LABEL_ROOM if any(row.label for row in rows) else 0)
    bars = max(len(row.scales) for row in rows)
    top = MARGIN + (TITLE + 2 * GAP if heading else 0)
    total = top + sum(_row_height(row, height) + GAP for row in rows) + MARGIN - GAP
    right = left + columns * (width + GAP) - GAP + bars * BAR_ROOM + MARGIN
    page = Image.new("RGB", (right, total), PAPER)
    draw = ImageDraw.Draw(page)
    if heading:
        draw_text(draw, heading, (right // 2, MARGIN + TITLE // 2), right - 2 * MARGIN, TITLE + 4, INK)
    for row in rows:
        start = top + (TITLE + GAP // 2 if any(row.titles) else 0)
        for index, panel in enumerate(row.panels):
            x = left + index * (width + GAP)
            centre = x + width // 2
            if panel is not None:
                page.paste(_resized(panel, height, width, row.smooth), (x, start))
            if index < len(row.titles):
                draw_text(draw, row.titles[index], (centre, start - TITLE // 2 - 4), width, TITLE, INK)
            if index < len(row.captions):
                draw_text(draw, row.captions[index], (centre, start + height + CAPTION // 2 + 5), width, CAPTION, FAINT)
        for index, scale in enumerate(row.scales):
            x = left + len(row.panels) * (width + GAP) + index * BAR_ROOM
            _bar(page, draw, scale, (x, start), height)
        if row.label:
            _upright(page, row.label, (left - LABEL_ROOM, start), height)
        top += _row_height(row, height) + GAP
    return np.array(page)


def _panel_size(rows: Sequence[Row]) -> tuple[int, int]:
    """Return the height and width of a panel on the page."""
    sizes = {panel.shape for row in rows for panel in row.panels if panel is not None}
    if len(sizes) != 1:
        raise InputError(
            f"a sheet needs panels of one size, got {', '.join(map(str, sorted(sizes))) or 'none'}",
            "show images of one shape together",
        )
    height, width, _ = sizes.pop()
    side = max(height, width)
    if side > MOST_SIDE:
        return max(1, round(height * MOST_SIDE / side)), max(1, round(width * MOST_SIDE / side))
    times = -(-LEAST_SIDE // side)
    return height * times, width * times


def _row_height(row: Row, height: int) -> int:
    return height + (TITLE + GAP // 2 if any(row.titles) else 0) + (CAPTION + 10 if any(row.captions) else 0)


def _resized(panel: np.ndarray, height: int, width: int, smooth: bool) -> Image:
    from PIL import Image

    resampling = Image.Resampling
    if height < panel.shape[0] or width < panel.shape[1]:
        method = resampling.BOX
    else:
        little = height <= SMOOTH_UP_TO * panel.shape[0]
        method = resampling.BICUBIC if smooth and little else resampling.NEAREST
    return Image.fromarray(np.ascontiguousarray(panel)).resize((width, height), method)


def draw_text(
    draw: ImageDraw, text: str, centre: tuple[float, float], room: float, size: float, colour: tuple[int, int, int]
) -> None:
    """Draw a line of text about a centre, smaller or cut short where it is wider than `room`."""
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    while draw.textlength(text, font=font) > room and size > LEAST_TEXT:
        size -= 1
        font = ImageFont.load_default(size)
    while len(text) > 1 and draw.textlength(text, font=font) > room:
        text = text[:-2].rstrip() + "…"
    draw.text(centre, text, fill=colour, font=font, anchor="mm")


def _bar(page: Image, draw: ImageDraw, scale: Scale, corner: tuple[int, int], height: int) -> None:
    """Draw a vertical colour bar with its numbers at the ends and the middle, and its label above the top number."""
    from PIL import Image, ImageFont

    x, y = corner
    ramp = np.linspace(scale.high, scale.low, height)[:, None].repeat(BAR, axis=1)
    page.paste(Image.fromarray(scale.colour(ramp)), (x, y))
    draw.rectangle((x - 1, y - 1, x + BAR, y + height), outline=FAINT)
    font = ImageFont.load_default(CAPTION - 2)
    middle = (scale.low + scale.high) / 2
    for value, place in ((scale.high, y + 7), (middle, y + height / 2), (scale.low, y + height - 7)):
        draw.text((x + BAR + 6, place), number(value), fill=INK, font=font, anchor="lm")
    if scale.label:
        draw_text(draw, scale.label, (x + BAR_ROOM / 2 - 6, y - 10), BAR_ROOM - 4, CAPTION - 2, FAINT)


def _upright(page: Image, text: str, corner: tuple[int, int], height: int) -> None:
    """Draw text that reads upwards, in the middle of a row."""
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (height, LABEL_ROOM - 6), PAPER)
    draw_text(ImageDraw.Draw(strip), text, (height / 2, (LABEL_ROOM - 6) / 2), height, CAPTION + 2, INK)
    page.paste(strip.rotate(90, expand=True), corner)


def number(value: float) -> str:
    """Return a value with three significant digits, and 0 for what rounding left of it."""
    return "0" if abs(value) < 1e-12 else f"{value:.3g}"
