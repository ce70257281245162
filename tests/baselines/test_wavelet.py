"""Wavelet shrinkage: orthogonality, closed form, optimality, sizes."""

import pytest
import pywt
import torch
from baseline_problems import Dense, blocks, denoising, normal, solve
from torch import Tensor

from recon.baselines.wavelet import Transform, Wavelet
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian, per_item_norm
from recon.operators.base import LinearOperator
from recon.operators.mri import CartesianMRI

NOTHING = torch.zeros(1, 1, 1, 1)


def objective(problem: Problem, x: Tensor, weight: float) -> float:
    """The objective of an image whose sides need no extension."""
    assert isinstance(problem.operator, LinearOperator)
    misfit = per_item_norm(problem.operator.forward(x) - problem.y) ** 2 / 2
    return float((misfit + weight * Transform.for_shape("db4", 4, tuple(x.shape)).penalty(x)).sum())


@pytest.mark.parametrize("shape", [(2, 1, 64, 48), (1, 2, 37, 50), (1, 1, 16, 17, 40), (1, 1, 4, 32, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_the_transform_is_orthogonal(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    transform = Transform.for_shape("db4", 3, shape)
    x = normal(*shape, dtype=dtype)
    u = transform.extend(x)
    torch.testing.assert_close(transform.shrink(u, NOTHING), u, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(transform.crop(u), x)
    # without details, what is left is an orthogonal projection: coarse, and perpendicular to what went
    smooth = transform.shrink(u, NOTHING + 1e6)
    gone = u - smooth
    assert abs(torch.vdot(smooth.flatten(), gone.flatten())) < 1e-4 * u.norm() ** 2
    assert smooth.norm() ** 2 + gone.norm() ** 2 == pytest.approx(float(u.norm() ** 2), rel=1e-5)


def test_extension_is_the_adjoint_of_cropping() -> None:
    transform = Transform.for_shape("db4", 2, (1, 1, 58, 45))
    x = normal(1, 1, 58, 45)
    u = normal(*transform.extend(x).shape, seed=1)
    assert u.shape == (1, 1, 60, 48)
    assert float((transform.extend(x) * u).sum()) == pytest.approx(float((x * transform.crop(u)).sum()), rel=1e-5)


def test_haar_by_hand() -> None:
    # a pair (a, b) has the detail (a - b)/sqrt 2, which a threshold t shortens by t
    y = torch.zeros(1, 1, 2, 2)
    y[..., 1] = 1.0  # rows equal; each row (0, 1): the one detail is (0 - 1 + 0 - 1)/2 = -1
    found = solve(Wavelet(weight=0.4, wavelet="haar", levels=1), denoising(y)).samples
    torch.testing.assert_close(found, torch.tensor([[[[0.2, 0.8], [0.2, 0.8]]]]), rtol=0, atol=1e-5)


def test_denoising_is_one_shrinkage() -> None:
    y, weight = blocks(48, 32)[1], 0.15
    smooth, *details = pywt.wavedec2(y[0, 0].numpy(), "db4", "periodization", 2)
    shrunk = [tuple(pywt.threshold(c, weight, "soft") for c in level) for level in details]
    expected = torch.from_numpy(pywt.waverec2([smooth, *shrunk], "db4", "periodization"))[None, None]
    found = solve(Wavelet(weight, levels=2), denoising(y)).samples
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def mri_problem(complex_image: bool) -> Problem:
    mask = torch.zeros(32, 32)
    mask[:, ::3] = 1
    mask[:, 13:19] = 1
    operator = CartesianMRI(mask, complex_image=complex_image)
    noise = 0.02 * normal(1, 1, 32, 32, seed=1, dtype=torch.complex64) * mask
    return Problem(operator, operator.forward(blocks(32, 32)[0].to(operator.in_dtype)) + noise, Gaussian(0.02))


@pytest.mark.parametrize("complex_image", [False, True])
@pytest.mark.parametrize("weight", [0.01, 0.1])
def test_the_default_iterations_are_converged(complex_image: bool, weight: float) -> None:
    problem = mri_problem(complex_image)
    found, longer = (
        objective(problem, solve(Wavelet(weight, iterations=n), problem).samples, weight) for n in (150, 1000)
    )
    assert longer <= found * (1 + 1e-5)
    assert found <= longer * (1 + 1e-2)


def test_the_minimum_is_stationary() -> None:
    problem, weight = mri_problem(False), 0.05
    x = solve(Wavelet(weight, iterations=1000), problem).samples
    at_minimum = objective(problem, x, weight)
    for seed in range(5):
        assert objective(problem, x + 0.01 * normal(*x.shape, seed=seed), weight) > at_minimum


@pytest.mark.parametrize("scale", [1e-3, 200.0])
def test_units_of_the_operator_do_not_matter(scale: float) -> None:
    y = blocks()[1]
    operator = Dense((1, 24, 20), scale * torch.eye(480))
    found = solve(Wavelet(), Problem(operator, scale * y.flatten(1), Gaussian(0.1 * scale))).samples
    torch.testing.assert_close(found, solve(Wavelet(), denoising(y)).samples, rtol=0, atol=2e-2)


def test_default_weight_removes_noise() -> None:
    x, y = blocks(64, 56)
    assert (solve(Wavelet(), denoising(y)).samples - x).square().mean() < 0.5 * (y - x).square().mean()


def test_items_of_a_batch_do_not_mix() -> None:
    one, two = blocks(seed=1)[1], 3 * blocks(seed=2)[1]
    both = solve(Wavelet(), denoising(torch.cat([one, two])), batch=2).samples
    torch.testing.assert_close(both[[1]], solve(Wavelet(), denoising(two)).samples, rtol=1e-4, atol=1e-4)


def test_sizes_that_do_not_divide_keep_their_shape() -> None:
    y = blocks(37, 29)[1]
    assert solve(Wavelet(iterations=10), denoising(y), batch=2).samples.shape == (2, 1, 37, 29)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match=r"no orthogonal wavelet .bior2\.2."):
        Wavelet(wavelet="bior2.2")
    with pytest.raises(ConfigError, match="levels must be above 0"):
        Wavelet(levels=0)
    with pytest.raises(ConfigError, match="too short for 'db4'"):
        solve(Wavelet(), denoising(torch.ones(1, 1, 8, 8)))
