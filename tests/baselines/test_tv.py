"""Total variation: closed forms, another implementation, convergence, invariances."""

import numpy as np
import pytest
import torch
from baseline_problems import Dense, Squared, WithoutProx, blocks, denoising, normal, solve
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor

from recon.baselines.common import l1_weight
from recon.baselines.differences import total_variation
from recon.baselines.direct import Adjoint
from recon.baselines.tv import FACTOR, FLOOR, TotalVariation
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian, per_item_norm
from recon.operators.base import LinearOperator
from recon.operators.blur import BlurParams, build, gaussian_kernel
from recon.operators.mri import CartesianMRI
from recon.samplers.base import Status


def objective(problem: Problem, x: Tensor, weight: float) -> float:
    assert isinstance(problem.operator, LinearOperator)
    misfit = per_item_norm(problem.operator.forward(x) - problem.y) ** 2 / 2
    return float((misfit + weight * total_variation(x)).sum())


def mri_problem(complex_image: bool = False, coils: int = 0) -> Problem:
    x, _ = blocks(32, 24)
    mask = torch.zeros(32, 24)
    mask[:, ::3] = 1
    mask[:, 10:14] = 1
    maps = normal(coils, 32, 24, dtype=torch.complex64) if coils else None
    operator = CartesianMRI(mask, maps, complex_image)
    noise = normal(1, max(coils, 1), 32, 24, seed=1, dtype=torch.complex64) * mask * 0.02 * 2**0.5
    return Problem(operator, operator.forward(x.to(operator.in_dtype)) + noise, Gaussian(0.02))


@pytest.mark.parametrize("hide_prox", [False, True])
def test_a_step_loses_height_by_the_closed_form(hide_prox: bool) -> None:
    # two plateaus of 6 and 10 columns: each moves towards the other by weight/columns
    y = torch.zeros(1, 1, 5, 16)
    y[..., 6:] = 1.0
    problem, weight = denoising(y), 0.3
    if hide_prox:
        problem = Problem(WithoutProx(problem.operator), y, problem.likelihood)  # type: ignore[arg-type]
    expected = torch.where(y > 0, 1 - weight / 10, weight / 6)
    found = solve(TotalVariation(weight, iterations=2000), problem).samples
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_a_large_weight_leaves_the_mean() -> None:
    y = blocks()[1]
    found = solve(TotalVariation(100.0, iterations=1500), denoising(y)).samples
    torch.testing.assert_close(found, torch.full_like(y, float(y.mean())), rtol=0, atol=2e-3)


@pytest.mark.parametrize("weight", [0.05, 0.2])
def test_denoising_agrees_with_scikit_image(weight: float) -> None:
    y = blocks(40, 36, noise=0.15)[1]
    theirs = denoise_tv_chambolle(y[0, 0].double().numpy(), weight=weight, eps=0, max_num_iter=6000)
    ours = solve(TotalVariation(weight), denoising(y)).samples
    problem = denoising(y)
    reference = objective(problem, torch.from_numpy(theirs).float()[None, None], weight)
    assert objective(problem, ours, weight) <= reference * (1 + 1e-4)
    np.testing.assert_allclose(ours[0, 0].numpy(), theirs, atol=0.01)


@pytest.mark.parametrize("name", ["denoise", "blur", "mri", "mri-complex", "mri-coils", "dense"])
@pytest.mark.parametrize("factor", [1, 8])
def test_300_iterations_are_converged(name: str, factor: float) -> None:
    if name.startswith("mri"):
        problem = mri_problem(complex_image="complex" in name, coils=4 if "coils" in name else 0)
    elif name == "dense":
        # a matrix of norm far from 1: 300 integrals of 480 pixels
        operator: LinearOperator = Dense((1, 24, 20), 30 * normal(300, 480).abs())
        problem = Problem(operator, operator.forward(blocks()[0]) + normal(1, 300), Gaussian(1.0))
    elif name == "blur":
        operator = build(BlurParams(size=9), (1, 24, 20), {"kernel": gaussian_kernel(9, 1.5)})
        problem = Problem(operator, operator.forward(blocks()[0]) + 0.02 * normal(1, 1, 24, 20), Gaussian(0.02))
    else:
        problem = denoising(blocks()[1])
    assert isinstance(problem.operator, LinearOperator)
    weight = factor * float(l1_weight(None, problem, problem.operator, FACTOR, FLOOR))
    found, longer = (solve(TotalVariation(weight, iterations=n), problem) for n in (300, 2000))
    assert found.status is Status.OK
    best = objective(problem, longer.samples, weight)
    assert best <= objective(problem, found.samples, weight) * (1 + 1e-6)
    assert objective(problem, found.samples, weight) <= best * (1 + 2e-3)


