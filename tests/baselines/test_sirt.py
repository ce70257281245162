"""SIRT against its iteration on a matrix, its fixed point, and what it cannot take."""

import numpy as np
import pytest
import torch
from baseline_problems import Dense, Squared, normal, solve

from recon.baselines.sirt import SIRT
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian
from recon.operators.mri import CartesianMRI
from recon.operators.registry import build, draw


def positive(rows, columns, seed=0):
    return normal(rows, columns, seed=seed, dtype=torch.float64).abs()


def test_two_steps_by_hand() -> None:
    matrix, y = positive(6, 4), normal(1, 6, seed=1, dtype=torch.float64)
    weights = torch.diag(1 / matrix.sum(0)) @ matrix.T @ torch.diag(1 / matrix.sum(1))
    x = torch.zeros(4, dtype=torch.float64)
    for _ in range(2):
        x = x + 1.3 * weights @ (y[0] - matrix @ x)
    found = solve(SIRT(iterations=2, relaxation=1.3), Problem(Dense((1, 2, 2), matrix), y, Gaussian(0.1)))
    torch.testing.assert_close(found.samples.flatten(), x)


def test_it_arrives_at_the_weighted_least_squares_solution() -> None:
    matrix, y = positive(7, 3), normal(1, 7, seed=1, dtype=torch.float64)
    root = (1 / matrix.sum(1)).sqrt()
    expected = torch.linalg.lstsq(root[:, None] * matrix, root * y[0]).solution
    found = solve(SIRT(iterations=3000), Problem(Dense((1, 1, 3), matrix), y, Gaussian(0.1)))
    torch.testing.assert_close(found.samples.flatten(), expected, rtol=1e-6, atol=1e-6)


def test_rays_that_meet_nothing_are_left_out() -> None:
    matrix = positive(5, 4)
    matrix[2], matrix[:, 1] = 0, 0
    found = solve(SIRT(iterations=5), Problem(Dense((1, 2, 2), matrix), positive(1, 5, seed=2), Gaussian(0.1)))
    assert bool(torch.isfinite(found.samples).all()) and float(found.samples.flatten()[1]) == 0


def test_tomography_approaches_the_image_and_stays_positive() -> None:
    operator = build(draw("ct", {"angles": 20}, (1, 24, 24), 0))
    image = torch.zeros(1, 1, 24, 24)
    image[..., 8:15, 6:17] = 1.0
    problem = Problem(operator, operator.forward(image), Gaussian(0.01))
    errors = [
        float((solve(SIRT(iterations=n, positive=True), problem).samples - image).square().mean()) for n in (2, 20, 100)
    ]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.01
    assert float(solve(SIRT(iterations=20, positive=True), problem).samples.min()) >= 0
    assert float(solve(SIRT(iterations=20), problem).samples.min()) < 0


def test_a_start_is_used() -> None:
    operator = build(draw("ct", {"angles": 9}, (1, 8, 8), 0))
    image = normal(1, 1, 8, 8)
    problem = Problem(operator, operator.forward(image), Gaussian(0.01))
    torch.testing.assert_close(solve(SIRT(iterations=3), problem, x_init=image).samples, image, atol=1e-4, rtol=0)


def test_operators_with_negative_or_complex_entries_are_refused() -> None:
    for operator in (Dense((1, 1, 3), -torch.eye(3)), CartesianMRI(torch.ones(4, 4)), Squared((1, 2, 2))):
        y = torch.zeros(1, *operator.out_shape, dtype=operator.out_dtype)
        with pytest.raises(ConfigError, match="sirt"):
            solve(SIRT(iterations=1), Problem(operator, y, Gaussian(0.1)))


@pytest.mark.parametrize(
    "settings", [{"iterations": 0}, {"relaxation": 0.0}, {"relaxation": 2.0}, {"relaxation": np.inf}]
)
def test_bad_settings_are_refused(settings) -> None:
    with pytest.raises(ConfigError):
        SIRT(**settings)
