"""Finite differences: values, boundary, adjoint, norm."""

import pytest
import torch
from baseline_problems import normal

from recon.baselines.differences import gradient, gradient_adjoint, lengths, norm_bound, total_variation


def test_values_and_boundary() -> None:
    d = gradient(torch.tensor([[[[1.0, 3.0], [6.0, 10.0]]]]))
    assert d[0, 0, 0].tolist() == [[5.0, 7.0], [0.0, 0.0]]
    assert d[1, 0, 0].tolist() == [[2.0, 0.0], [4.0, 0.0]]


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 2, 4, 3, 6), (2, 1, 1, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_adjoint(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, q = normal(*shape, dtype=dtype), normal(len(shape) - 2, *shape, seed=1, dtype=dtype)
    left, right = torch.vdot(q.flatten(), gradient(x).flatten()), torch.vdot(gradient_adjoint(q).flatten(), x.flatten())
    assert abs(left - right) <= 1e-12 * abs(left)


@pytest.mark.parametrize("shape", [(1, 1, 40, 40), (1, 1, 12, 12, 12)])
def test_norm_bound_is_tight(shape: tuple[int, ...]) -> None:
    x = normal(*shape, dtype=torch.float64)
    for _ in range(300):
        x = gradient_adjoint(gradient(x))
        norm = x.norm()
        x = x / norm
    assert 0.97 * norm_bound(x) < float(norm) <= norm_bound(x)


def test_total_variation_of_a_rectangle() -> None:
    x = torch.zeros(2, 1, 12, 12)
    x[0, :, 3:7, 2:9] = 2.0
    # sides 4 and 7: perimeter 22; the far corner pixel has both differences: sqrt 2 instead of 2 edges
    assert total_variation(x).tolist() == pytest.approx([2 * (22 - 2 + 2**0.5), 0.0])


def test_lengths_of_complex_vectors() -> None:
    q = torch.tensor([3 + 4j, 0j]).reshape(2, 1, 1, 1, 1)
    assert lengths(q).item() == 5.0
