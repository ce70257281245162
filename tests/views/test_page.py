"""Pages: well formed, escaped, and whole in one file; curves: where their points lie."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from recon.errors import InputError
from recon.views.curve import ABOVE, BELOW, HEIGHT, LEFT, RIGHT, WIDTH, curve_svg
from recon.views.page import Section, figure, page, picture, table, verbatim

VOID = {"meta", "img", "line", "polyline"}


class Checked(HTMLParser):
    """Keeps the tags that are open, and every attribute that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in ("src", "href") and value]


def checked(html: str) -> Checked:
    found = Checked()
    found.feed(html)
    found.close()
    assert found.open == []
    return found


def test_a_page_is_well_formed_and_loads_nothing():
    red = np.zeros((4, 5, 3), np.uint8)
    red[..., 0] = 255
    svg = curve_svg([10.0, 1.0, 0.5], "step", "residual", 1.0)
    html = page("a", "b", [Section("Pictures", picture(red, "red")), Section("Curve", figure(svg, "falls"))], "c")
    (loaded,) = checked(html).loads
    kind, data = loaded.split(",", 1)
    assert kind == "data:image/png;base64"
    assert (np.array(Image.open(io.BytesIO(base64.b64decode(data)))) == red).all()
    assert "<script" not in html and "http" not in html


def test_everything_from_outside_is_escaped():
    nasty = "<script>alert(\"x\")</script> & 'y'"
    made = [Section(nasty, table({nasty: nasty}) + verbatim(nasty))]
    html = page(nasty, nasty, made, nasty)
    checked(html)
    assert "<script" not in html and html.count("&lt;script&gt;") == 8


def test_values_of_tables_are_readable():
    html = table({"a": 0.123456789, "b": {"c": 1, "d": None}, "e": [1.5, 2], "f": True})
    cells = re.findall("<td>(.*?)</td>", html)
    assert cells == ["0.123457", "c 1, d none", "1.5, 2", "True"]


def test_a_curve_spans_its_axes():
    svg = curve_svg([100.0, 10.0, 1.0], "step", "residual", level=10.0)
    points = re.search('polyline points="(.*?)"', svg)[1]
    middle = f"{LEFT + (WIDTH - LEFT - RIGHT) / 2:.1f},{ABOVE + (HEIGHT - ABOVE - BELOW) / 2:.1f}"
    assert points == f"{LEFT}.0,{ABOVE}.0 {middle} {WIDTH - RIGHT}.0,{HEIGHT - BELOW}.0"
    assert f'y1="{middle.split(",")[1]}" y2="{middle.split(",")[1]}" class="level"' in svg
    checked(svg)


def test_steps_that_cannot_be_drawn_are_left_out_of_a_curve():
    svg = curve_svg([1.0, float("nan"), 0.0, 2.0], "step", "residual")
    assert len(re.search('polyline points="(.*?)"', svg)[1].split()) == 2
    with pytest.raises(InputError, match="two positive"):
        curve_svg([1.0, float("inf")], "step", "residual")
