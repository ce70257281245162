"""What a command prints: its result on stdout, as a table for a person or one JSON object; all else on stderr."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

Cells = Sequence[Any]


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object; numbers that are not finite become null."""
    print(json.dumps(plain(value), indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Cells], stream: IO[str] | None = None) -> None:
    """Print rows under column titles: drawn on a terminal, aligned plain text otherwise."""
    stream = stream or sys.stdout
    cells = [[text_of(value) for value in row] for row in rows]
    if fancy(stream):
        _draw(columns, cells, stream)
        return
    widths = [max([len(title), *(len(row[i]) for row in cells)]) for i, title in enumerate(columns)]
    for row in [list(columns), *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), file=stream)


def print_facts(facts: Mapping[str, Any], stream: IO[str] | None = None) -> None:
    """Print names and values, one pair a line; an empty value is left out."""
    stream = stream or sys.stdout
    shown = {name: text_of(value) for name, value in facts.items() if value not in (None, "", [], {})}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        first, *rest = value.splitlines() or [""]
        print(f"{name.ljust(width)}  {first}".rstrip(), file=stream)
        for line in rest:
            print(f"{'':{width}}  {line}", file=stream)


def note(message: str, quiet: bool = False) -> None:
    """Print a notice to stderr, unless quiet."""
    if not quiet:
        print(f"recon: {message}", file=sys.stderr)


def fancy(stream: IO[str]) -> bool:
    """Whether to draw on a stream: a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def text_of(value: Any) -> str:
    """Return a value as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {text_of(v)}" for k, v in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(text_of(v) for v in (sorted(value) if isinstance(value, set | frozenset) else value))
    return str(value)


def _draw(columns: Sequence[str], cells: Sequence[Sequence[str]], stream: IO[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, title in enumerate(columns):
        # a name that is broken over lines cannot be copied
        table.add_column(Text(title), style="cyan" if number == 0 else None, no_wrap=number == 0)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console(file=stream).print(table)


def plain(value: Any) -> Any:
    """Return a value of types that JSON has; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(v) for v in value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
