"""One curve over steps as an SVG element, for pages: logarithmic upwards, in the page's own text colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from recon.errors import InputError

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, ABOVE, BELOW = 56, 12, 12, 36


def curve_svg(values: Sequence[float], x_label: str, y_label: str, level: float | None = None) -> str:
    """Return an SVG element of values at steps 1, 2, ..., on a logarithmic axis.

    level: a value marked by a dashed line.  Raises InputError where fewer than two values are positive and finite.
    """
    points = [(i + 1, v) for i, v in enumerate(values) if math.isfinite(v) and v > 0]
    if len(points) < 2:
        raise InputError(f"a curve needs two positive values, got {len(points)}")
    marked = [v for _, v in points] + ([level] if level is not None else [])
    low, high = math.floor(math.log10(min(marked))), math.ceil(math.log10(max(marked)))
    high += low == high

    def place(step: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * (step - 1) / max(len(values) - 1, 1)
        y = ABOVE + (HEIGHT - ABOVE - BELOW) * (high - math.log10(value)) / (high - low)
        return f"{x:.1f},{y:.1f}"

    parts = []
    for decade in range(low, high + 1):
        _, y = place(1, 10.0**decade).split(",")
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" class="grid"/>')
        parts.append(
            f'<text x="{LEFT - 8}" y="{y}" text-anchor="end" dominant-baseline="middle">{10.0**decade:g}</text>'
        )
    if level is not None:
        _, y = place(1, level).split(",")
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" class="level"/>')
    for step in sorted({1, (len(values) + 1) // 2, len(values)}):
        x, _ = place(step, 10.0**high).split(",")
        parts.append(f'<text x="{x}" y="{HEIGHT - BELOW + 16}" text-anchor="middle">{step}</text>')
    parts.append(f'<polyline points="{" ".join(place(*point) for point in points)}" class="curve"/>')
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    title = escape(f"{y_label} against {x_label}")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{"".join(parts)}</svg>'
