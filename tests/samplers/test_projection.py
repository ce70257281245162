"""Fits of the data and gains of an isotropic covariance against dense algebra."""

import pytest
import torch
from sampler_doubles import Dense, MaskedFourier, MultiCoil, dense_problem, generator, relative

from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian, Poisson
from recon.operators.inpaint import Inpaint
from recon.samplers.projection import isotropic_gain, measured_subspace

SHAPE = (1, 4, 4)


def operators():
    mask = (torch.rand(4, 4, generator=generator(0)) < 0.5).double()
    coils = torch.randn(3, 4, 4, generator=generator(1), dtype=torch.complex128)
    return {
        "dense": dense_problem(7, SHAPE, torch.float64).operator,
        "inpaint": Inpaint(SHAPE, mask),
        "fourier": MaskedFourier(mask, torch.complex128),
        "coils": MultiCoil(mask * (torch.rand(4, 4, generator=generator(2)) < 0.4), coils),
    }


def matrix_of(operator):
    units = torch.eye(16, dtype=operator.in_dtype if operator.in_dtype.is_complex else torch.float64)
    return operator.forward(units.reshape(16, *SHAPE)).flatten(1).T


@pytest.mark.parametrize("name", ["dense", "inpaint", "fourier", "coils"])
@pytest.mark.parametrize("inverse", ["auto", "cg"])
def test_fit_and_unmeasured_part_are_orthogonal_projections(name, inverse):
    operator = operators()[name]
    matrix = matrix_of(operator)
    x, truth = (torch.randn(2, *SHAPE, generator=generator(k), dtype=matrix.dtype) for k in (3, 4))
    found = measured_subspace(operator, inverse, 60, x)
    pinv = torch.linalg.pinv(matrix)
    y = operator.forward(truth)[:1]
    fitted, left = found.fit(x, y), found.unmeasured(x)
    expected = x.flatten(1) + (y.flatten(1) - x.flatten(1) @ matrix.T) @ pinv.T
    assert relative(fitted.flatten(1), expected) < 1e-6
    assert relative(operator.forward(fitted), y.expand(2, *y.shape[1:])) < 1e-6
    assert relative(left.flatten(1), x.flatten(1) - x.flatten(1) @ (pinv @ matrix).T) < 1e-6
    assert relative(found.unmeasured(x, 0.25), 0.75 * x + 0.25 * left) < 1e-6
    assert found.unmeasured(x, 0.0) is x
    dirt = torch.randn(2, *SHAPE, generator=generator(5), dtype=matrix.dtype)
    noisy = found.fit(x, y, 0.5, dirt)
    assert relative(noisy, x + 0.5 * (found.fit(x, y + operator.forward(dirt)) - x)) < 1e-6


def test_kaczmarz_is_the_normalised_backprojection():
    matrix = torch.rand(6, 16, generator=generator(0), dtype=torch.float64)
    matrix[:, 3] = 0
    operator = Dense(matrix, SHAPE)
    x, y = torch.randn(1, *SHAPE, generator=generator(1), dtype=torch.float64), torch.ones(1, 6, dtype=torch.float64)
    found = measured_subspace(operator, "kaczmarz", 1, x).fit(x, y, 0.7)
    total = operator.adjoint(operator.forward(torch.ones_like(x)))
    step = operator.adjoint(y - operator.forward(x)) / total
    step[0, 0, 0, 3] = 0
    assert relative(found, x + 0.7 * step) < 1e-12


def test_what_an_operator_cannot_do_is_refused():
    coils = operators()["coils"]
    images = torch.zeros(1, *SHAPE, dtype=torch.complex128)
    with pytest.raises(ConfigError, match="pseudo-inverse"):
        measured_subspace(coils, "pinv", 5, images)
    with pytest.raises(ConfigError, match="real"):
        measured_subspace(coils, "kaczmarz", 5, images)


@pytest.mark.parametrize("name", ["dense", "inpaint", "fourier", "coils"])
@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_isotropic_gain_is_the_closed_form(name, sigma):
    operator = operators()[name]
    matrix = matrix_of(operator)
    misfit = operator.forward(torch.randn(2, *SHAPE, generator=generator(4), dtype=matrix.dtype))
    problem = Problem(operator, misfit[:1], Gaussian(sigma))
    change, calls = isotropic_gain(problem, operator, sigma == 0, 60, torch.zeros(2, *SHAPE, dtype=matrix.dtype))
    square = 0.3
    if sigma == 0:
        gain = torch.linalg.pinv(matrix)
    else:
        total = square * matrix @ matrix.mH + sigma**2 * torch.eye(len(matrix))
        gain = square * matrix.mH @ torch.linalg.inv(total)
    assert relative(change(misfit, misfit, square).flatten(1), misfit.flatten(1) @ gain.T) < 1e-6
    assert calls >= 1


def test_isotropic_gain_weighs_counts_by_their_variance():
    operator = dense_problem(7, SHAPE, torch.float64).operator
    matrix, z = operator.matrix, torch.rand(1, 7, generator=generator(1), dtype=torch.float64) + 1
    counts = Poisson(gain=30.0, scale=2.0, offset=torch.full((1, 7), 3.0, dtype=torch.float64))
    misfit = torch.randn(1, 7, generator=generator(2), dtype=torch.float64)
    problem = Problem(operator, misfit, counts)
    change, _ = isotropic_gain(problem, operator, False, 40, torch.zeros(1, *SHAPE, dtype=torch.float64))
    total = 0.5 * matrix @ matrix.T + torch.diag((2 * z[0] + 3) / 30 / 4)
    expected = 0.5 * matrix.T @ torch.linalg.solve(total, misfit[0])
    assert relative(change(misfit, z, 0.5).flatten(), expected) < 1e-6


def test_exact_data_taken_as_noisy_get_a_small_noise():
    operator = operators()["inpaint"]
    misfit = operator.forward(torch.ones(1, *SHAPE, dtype=torch.float64))
    problem = Problem(operator, misfit, Gaussian(0.0))
    change, _ = isotropic_gain(problem, operator, False, 5, torch.zeros(1, *SHAPE, dtype=torch.float64))
    assert relative(change(misfit, misfit, 1.0), misfit) < 1e-7
