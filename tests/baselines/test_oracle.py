"""The oracle weight: known optima, extension of the grid, and that it is the best of what was tried."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from baseline_problems import blocks, denoising, solve
from torch import Tensor

from recon.baselines.oracle import LABEL, oracle_weight
from recon.baselines.tv import TotalVariation
from recon.data import Problem
from recon.errors import ConfigError
from recon.samplers.base import Method, Result, Stats, Status, ignore_step


@dataclass(frozen=True)
class Detuned(Method):
    """Adds ln(weight/best) to the data: the error is exactly that."""

    weight: float
    best: float = 0.03

    def sample(self, prior, problem: Problem, x_init, noise, shape, on_step=ignore_step) -> Result:  # type: ignore[no-untyped-def]
        offset = math.log(self.weight / self.best) if self.weight < 1e3 else math.nan
        return Result(problem.y + offset, Status.OK, Stats())


TRUTH = torch.zeros(1, 1, 4, 4)


@pytest.mark.parametrize("best", [0.0301, 0.02, 0.077])
def test_the_optimum_inside_the_grid_is_found(best: float) -> None:
    choice = oracle_weight(partial(Detuned, best=best), denoising(TRUTH), TRUTH, np.geomspace(1e-4, 1, 9), 10)
    assert choice.weight == pytest.approx(best, rel=0.03)
    assert choice.mse == pytest.approx(math.log(choice.weight / best) ** 2, rel=1e-4, abs=1e-12)
    assert float(choice.result.samples.square().mean()) == pytest.approx(choice.mse, rel=1e-4, abs=1e-12)
    assert choice.label == LABEL == "oracle"


@pytest.mark.parametrize("grid", [(1e-5, 1e-4, 1e-3), (1.0, 10.0)])
def test_the_grid_is_continued_towards_the_optimum(grid: tuple[float, ...]) -> None:
    choice = oracle_weight(Detuned, denoising(TRUTH), TRUTH, grid, refinements=8)
    assert choice.weight == pytest.approx(0.03, rel=0.1)


def test_extensions_and_refinements_bound_the_work() -> None:
    choice = oracle_weight(Detuned, denoising(TRUTH), TRUTH, (1e-9, 1e-8), refinements=0, extensions=2)
    assert [w for w, _ in choice.tried] == pytest.approx([1e-9, 1e-8, 1e-7, 1e-6])


def test_diverged_reconstructions_are_never_chosen() -> None:
    choice = oracle_weight(Detuned, denoising(TRUTH), TRUTH, (0.1, 1.0, 2e3), refinements=2)
    assert choice.weight < 1 and math.isfinite(choice.mse)
    assert dict(choice.tried)[2e3] == math.inf


def test_complex_images_are_compared_by_magnitude() -> None:
    @dataclass(frozen=True)
    class Rotated(Method):
        weight: float

        def sample(self, prior, problem, x_init, noise, shape, on_step=ignore_step) -> Result:  # type: ignore[no-untyped-def]
            image: Tensor = torch.full(shape, self.weight * 1j)
            return Result(image, Status.OK, Stats())

    truth = torch.full((1, 1, 4, 4), 0.5)
    assert oracle_weight(Rotated, denoising(truth), truth, (0.25, 0.5, 1.0), refinements=0).weight == 0.5


def test_total_variation_beats_its_default() -> None:
    x, y = blocks()
    problem = denoising(y)
    choice = oracle_weight(partial(TotalVariation, iterations=100), problem, x, np.geomspace(1e-3, 1, 5))
    assert 0.02 < choice.weight < 0.5
    by_default = (solve(TotalVariation(iterations=100), problem).samples - x).square().mean()
    assert choice.mse <= float(by_default)
    again = solve(TotalVariation(weight=choice.weight, iterations=100), problem).samples
    torch.testing.assert_close(again, choice.result.samples)


@pytest.mark.parametrize("weights", [(), (0.1,), (0.0, 1.0), (-1.0, 1.0), (1.0, math.inf)])
def test_bad_grids_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="two or more finite weights"):
        oracle_weight(Detuned, denoising(TRUTH), TRUTH, weights)
