"""The image values that a non-linear model calls black and white.

A linear operator acts alike in any units; a detector that saturates, or an amplitude of values around mid-grey, does
not. Families with parameters `low` and `high` take them from the image's file where nobody gives them (`with_range`).
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from recon.operators.registry import family

Range = tuple[float, float]


def with_range(kind: str, params: dict[str, Any], value_range: Range | None) -> dict[str, Any]:
    """Return the parameters with `low` and `high` of `value_range`, where the family has both and neither is given."""
    names = {f.name for f in fields(family(kind).params)}
    if value_range is None or not {"low", "high"} <= names or {"low", "high"} & set(params):
        return params
    return {**params, "low": float(value_range[0]), "high": float(value_range[1])}
