"""Operator norms against singular value decompositions and closed forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.operators.base import LinearOperator
from recon.solvers.power import operator_norm


class Matrix(LinearOperator):
    def __init__(self, matrix):
        self.matrix, self.in_shape, self.out_shape = matrix, (matrix.shape[1],), (matrix.shape[0],)
        self.in_dtype = self.out_dtype = matrix.dtype

    def _forward(self, x):
        return x @ self.matrix.T

    def _adjoint(self, y):
        return y @ self.matrix.conj()


class Blur(LinearOperator):
    """Circular convolution with a given transfer function."""

    def __init__(self, transfer):
        self.transfer, self.in_shape, self.out_shape = transfer, (1, *transfer.shape), (1, *transfer.shape)

    def _forward(self, x):
        return torch.fft.ifft2(self.transfer * torch.fft.fft2(x)).real

    def _adjoint(self, y):
        return torch.fft.ifft2(self.transfer.conj() * torch.fft.fft2(y)).real


@given(st.integers(1, 30), st.integers(1, 30), st.booleans(), st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_matches_the_largest_singular_value(rows, columns, is_complex, seed):
    dtype = torch.complex128 if is_complex else torch.float64
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    exact = float(torch.linalg.svdvals(matrix)[0])
    assert exact * (1 - 1e-3) <= operator_norm(Matrix(matrix)) <= exact * (1 + 1e-9)


def test_crowded_singular_values():
    matrix = torch.randn(300, 200, generator=torch.Generator().manual_seed(3))
    exact = float(torch.linalg.svdvals(matrix)[0])
    assert abs(operator_norm(Matrix(matrix)) / exact - 1) < 1e-3
    f = torch.fft.fftfreq(96)
    transfer = torch.exp(-(f[:, None] ** 2 + f[None] ** 2) * 40) * 2.5
    assert abs(operator_norm(Blur(transfer)) / 2.5 - 1) < 1e-3


def test_identity_zero_and_lone_large_value():
    eye = torch.eye(50)
    assert operator_norm(Matrix(3 * eye)) == pytest.approx(3, rel=1e-6)
    assert operator_norm(Matrix(0 * eye)) == 0.0
    lone = torch.eye(2000)
    lone[0, 0] = 1.3
    assert operator_norm(Matrix(lone)) == pytest.approx(1.3, rel=1e-3)


def test_is_deterministic_and_follows_its_start():
    matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    state = torch.get_rng_state()
    assert operator_norm(Matrix(matrix)) == operator_norm(Matrix(matrix))
    assert torch.equal(state, torch.get_rng_state())
    blind = torch.tensor([[0.0, 1.0, 1.0]])
    assert operator_norm(Matrix(matrix), start=blind) == pytest.approx(2, rel=1e-3)
