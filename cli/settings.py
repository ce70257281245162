"""The fields of a dataclass as rows of a table, for `show` commands."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any


def settings(cls: Any) -> list[dict[str, Any]]:
    """Return name, type and default of each field of a dataclass; a field that must be given has no default."""
    rows = []
    for field in fields(cls):
        row: dict[str, Any] = {
            "name": field.name,
            "type": field.type if isinstance(field.type, str) else repr(field.type),
        }
        if field.default is not MISSING:
            row["default"] = field.default
        elif field.default_factory is not MISSING:
            row["default"] = field.default_factory()
        rows.append(row)
    return rows


def summary(cls: Any) -> str:
    """Return the documentation of a class, unindented."""
    import inspect

    return inspect.getdoc(cls) or ""


def rows_of(found: list[dict[str, Any]]) -> list[tuple[str, Any, str]]:
    """Return the rows of a table of settings."""
    return [(row["name"], row.get("default", "(required)"), row["type"]) for row in found]
