"""The proximal map of the data term for any linear operator: the closed form, or conjugate gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recon.operators.base import LinearOperator
from recon.operators.inpaint import Inpaint
from recon.operators.matrix import DenseMatrix
from recon.operators.registry import build, draw
from recon.operators.slices import Slicewise
from recon.operators.spectral import Spectrum
from recon.solvers.dense import dense_matrix, real_rows
from recon.solvers.prox import closed_prox, data_prox, prox_by_cg, proximal_map


def make(kind: str, params: dict, shape: tuple[int, ...]) -> LinearOperator:
    op = build(draw(kind, params, shape, 0)).to(dtype=torch.float64)
    assert isinstance(op, LinearOperator)
    return op


CASES = {
    "closed form": lambda: make("blur", {"size": 3, "boundary": "circular"}, (1, 6, 8)),
    "tomography": lambda: make("ct", {"angles": 6}, (1, 7, 8)),
    "reflected motion": lambda: make("blur", {"size": 3, "kernel": "motion"}, (2, 6, 7)),
    "coils": lambda: make("mri", {"coils": 3, "acs": 2}, (1, 8, 6)),
    "coils, complex": lambda: make("mri", {"coils": 3, "acs": 2, "complex_image": True}, (1, 8, 6)),
}


def vectors(op: LinearOperator) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2, *op.in_shape, dtype=op.in_dtype, generator=g)
    return z, torch.randn(1, *op.out_shape, dtype=op.out_dtype, generator=g)


def dense_prox(op: LinearOperator, z: Tensor, rho: float, y: Tensor) -> Tensor:
    matrix = dense_matrix(op)
    left = matrix.T @ matrix + rho * torch.eye(matrix.shape[1], dtype=torch.float64)
    return torch.linalg.solve(left, (matrix.T @ real_rows(y)[0] + rho * real_rows(z)).T).T


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rho", [0.1, 3.0])
def test_every_linear_operator_has_one(name, rho):
    op = CASES[name]()
    z, y = vectors(op)
    expected = dense_prox(op, z, rho, y)
    for found in (
        data_prox(op, z, rho, y, iterations=120, tolerance=1e-12),
        proximal_map(op, iterations=120, tolerance=1e-12)(z, rho, y),
        prox_by_cg(op, z, rho, y, iterations=120, tolerance=1e-12),
    ):
        assert found.dtype == z.dtype and found.shape == z.shape
        assert float((real_rows(found) - expected).norm() / expected.norm()) < 1e-9


@pytest.mark.parametrize("name", CASES)
def test_each_item_may_have_its_own_rho(name):
    op = CASES[name]()
    z, y = vectors(op)
    rho = torch.tensor([0.3, 20.0], dtype=torch.float64)
    for solve in (proximal_map(op, 120, 1e-12), lambda z, rho, y: data_prox(op, z, rho, y, 120, 1e-12)):
        both = real_rows(solve(z, rho, y))
        for i, value in enumerate((0.3, 20.0)):
            expected = dense_prox(op, z[i : i + 1], value, y)[0]
            assert float((both[i] - expected).norm() / expected.norm()) < 1e-9


def test_the_decomposition_is_asked_for_once():
    class Counted(LinearOperator):
        in_shape = out_shape = (3,)
        asked = 0

        def _forward(self, x):
            return 2 * x

        def _adjoint(self, y):
            return 2 * y

        def svd(self):
            Counted.asked += 1
            return Spectrum(torch.full((3,), 2.0), *[lambda v: v] * 4)

    op, z = Counted(), torch.ones(2, 3)
    solve = proximal_map(op)
    for _ in range(5):
        assert torch.allclose(solve(z, 1.0, z), torch.full((2, 3), 0.6))
    assert Counted.asked == 1
    data_prox(op, z, 1.0, z)
    assert Counted.asked == 2


def test_few_iterations_are_an_early_stop_from_z():
    op = CASES["tomography"]()
    z, y = vectors(op)
    assert torch.equal(data_prox(op, z, 1.0, y, iterations=0), z)
    exact = dense_prox(op, z, 1.0, y)
    errors = [float((real_rows(data_prox(op, z, 1.0, y, n)) - exact).norm()) for n in (0, 2, 5, 20)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-2 * errors[0]


def test_a_matrix_is_factorised_once_for_a_loop(monkeypatch):
    matrix = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    op = 2.0 * DenseMatrix((1, 2, 3), (5,), matrix.float(), False).to(dtype=torch.float64)
    calls = []
    factorise = torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *a, **k: calls.append(1) or factorise(*a, **k))
    z, y = vectors(op)
    for solve in (op.prox, proximal_map(op), closed_prox(op)):
        for _ in range(3):
            assert float((real_rows(solve(z, 0.7, y)) - dense_prox(op, z, 0.7, y)).norm()) < 1e-10
        assert len(calls) == 1
    single = op.to(dtype=torch.float32)
    assert single.prox(z.float(), 0.7, y.float()).dtype == torch.float32
    assert len(calls) == 2


def test_only_some_operators_have_a_closed_form():
    for name in CASES:
        op = CASES[name]()
        assert (closed_prox(op)(*vectors(op)[:1], 1.0, vectors(op)[1]) is not None) == (name == "closed form")


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_slices_of_a_volume_have_the_closed_form_of_each(alike, scale):
    rng = torch.Generator().manual_seed(1)
    masks = [(torch.rand(6, 6, generator=rng) < 0.5).double() for _ in range(1 if alike else 4)]
    operator = Slicewise([Inpaint((1, 6, 6), mask).to(dtype=torch.float64) for mask in masks], 4)
    operator = operator if scale is None else operator * scale
    z = torch.randn(2, 1, 4, 6, 6, dtype=torch.float64, generator=rng)
    y = operator.forward(torch.randn(1, 1, 4, 6, 6, dtype=torch.float64, generator=rng))
    closed = closed_prox(operator)
    for rho in (0.3, torch.tensor([0.3, 2.0], dtype=torch.float64).reshape(2, 1, 1, 1, 1)):
        found = closed(z, rho, y)
        assert found is not None
        assert torch.allclose(found, prox_by_cg(operator, z, rho, y, 50, 1e-14), rtol=1e-9, atol=1e-10)


def test_slices_without_a_closed_form_have_none():
    matrix = torch.eye(36, dtype=torch.float64)

    class Matrix(LinearOperator):
        in_shape, out_shape = (1, 6, 6), (36,)
        in_dtype = out_dtype = torch.float64

        def _forward(self, x):
            return x.flatten(1) @ matrix

        def _adjoint(self, y):
            return (y @ matrix.T).reshape(-1, 1, 6, 6)

    volume = Slicewise([Matrix()], 3)
    assert closed_prox(volume)(torch.zeros(1, 1, 3, 6, 6).double(), 1.0, torch.zeros(1, 3, 36).double()) is None
