"""Parameters, shapes and arrays that the tests of the image operators share."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
import torch

from recon.operators.base import LinearOperator
from recon.operators.registry import build, draw

RNG = np.random.default_rng(7)
KERNEL = RNG.standard_normal((4, 7))
MASK = (RNG.random((15, 13)) < 0.5).astype(np.uint8)
CASES: list[tuple[str, dict[str, Any], dict[str, np.ndarray]]] = [
    ("denoise", {}, {}),
    ("inpaint", {}, {}),
    ("inpaint", {"mask": "random", "missing": [0.2, 0.6]}, {}),
    ("downsample", {"factor": 2}, {}),
    ("downsample", {"factor": 3}, {}),
    ("downsample", {"factor": 4}, {}),
    ("downsample", {"factor": 3, "border": "cut"}, {}),
    ("blur", {"size": 7, "sigma": 1.2, "boundary": "reflect"}, {}),
    ("blur", {"size": 7, "sigma": 1.2, "boundary": "circular"}, {}),
    ("blur", {"size": 7, "sigma": 1.2, "boundary": "valid"}, {}),
    ("blur", {"size": 7, "kernel": "motion", "boundary": "reflect"}, {}),
    ("blur", {"size": 7, "kernel": "motion", "boundary": "valid"}, {}),
    ("blur", {"kernel": "array", "boundary": "reflect"}, {"kernel": KERNEL}),
    ("blur", {"kernel": "array", "boundary": "circular"}, {"kernel": KERNEL}),
    ("blur", {"kernel": "array", "boundary": "valid"}, {"kernel": KERNEL}),
    ("blur", {"size": 7, "sigma": 1.2, "by": "fft"}, {}),
    ("blur", {"kernel": "array", "boundary": "reflect", "by": "direct"}, {"kernel": KERNEL}),
    ("blur", {"kernel": "array", "boundary": "circular", "by": "direct"}, {"kernel": KERNEL}),
    ("blur", {"kernel": "array", "boundary": "valid", "by": "direct", "correlation": True}, {"kernel": KERNEL}),
    ("colour-mix", {"mix": "mean"}, {}),
]
SHAPES = [(1, 15, 13), (3, 15, 13), (1, 16, 8), (3, 7, 16), (2, 3, 9, 11)]


def make(kind: str, params: dict[str, Any], shape: tuple[int, ...], given: Any = None, seed: int = 0) -> LinearOperator:
    op = build(draw(kind, params, shape, seed, given))
    assert isinstance(op, LinearOperator)
    return op


def image(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal((1, *shape)))


def sparse_arrays(rows: int, columns: int, seed: int = 0, dtype: type = np.float64) -> dict[str, np.ndarray]:
    m = scipy.sparse.random(rows, columns, 0.2, format="csr", random_state=seed, dtype=np.float64).astype(dtype)
    if dtype is np.complex128:
        m.data = m.data * np.exp(1j * np.arange(len(m.data)))
    return {"data": m.data, "indices": m.indices, "indptr": m.indptr}
