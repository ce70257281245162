"""Conjugate gradients against direct solutions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.solvers.cg import conjugate_gradients, differentiable_cg


def _generator(seed):
    return torch.Generator().manual_seed(seed)


def _systems(batch, size, dtype, seed=0):
    """Hermitian positive definite matrices (B, n, n) and right-hand sides (B, n)."""
    g = _generator(seed)
    root = torch.randn(batch, size, size, generator=g, dtype=dtype)
    eye = torch.eye(size, dtype=dtype)
    return root @ root.mH / size + eye, torch.randn(batch, size, generator=g, dtype=dtype)


def _map(matrices):
    return lambda v: (matrices @ v.flatten(1)[..., None])[..., 0].reshape(v.shape)


def _worst(a, b):
    return float(((a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).max())


@given(st.integers(1, 4), st.integers(1, 12), st.booleans(), st.booleans(), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_matches_a_direct_solution(batch, size, is_complex, warm, seed):
    dtype = torch.complex128 if is_complex else torch.float64
    matrices, b = _systems(batch, size, dtype, seed)
    start = torch.randn(b.shape, generator=_generator(seed + 1), dtype=dtype) if warm else None
    found = conjugate_gradients(_map(matrices), b, start, iterations=3 * size, tolerance=1e-12)
    assert _worst(found.x, torch.linalg.solve(matrices, b)) < 1e-9
    assert found.residual.shape == (batch,) and found.residual.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_image_shaped_single_precision(dtype):
    matrices, b = _systems(3, 24, dtype)
    found = conjugate_gradients(_map(matrices), b.reshape(3, 2, 3, 4), iterations=40)
    assert found.x.shape == (3, 2, 3, 4) and found.x.dtype == dtype
    assert _worst(found.x, torch.linalg.solve(matrices, b).reshape(3, 2, 3, 4)) < 1e-5


def test_each_iterate_is_the_best_in_its_krylov_space():
    matrices, b = _systems(2, 8, torch.complex128)
    for k in (1, 2, 4):
        found = conjugate_gradients(_map(matrices), b, iterations=k, tolerance=0).x
        for item in range(2):
            m, rhs = matrices[item], b[item]
            basis = torch.stack([torch.linalg.matrix_power(m, p) @ rhs for p in range(k)], 1)
            best = basis @ torch.linalg.solve(basis.mH @ m @ basis, basis.mH @ rhs)
            assert torch.allclose(found[item], best, rtol=1e-8, atol=1e-8)


def test_residual_is_that_of_the_solution():
    matrices, b = _systems(3, 10, torch.complex128)
    found = conjugate_gradients(_map(matrices), b, iterations=3)
    assert torch.allclose(found.residual, (b - _map(matrices)(found.x)).norm(dim=1), rtol=1e-9)
    assert float(found.residual.min()) > 1e-3


def test_items_do_not_see_their_batch_mates():
    matrices, b = _systems(3, 10, torch.complex128)
    b = b * torch.tensor([1e-6, 1.0, 1e6], dtype=torch.complex128)[:, None]
    together = conjugate_gradients(_map(matrices), b, iterations=4)
    for item in range(3):
        alone = conjugate_gradients(_map(matrices[item : item + 1]), b[item : item + 1], iterations=4)
        assert _worst(together.x[item : item + 1], alone.x) < 1e-12


def test_solved_items_freeze_while_others_go_on():
    size = 12
    matrices, b = _systems(2, size, torch.float64)
    matrices[0] = torch.eye(size)
    found = conjugate_gradients(_map(matrices), b, iterations=200, tolerance=1e-10)
    assert torch.equal(found.x[0], b[0])
    assert _worst(found.x[1:], torch.linalg.solve(matrices, b)[1:]) < 1e-9
    zero = conjugate_gradients(_map(matrices), torch.zeros(2, size, dtype=torch.float64), iterations=5)
    assert torch.equal(zero.x, torch.zeros(2, size, dtype=torch.float64))
    loose = conjugate_gradients(_map(matrices), b, iterations=200, tolerance=0.3)
    assert 1e-3 * float(b[1].norm()) < float(loose.residual[1]) <= 0.3 * float(b[1].norm())


def test_semidefinite_system_is_solved_within_its_range():
    g = _generator(1)
    root = torch.randn(1, 10, 4, generator=g, dtype=torch.complex128)
    matrix = root @ root.mH
    b = _map(matrix)(torch.randn(1, 10, generator=g, dtype=torch.complex128))
    found = conjugate_gradients(_map(matrix), b, iterations=30)
    assert _worst(_map(matrix)(found.x), b) < 1e-5
    assert _worst(found.x, (torch.linalg.pinv(matrix) @ b[..., None])[..., 0]) < 1e-5


def test_start_and_right_hand_side_stay_untouched_and_broadcast():
    matrices, b = _systems(2, 6, torch.complex128)
    shared, start = b[:1].conj(), torch.ones(2, 6, dtype=torch.complex128)
    kept = shared.clone(), start.clone()
    found = conjugate_gradients(_map(matrices), shared, start, iterations=20, tolerance=1e-12)
    assert _worst(found.x, torch.linalg.solve(matrices, shared.expand(2, 6))) < 1e-9
    assert torch.equal(shared, kept[0]) and torch.equal(start, kept[1])
    assert _worst(conjugate_gradients(_map(matrices), b, b.clone(), 0).x, b) == 0


def test_conjugated_right_hand_side_without_a_start():
    matrices, b = _systems(2, 6, torch.complex128)
    found = conjugate_gradients(_map(matrices), b.conj(), iterations=20, tolerance=1e-12)
    assert _worst(found.x, torch.linalg.solve(matrices, b.conj())) < 1e-9


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("kernels", ["reference", ""])
def test_shift_and_weight_are_those_of_the_matrix(monkeypatch, warm, kernels):
    monkeypatch.setenv("RECON_KERNELS", kernels)
    matrices, b = _systems(3, 8, torch.complex128)
    start = torch.ones_like(b) if warm else None
    weight = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)
    whole = 0.7 * torch.eye(8, dtype=torch.float64) + weight[..., None] * matrices
    found = conjugate_gradients(_map(matrices), b, start, 4, shift=0.7, weight=weight)
    plain = conjugate_gradients(_map(whole), b, start, 4)
    assert _worst(found.x, plain.x) < 1e-12 and torch.allclose(found.residual, plain.residual, rtol=1e-9)


def test_nothing_is_read_off_the_device(monkeypatch):
    def forbidden(self, *args, **kwargs):
        raise AssertionError("a value was read off a tensor")

    matrices, b = _systems(2, 6, torch.complex64)
    for name in ("item", "__bool__", "__float__", "__int__", "__index__", "tolist", "numpy", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, forbidden)
    found = conjugate_gradients(_map(matrices), b, iterations=5)
    monkeypatch.undo()
    assert bool(torch.isfinite(found.residual).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_the_differentiable_form_is_the_same_and_has_its_gradient(dtype, iterations):
    matrices, b = _systems(2, 5, dtype)

    def matrix(v):
        return (matrices @ v[..., None])[..., 0]

    found = differentiable_cg(matrix, b, iterations)
    torch.testing.assert_close(found, conjugate_gradients(matrix, b, iterations=iterations).x, rtol=1e-10, atol=1e-12)
    leaf = b.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda right: differentiable_cg(matrix, right, iterations), leaf)
