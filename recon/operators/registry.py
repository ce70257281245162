"""From a kind and parameters to an operator: parse, draw the random parts, build."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from recon.data import OperatorSpec
from recon.errors import ConfigError
from recon.operators.base import Operator
from recon.operators.catalog import OPERATORS
from recon.operators.family import Arrays, Family


def family(kind: str) -> Family:
    """Return the operator family of that kind. Raises ConfigError, naming the nearest kind, if there is none."""
    if kind not in OPERATORS:
        near = difflib.get_close_matches(kind, OPERATORS, 1)
        raise ConfigError(
            f"unknown operator '{kind}'" + (f"; did you mean '{near[0]}'?" if near else ""), "see: recon operators list"
        )
    found: Family = importlib.import_module(OPERATORS[kind][0]).FAMILY
    return found


def parse_params(kind: str, params: dict[str, Any]) -> Any:
    """Return the family's parameter dataclass. Raises ConfigError on unknown names and wrong types."""
    cls = family(kind).params
    names = [f.name for f in fields(cls)]
    for key in params:
        if key not in names:
            near = difflib.get_close_matches(key, names, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"it takes: {', '.join(names) or 'nothing'}"
            raise ConfigError(f"operator '{kind}' has no parameter '{key}'", hint)
    try:
        return TypeAdapter(cls).validate_python(params)
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise ConfigError(f"operator '{kind}', parameter {where}: {first['msg']}, got {first['input']!r}") from err


def sees_volumes(kind: str, in_shape: tuple[int, ...] = (), arrays: Arrays | None = None) -> bool:
    """Return whether an operator sees the slices of a volume together: its family does, or what is known of it says so.

    in_shape: of four axes where its images are volumes, () where it is not known.  arrays: a trajectory along x, y and
    z is of a volume.
    """
    path = (arrays or {}).get("trajectory")
    return family(kind).volume or len(in_shape) == 4 or (path is not None and path.ndim > 1 and path.shape[-1] == 3)


def draw(
    kind: str, params: dict[str, Any], in_shape: tuple[int, ...], seed: int, given: Arrays | None = None
) -> OperatorSpec:
    """Return a complete specification: the random parts are drawn from `seed`, user-given arrays are kept."""
    fam, parsed = family(kind), parse_params(kind, params)
    given = given or {}
    for name in given:
        if name not in fam.arrays:
            raise ConfigError(f"operator '{kind}' takes no array '{name}'", f"it takes: {', '.join(fam.arrays)}")
    arrays = fam.draw(parsed, tuple(in_shape), np.random.default_rng(seed), given)
    return OperatorSpec(kind, asdict(parsed), tuple(in_shape), arrays)


def build(spec: OperatorSpec) -> Operator:
    """Return the operator that a specification describes, in float32 on the CPU."""
    return family(spec.kind).build(parse_params(spec.kind, spec.params), tuple(spec.in_shape), spec.arrays)
