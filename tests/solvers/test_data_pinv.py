"""The pseudo-inverse of every linear operator: its own, else the least-norm least-squares solution."""

import numpy as np
import torch
from battery import random_output
from image_cases import make

from recon.operators.base import stack
from recon.solvers.pinv import data_pinv


def test_conjugate_gradients_find_the_moore_penrose_inverse():
    parts = [make("inpaint", {"mask": "random", "missing": 0.5}, (1, 6, 5), seed=s) for s in (0, 1)]
    op = stack(*(2.0 * p for p in parts)).to(dtype=torch.float64)
    y = random_output(op, 2, "cpu", torch.Generator().manual_seed(0))
    assert op.pinv(y) is None
    matrix = op.forward(torch.eye(30, dtype=torch.float64).reshape(30, 1, 6, 5)).T.numpy()
    assert np.linalg.matrix_rank(matrix) < 30
    found = data_pinv(op, y, tolerance=1e-12).flatten(1).numpy()
    np.testing.assert_allclose(found, y.numpy() @ np.linalg.pinv(matrix).T, atol=1e-9)


def test_a_closed_form_is_taken_where_there_is_one():
    op = make("denoise", {}, (1, 4, 4))
    y = torch.ones(1, 1, 4, 4)
    assert torch.equal(data_pinv(op, y, iterations=0), op.pinv(y))
