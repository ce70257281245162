"""Conjugate gradients and Tikhonov against dense algebra."""

import numpy as np
import pytest
import torch
from baseline_problems import Dense, blocks, denoising, normal, solve
from torch import Tensor

from recon.baselines.common import backprojected_gain
from recon.baselines.differences import gradient
from recon.baselines.least_squares import ConjugateGradient, Tikhonov
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian

SHAPE = (1, 4, 5)


def dense_problem(rows: int, dtype: torch.dtype = torch.float32, sigma: float = 0.1) -> Problem:
    return Problem(Dense(SHAPE, normal(rows, 20, dtype=dtype)), normal(2, rows, seed=1, dtype=dtype), Gaussian(sigma))


def difference_matrix() -> Tensor:
    """Return D as a dense matrix (40, 20)."""
    return gradient(torch.eye(20).reshape(20, *SHAPE)).permute(1, 0, 2, 3, 4).reshape(20, -1).T.double()


def test_cg_reaches_least_squares() -> None:
    problem = dense_problem(40)
    expected = torch.linalg.lstsq(problem.operator.matrix, problem.y.T).solution.T.reshape(2, *SHAPE)  # type: ignore[attr-defined]
    torch.testing.assert_close(solve(ConjugateGradient(40), problem, batch=2).samples, expected, rtol=1e-4, atol=1e-5)


def test_cg_of_an_underdetermined_problem_has_least_norm() -> None:
    problem = dense_problem(8)
    expected = torch.linalg.pinv(problem.operator.matrix) @ problem.y.T  # type: ignore[attr-defined]
    found = solve(ConjugateGradient(20), problem, batch=2).samples
    torch.testing.assert_close(found, expected.T.reshape(2, *SHAPE), rtol=1e-4, atol=1e-5)


def test_one_cg_step_is_steepest_descent() -> None:
    problem = dense_problem(12)
    a, y = problem.operator.matrix, problem.y  # type: ignore[attr-defined]
    b = y @ a
    step = (b**2).sum(1) / ((b @ a.T) ** 2).sum(1)
    found = solve(ConjugateGradient(1), problem, batch=2).samples
    torch.testing.assert_close(found, (step[:, None] * b).reshape(2, *SHAPE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_tikhonov_solves_its_normal_equations(dtype: torch.dtype) -> None:
    problem, weight = dense_problem(12, dtype), 0.3
    a = problem.operator.matrix.to(torch.complex128)  # type: ignore[attr-defined]
    d = difference_matrix().to(torch.complex128)
    matrix = a.conj().T @ a + weight * d.T @ d
    expected = torch.linalg.solve(matrix, a.conj().T @ problem.y.to(torch.complex128).T).T.reshape(2, *SHAPE)
    found = solve(Tikhonov(weight=weight, tolerance=1e-6), problem, batch=2).samples
    torch.testing.assert_close(found.to(torch.complex128), expected, rtol=1e-4, atol=1e-5)


def test_tikhonov_stops_at_its_tolerance() -> None:
    problem = denoising(blocks()[1])
    loose, tight = (solve(Tikhonov(weight=5.0, tolerance=t), problem).stats.operator_calls for t in (1e-2, 1e-6))
    assert loose < tight < 2 * 500


def test_tikhonov_keeps_constants_and_smooths_noise() -> None:
    torch.testing.assert_close(
        solve(Tikhonov(weight=3.0), denoising(torch.full((1, 1, 9, 8), 0.7))).samples, torch.full((1, 1, 9, 8), 0.7)
    )
    wave = torch.sin(torch.arange(24) / 4)[:, None] * torch.cos(torch.arange(20) / 5)
    x = 0.5 + 0.5 * wave[None, None]
    y = x + 0.1 * normal(*x.shape)
    assert (solve(Tikhonov(), denoising(y)).samples - x).square().mean() < 0.4 * (y - x).square().mean()


@pytest.mark.parametrize("scale", [1e-3, 50.0])
def test_tikhonov_default_does_not_depend_on_units(scale: float) -> None:
    y = blocks()[1]
    expected = solve(Tikhonov(tolerance=1e-6), denoising(y, 0.1)).samples
    scaled = Problem(Dense((1, 24, 20), scale * torch.eye(480)), scale * y.flatten(1), Gaussian(0.1 * scale))
    torch.testing.assert_close(solve(Tikhonov(tolerance=1e-6), scaled).samples, expected, rtol=1e-3, atol=1e-4)


def test_backprojected_gain_of_a_matrix() -> None:
    operator = Dense((1, 10, 10), normal(4000, 100) * 3)
    expected = float((operator.matrix**2).sum() / 100) ** 0.5
    assert backprojected_gain(torch.zeros(1, 4000), operator) == pytest.approx(expected, rel=0.15)
    complex_operator = Dense((1, 10, 10), normal(400, 100, dtype=torch.complex64))
    expected = float((complex_operator.matrix.abs() ** 2).sum() / 100) ** 0.5
    found = backprojected_gain(torch.zeros(1, 400, dtype=torch.complex64), complex_operator)
    assert found == pytest.approx(np.sqrt(2) * expected, rel=0.15)  # unit variance in each of real and imaginary parts


def test_x_init_is_the_first_iterate() -> None:
    problem = denoising(blocks()[1])
    start = solve(Tikhonov(weight=1.0, tolerance=1e-7), problem).samples
    again = solve(Tikhonov(weight=1.0, tolerance=1e-5), problem, x_init=start)
    torch.testing.assert_close(again.samples, start, rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [{"weight": 0.0}, {"weight": -1.0}, {"tolerance": 0.0}, {"max_iterations": 0}])
def test_tikhonov_settings_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be above 0"):
        Tikhonov(**settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be above 0"):
        ConjugateGradient(iterations=0)
