"""A self-contained HTML page: text, tables, pictures and citations in one file, without scripts or links to load."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, final

from recon.views.png import encode_png

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #5d6671; --paper: #fff; --line: #d9dee4; --mark: #b3401f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --faint: #9aa4af; --paper: #14171b; --line: #333a42; --mark: #f0906f; }
}
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p.lead { color: var(--faint); margin: 0 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; max-width: 100%; }
td, th { border-bottom: 1px solid var(--line); padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
th { font-weight: 500; color: var(--faint); white-space: nowrap; }
figure { margin: 0; overflow-x: auto; } img { max-width: 100%; height: auto; background: #fff; }
figcaption { color: var(--faint); font-size: .9rem; }
pre { overflow-x: auto; border: 1px solid var(--line); padding: .6rem .8rem; font-size: .85rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
svg { width: 100%; max-width: 40rem; height: auto; } svg text { fill: var(--faint); font-size: 13px; }
svg .grid { stroke: var(--line); } svg .level { stroke: var(--faint); stroke-dasharray: 5 5; }
svg .curve { fill: none; stroke: var(--mark); stroke-width: 2; }
footer { margin-top: 3rem; color: var(--faint); font-size: .9rem; }
"""


@final
@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, as HTML made by the functions of this file."""

    title: str
    html: str


def page(title: str, lead: str, sections: Sequence[Section], footer: str) -> str:
    """Return an HTML document; title, lead, headings and footer are escaped."""
    body = "\n".join(f"<section><h2>{escape(s.title)}</h2>\n{s.html}\n</section>" for s in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n{body}\n'
        f"<footer>{escape(footer)}</footer>\n</body>\n</html>\n"
    )


def table(rows: Mapping[str, Any]) -> str:
    """Return names and values as a table; a value that is itself a mapping or a sequence is written on one line."""
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(_text(value))}</td></tr>" for name, value in rows.items())
    return f"<table>{cells}</table>"


def picture(rgb: Any, caption: str) -> str:
    """Return an RGB picture (Y, X, 3), uint8, as a figure that holds it."""
    data = base64.b64encode(encode_png(rgb)).decode()
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def figure(svg: str, caption: str) -> str:
    """Return an SVG element as a figure."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def verbatim(text: str) -> str:
    """Return text as it is, in fixed width."""
    return f"<pre>{escape(text)}</pre>"


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_text(part) for part in value)
    return "none" if value is None else str(value)
