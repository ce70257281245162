"""Square roots by Lanczos against eigendecompositions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.solvers.lanczos import square_root_times


def _generator(seed):
    return torch.Generator().manual_seed(seed)


def _positive(batch, size, dtype, seed=0, rank=None):
    root = torch.randn(batch, size, rank or size, generator=_generator(seed), dtype=dtype)
    return root @ root.mH / size


def _root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()[:, None]) @ vectors.mH


def _map(matrix):
    return lambda v: (matrix @ v.flatten(1)[..., None])[..., 0].reshape(v.shape)


@given(st.integers(1, 3), st.integers(1, 9), st.booleans(), st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_full_space_gives_the_root(batch, size, is_complex, seed):
    dtype = torch.complex128 if is_complex else torch.float64
    matrix = _positive(batch, size, dtype, seed)
    v = torch.randn(batch, size, generator=_generator(seed + 1), dtype=dtype)
    found = square_root_times(_map(matrix), v, 2 * size + 2)
    assert torch.allclose(found, _map(_root(matrix))(v), rtol=1e-7, atol=1e-7 * float(v.abs().max()))


def test_rank_deficient_matrix_and_more_steps_than_eigenvalues():
    matrix = _positive(2, 12, torch.float64, rank=3)
    v = torch.randn(2, 12, generator=_generator(1), dtype=torch.float64)
    for steps in (4, 12, 20):
        assert torch.allclose(square_root_times(_map(matrix), v, steps), _map(_root(matrix))(v), atol=1e-6)


def test_more_steps_come_closer_and_one_is_a_multiple():
    matrix = _positive(1, 60, torch.float64)
    v = torch.randn(1, 60, generator=_generator(1), dtype=torch.float64)
    exact = _map(_root(matrix))(v)
    errors = [float((square_root_times(_map(matrix), v, k) - exact).norm() / exact.norm()) for k in (1, 4, 12)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[2] < 0.02
    one = square_root_times(_map(matrix), v, 1)
    assert torch.allclose(one / v, (one / v)[0, 0].expand_as(v))


def test_multiple_of_the_identity_takes_one_step_and_a_zero_vector_stays_zero():
    v = torch.randn(3, 2, 4, 4, generator=_generator(0))
    v[1] = 0
    found = square_root_times(lambda u: 9 * u, v, 5)
    assert found.shape == v.shape and torch.allclose(found, 3 * v, atol=1e-5)


def test_negative_eigenvalues_count_as_zero():
    diagonal = torch.tensor([[4.0, -1.0, 9.0]], dtype=torch.float64)
    v = torch.ones(1, 3, dtype=torch.float64)
    expected = torch.tensor([[2.0, 0.0, 3.0]], dtype=torch.float64)
    assert torch.allclose(square_root_times(lambda u: diagonal * u, v, 3), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_draws_have_the_covariance(dtype):
    matrix = _positive(1, 4, dtype, seed=3)[0]
    z = torch.randn(40000, 4, generator=_generator(5), dtype=dtype)
    drawn = square_root_times(lambda v: (matrix @ v[..., None])[..., 0], z, 8)
    found = torch.einsum("bi,bj->ij", drawn, drawn.conj()) / len(z)
    assert float((found - matrix).abs().max()) < 0.03 * float(matrix.abs().max())


def test_an_item_that_is_not_finite_leaves_the_others_alone():
    matrix = _positive(2, 6, torch.float64)
    v = torch.randn(2, 6, generator=_generator(1), dtype=torch.float64)
    alone = square_root_times(_map(matrix[1:]), v[1:], 6)
    v[0, 0] = float("nan")
    together = square_root_times(_map(matrix), v, 6)
    assert torch.allclose(together[1:], alone) and not bool(together[0].isfinite().any())
