"""Adjoint and pseudo-inverse."""

import pytest
import torch
from baseline_problems import Dense, Squared, denoising, normal, solve

from recon.baselines.direct import Adjoint, PseudoInverse
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian, per_item_dot, per_item_norm
from recon.operators.mri import CartesianMRI


def test_adjoint_by_hand() -> None:
    # A = diag(1, 2), y = (1, 1): A^H y = (1, 2), A A^H y = (1, 4), s = 5/17
    problem = Problem(Dense((1, 1, 2), torch.diag(torch.tensor([1.0, 2.0]))), torch.ones(1, 2), Gaussian(0.1))
    assert solve(Adjoint(), problem).samples.flatten().tolist() == pytest.approx([5 / 17, 10 / 17])


@pytest.mark.parametrize("scale", [0.01, 300.0])
def test_adjoint_leaves_a_residual_orthogonal_to_its_data(scale: float) -> None:
    problem = Problem(Dense((1, 4, 5), scale * normal(12, 20)), normal(3, 12, seed=1), Gaussian(0.1))
    seen = problem.operator.forward(solve(Adjoint(), problem, batch=3).samples)
    angle = per_item_dot(seen, problem.y - seen) / (per_item_norm(seen) * per_item_norm(problem.y))
    assert angle.abs().max() < 1e-5


def test_adjoint_of_complex_mri_is_the_zero_filled_image() -> None:
    mask = torch.zeros(8, 10)
    mask[:, ::2] = 1
    operator = CartesianMRI(mask, complex_image=True)
    y = operator.forward(normal(1, 1, 8, 10, dtype=torch.complex64))
    torch.testing.assert_close(solve(Adjoint(), Problem(operator, y, Gaussian(0.1))).samples, operator.adjoint(y))


def test_adjoint_of_nothing_is_black() -> None:
    assert solve(Adjoint(), denoising(torch.zeros(1, 1, 4, 4))).samples.abs().max() == 0


def test_pseudo_inverse_is_the_operators() -> None:
    y = normal(1, 1, 6, 5)
    torch.testing.assert_close(solve(PseudoInverse(), denoising(y)).samples, y)


def test_pseudo_inverse_names_alternatives_where_there_is_none() -> None:
    problem = Problem(Dense((1, 2, 2), torch.eye(4)), torch.ones(1, 4), Gaussian(0.1))
    with pytest.raises(ConfigError, match="pseudo-inverse, and Dense has none") as caught:
        solve(PseudoInverse(), problem)
    assert "--method cg" in str(caught.value.hint)


@pytest.mark.parametrize("method", [Adjoint(), PseudoInverse()])
def test_non_linear_operators_are_refused(method: Adjoint | PseudoInverse) -> None:
    with pytest.raises(ConfigError, match="needs a linear operator, got Squared"):
        solve(method, Problem(Squared((1, 4, 4)), torch.ones(1, 1, 4, 4), Gaussian(0.1)))
