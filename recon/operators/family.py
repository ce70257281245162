"""What an operator family exports: its parameters, how its random parts are drawn, and how it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recon.operators.base import Operator

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Family:
    """One operator family.

    params: a frozen dataclass of JSON-able scalars, strings and tuples, with defaults, that checks itself in
        `__post_init__` (ConfigError).
    draw: (params, in_shape, rng, given) -> all arrays that the operator needs. Arrays that the user gives (`given`)
        are checked and kept; the rest (masks, maps, kernels, angles) are made from the parameters and `rng`.
    build: (params, in_shape, arrays) -> operator; deterministic.
    arrays: name -> what it is, with its shape.
    reads_shape: (params, arrays, y_shape) -> in_shape, where the measurement's shape determines the image's, for
        measurements that come without in_shape; None where it cannot be known.
    never_invented: params -> names of arrays that belong to a measurement and must come with it (a k-space mask);
        the others may be drawn when reconstructing.
    volume: whether its images are volumes (C, Z, Y, X), whose slices it sees together.
    """

    kind: str
    params: type
    draw: Callable[[Any, tuple[int, ...], np.random.Generator, Arrays], Arrays]
    build: Callable[[Any, tuple[int, ...], Arrays], Operator]
    arrays: dict[str, str] = field(default_factory=dict)
    reads_shape: Callable[[Any, Arrays, tuple[int, ...]], tuple[int, ...] | None] | None = None
    never_invented: Callable[[Any], frozenset[str]] = field(default=lambda params: frozenset())
    volume: bool = False
