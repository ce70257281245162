"""The misfit of a volume, a few slices at a time: that of the whole, and the same bits however many go together."""

from __future__ import annotations

import pytest
import torch
from volume_doubles import slice_noise

from recon.data import NoiseSpec, Problem
from recon.likelihoods import Gaussian, Poisson
from recon.operators import slices as slices_module
from recon.operators.registry import build, draw
from recon.operators.slices import Slicewise
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.priors.slices import Slices
from recon.runs import problem as problem_module
from recon.runs.problem import scale_problem
from recon.samplers import misfit as module
from recon.samplers.dds3d import DDS3D
from recon.samplers.misfit import misfit_of

SLICES, SIDE = 7, 12


def volume_operator(coils: int = 8, scale: float | None = None):
    parts = []
    for seed in range(SLICES):
        params = {"acceleration": 2.0, "acs": 0.3, "coils": coils, "complex_image": False}
        parts.append(build(draw("mri", params, (1, SIDE, SIDE), seed)))
    operator = Slicewise(parts[:1], SLICES) if scale is None else Slicewise(parts)
    return operator if scale is None else operator * scale


def problem_of(operator, sigma: float, batch: int = 1) -> tuple[Problem, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    truth = torch.rand(batch, *operator.in_shape, generator=generator)
    y = operator.forward(truth) + 0.1
    return Problem(operator, y, Gaussian(sigma)), torch.rand(2, *operator.in_shape, generator=generator)


@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.parametrize("sigma", [0.05, 0.0])
@pytest.mark.parametrize("batch", [1, 2])
def test_slices_give_what_the_whole_gives(scale, sigma, batch):
    operator = volume_operator(scale=scale)
    problem, x = problem_of(operator, sigma, batch)
    count = operator.measured()
    found = misfit_of(operator, problem, x, count, back=True)
    z = operator.forward(x)
    torch.testing.assert_close(found.residual, problem.likelihood.residual(z, problem.y, count), rtol=1e-5, atol=0)
    assert torch.equal(found.back, operator.adjoint(problem.y - z))
    assert misfit_of(operator, problem, x, count).back is None


@pytest.mark.parametrize("scale", [None, 0.5])
def test_how_many_slices_go_together_changes_no_bit(monkeypatch, scale):
    operator = volume_operator(scale=scale)
    problem, x = problem_of(operator, 0.05)
    whole = misfit_of(operator, problem, x, operator.measured(), back=True)
    for together in (1, 3):
        monkeypatch.setattr(module, "TOGETHER", together * SIDE**2)
        monkeypatch.setattr(slices_module, "TOGETHER", together * SIDE**2)
        found = misfit_of(operator, problem, x, operator.measured(), back=True)
        assert torch.equal(found.residual, whole.residual) and torch.equal(found.back, whole.back)
        assert found.some.shape[1] == together


def test_no_more_than_a_few_slices_of_data_are_made_at_once(monkeypatch):
    operator = volume_operator()
    problem, x = problem_of(operator, 0.05)
    monkeypatch.setattr(module, "TOGETHER", 2 * SIDE**2)
    seen = []
    forward = Slicewise._forward
    monkeypatch.setattr(Slicewise, "_forward", lambda self, x: (seen.append(self.count), forward(self, x))[1])
    misfit_of(operator, problem, x, operator.measured(), back=True)
    assert seen == [2, 2, 2, 1]


def test_images_and_counts_are_seen_as_a_whole():
    operator = volume_operator().parts[0]
    problem, x = problem_of(operator, 0.05)
    found = misfit_of(operator, problem, x, operator.measured(), back=True)
    assert torch.equal(found.residual, problem.likelihood.residual(operator.forward(x), problem.y, operator.measured()))
    counts = Slicewise([build(draw("denoise", {}, (1, SIDE, SIDE), 0))], SLICES)
    y = torch.rand(1, *counts.out_shape)
    poisson = Problem(counts, y, Poisson(50.0, 1.0, torch.zeros_like(y)))
    x = torch.rand(2, *counts.in_shape)
    found = misfit_of(counts, poisson, x, counts.measured())
    assert found.some.shape[1] == SLICES
    assert torch.equal(found.residual, poisson.likelihood.residual(counts.forward(x), y, counts.measured()))


@pytest.mark.parametrize("kind", ["gaussian", "none"])
def test_a_volumes_data_are_scaled_slice_by_slice_as_a_whole(monkeypatch, kind):
    operator = volume_operator()
    y = problem_of(operator, 0.0)[0].y
    noise = NoiseSpec(kind, 0.03 if kind == "gaussian" else 0.0)
    monkeypatch.setattr(problem_module, "TOGETHER", 3 * SIDE**2)
    found = scale_problem(operator, y, noise, 2.0, 0.7).problem
    offset = 0.7 * operator.forward(torch.ones(1, *operator.in_shape))
    assert torch.equal(found.y, (y - offset) / 2.0)
    assert found.likelihood == Gaussian(0.015 if kind == "gaussian" else 0.0)


def test_a_reconstruction_is_the_same_whatever_goes_together(monkeypatch):
    operator = volume_operator()
    problem, _ = problem_of(operator, 0.05)
    prior = GaussianPrior(power_law_spectrum((1, SIDE, SIDE), 2.0, 0.5))
    method = DDS3D(steps=3, grid="edm", weighting="matched", weight=1.0, cg_iterations=2)

    def run() -> torch.Tensor:
        return method.sample(Slices(prior), problem, None, slice_noise(SLICES), (1, *operator.in_shape)).samples

    whole = run()
    monkeypatch.setattr(module, "TOGETHER", 2 * SIDE**2)
    monkeypatch.setattr(slices_module, "TOGETHER", 2 * SIDE**2)
    assert torch.equal(run(), whole)