@pytest.mark.parametrize("complex_image", [False, True])
def test_with_and_without_prox_agree(complex_image: bool) -> None:
    problem = mri_problem(complex_image)
    assert isinstance(problem.operator, LinearOperator)
    hidden = Problem(WithoutProx(problem.operator), problem.y, problem.likelihood)
    first, second = (solve(TotalVariation(0.02, iterations=1500), p).samples for p in (problem, hidden))
    torch.testing.assert_close(first, second, rtol=0, atol=5e-3)


def test_default_weight_follows_the_noise() -> None:
    y = blocks()[1]
    by_default = solve(TotalVariation(), denoising(y, sigma=0.1)).samples
    by_hand = solve(TotalVariation(weight=0.06), denoising(y, sigma=0.1)).samples
    assert (by_default - by_hand).abs().max() < 0.02  # the gain of the identity, 1, is estimated from 480 draws
    assert (solve(TotalVariation(), denoising(y, sigma=0.01)).samples - y).abs().max() < 0.1


def test_default_weight_removes_noise_and_artefacts() -> None:
    x, y = blocks()
    assert (solve(TotalVariation(), denoising(y)).samples - x).square().mean() < 0.25 * (y - x).square().mean()
    problem, truth = mri_problem(), blocks(32, 24)[0]
    assert isinstance(problem.operator, LinearOperator)
    zero_filled = (problem.operator.adjoint(problem.y) - truth).square().mean()
    assert (solve(TotalVariation(), problem).samples - truth).square().mean() < 0.5 * zero_filled


@pytest.mark.parametrize("scale", [1e-3, 200.0])
def test_units_of_image_and_operator_do_not_matter(scale: float) -> None:
    y = blocks()[1]
    expected = solve(TotalVariation(), denoising(y, 0.1)).samples
    brighter = solve(TotalVariation(), denoising(scale * y, 0.1 * scale)).samples
    torch.testing.assert_close(brighter / scale, expected, rtol=0, atol=1e-4)
    operator = Dense((1, 24, 20), scale * torch.eye(480))
    found = solve(TotalVariation(), Problem(operator, scale * y.flatten(1), Gaussian(0.1 * scale))).samples
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)


def test_exact_data_have_a_default_weight() -> None:
    problem = mri_problem()
    exact = Problem(problem.operator, problem.operator.forward(blocks(32, 24)[0]), Gaussian(0.0))
    found = solve(TotalVariation(), exact)
    assert float(found.stats.residuals[-1]) < 1e-3
    zero_filled = solve(Adjoint(), exact).samples
    truth = blocks(32, 24)[0]
    assert (found.samples - truth).square().mean() < 0.3 * (zero_filled - truth).square().mean()


def test_items_of_a_batch_do_not_mix() -> None:
    one, two = blocks(seed=1)[1], 3 * blocks(seed=2)[1]
    both = solve(TotalVariation(0.1), denoising(torch.cat([one, two])), batch=2).samples
    for index, y in enumerate((one, two)):
        alone = solve(TotalVariation(0.1), denoising(y)).samples
        torch.testing.assert_close(both[[index]], alone, rtol=1e-5, atol=1e-5)


def test_one_measurement_fills_the_batch_with_one_answer() -> None:
    found = solve(TotalVariation(0.1, iterations=20), denoising(blocks()[1]), batch=3).samples
    assert found.shape == (3, 1, 24, 20)
    assert torch.equal(found[0], found[2])


def test_volumes_are_smoothed_along_depth() -> None:
    y = torch.zeros(1, 1, 8, 5, 4)
    y[:, :, 4:] = 1.0
    found = solve(TotalVariation(0.4, iterations=1500), denoising(y)).samples
    torch.testing.assert_close(found, torch.where(y > 0, 0.9, 0.1), rtol=0, atol=5e-4)


def test_offset_is_kept() -> None:
    y = blocks()[1]
    low, high = (solve(TotalVariation(0.1, iterations=3000), denoising(y + offset)).samples for offset in (0.0, 5.0))
    torch.testing.assert_close(high - 5, low, rtol=0, atol=5e-3)


def test_steps_are_reported_and_the_answer_is_the_last() -> None:
    seen = []
    problem = denoising(blocks()[1])
    result = TotalVariation(0.1, iterations=7).sample(None, problem, None, None, (1, 1, 24, 20), seen.append)  # type: ignore[arg-type]
    assert [s.index for s in seen] == list(range(7))
    torch.testing.assert_close(seen[-1].x0, result.samples)


def test_no_noise_source_and_no_global_randomness() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = (solve(TotalVariation(), mri_problem(coils=2)).samples for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="weight must be above 0"):
        TotalVariation(weight=0.0)
    with pytest.raises(ConfigError, match="iterations must be above 0"):
        TotalVariation(iterations=0)
    with pytest.raises(ConfigError, match="needs a linear operator"):
        solve(TotalVariation(), Problem(Squared((1, 4, 4)), torch.ones(1, 1, 4, 4), Gaussian(0.1)))
