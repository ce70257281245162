"""TPDM against the authors' code step by step, its turns, its gradients, and its resumption."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sampler_doubles import EpsNet, VPDenoiser, generator, relative
from volume_doubles import assert_resumes, fourier_volume, slice_noise, smooth_volume

from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian
from recon.operators.slice_average import SliceAverage
from recon.operators.slices import part_of
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.priors.slices import Slices
from recon.samplers.base import Status
from recon.samplers.slice_gradient import guided
from recon.samplers.tpdm import TPDM

SHAPE = (1, 1, 6, 6, 6)


def authors_form(primary, auxiliary, operator, y, noise, steps, snr, batch, zeta, k, shape):
    """The published loop on [Z, 1, X, Y], with score networks of both planes; yields the x that is carried on."""
    discrete = np.exp(np.linspace(np.log(0.01), np.log(378.0), steps))

    def drawn(permuted):
        z = noise.normal(shape, torch.float64)[0].transpose(0, 1)
        return z.permute(2, 1, 0, 3) if permuted else z

    def langevin(x, score, z):
        grad_norm = torch.norm(score.reshape(len(x), -1), dim=-1).mean()
        noise_norm = torch.norm(z.reshape(len(x), -1), dim=-1).mean()
        size = ((snr * noise_norm / grad_norm) ** 2 * 2).detach()
        return x + size * score + torch.sqrt(size * 2) * z

    x = noise.normal(shape, torch.float64)[0].transpose(0, 1) * 378.0
    for i in range(steps):
        step = steps - 1 - i
        sigma, adjacent = discrete[step], discrete[step - 1] if step > 0 else 0.0
        aux = i % k == k - 1
        if aux:
            x = x.permute(2, 1, 0, 3)
        z = drawn(aux)
        carried = []
        for number, xb in enumerate(x.split(batch)):
            zb = z.split(batch)[number]
            rows = slice(number * batch, number * batch + len(xb))
            for correct in (True, False):
                xb = xb.detach().requires_grad_()
                score = (auxiliary if aux else primary)(xb, sigma)
                new = langevin(xb, score, zb) if correct else xb + (sigma**2 - adjacent**2) * score
                if not aux:
                    x0 = xb + sigma**2 * score
                    part = part_of(operator, rows.start, len(xb))
                    norm = torch.linalg.norm(part.forward(x0.transpose(0, 1)[None]) - y[:, rows])
                    new = new - zeta * torch.autograd.grad(norm, xb)[0]
                xb = new.detach()
            carried.append(xb)
        x = torch.cat(carried)
        if aux:
            x = x.permute(2, 1, 0, 3)
        yield x.transpose(0, 1)[None]


@pytest.mark.parametrize(("chunk", "k"), [(1, 2), (3, 3), (4, 2)])
def test_matches_the_authors_code_step_by_step(chunk, k):
    problem, _ = fourier_volume(SHAPE)
    first, second = VPDenoiser(EpsNet(1, False)), VPDenoiser(EpsNet(1, False, seed=5))
    method, seen = TPDM(steps=30, batch=3, zeta=0.3, every=k), []
    prior = Slices(first, chunk, auxiliary=second)
    result = method.sample(prior, problem, None, slice_noise(6), SHAPE, lambda s: seen.append(s.x0.clone()))

    def score(prior):
        return lambda x, sigma: (prior(x, float(sigma)).x0 - x) / sigma**2

    theirs = list(
        authors_form(
            score(first), score(second), problem.operator, problem.y, slice_noise(6), 30, 0.16, 3, 0.3, k, SHAPE
        )
    )
    assert len(seen) == len(theirs) == 30
    assert max(relative(a, b) for a, b in zip(seen, theirs, strict=True)) < 1e-8
    assert result.status is Status.OK and result.stats.nfe == method.network_calls == 60
    assert result.stats.backprops == 2 * sum(method.turns(30))


def test_turns():
    assert TPDM(every=2).turns(5) == [True, False, True, False, True]
    assert TPDM(every=3).turns(6) == [True, True, False, True, True, False]
    assert TPDM(every=1).turns(3) == [True] * 3
    share = np.mean(TPDM(every=2.7).turns(2000))
    assert abs(share - (1 - 1 / 2.7)) < 0.03 and TPDM(every=2.7).turns(50) == TPDM(every=2.7).turns(50)


def direct_gradient(prior, x, sigma, problem):
    leaf = x.clone().requires_grad_()
    x0 = torch.stack([prior(leaf[:, :, z], sigma).x0 for z in range(x.shape[2])], dim=2)
    misfit = problem.operator.forward(x0) - problem.y
    (found,) = torch.autograd.grad(torch.linalg.vector_norm(misfit), leaf)
    return x0.detach(), found


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("coupled", [False, True])
def test_gradients_are_those_of_the_whole_volume(chunk, coupled):
    prior = VPDenoiser(EpsNet(1, False))
    problem, truth = fourier_volume(SHAPE)
    if coupled:
        operator = SliceAverage(SHAPE[1:], 2)
        problem = Problem(operator, operator.forward(truth), Gaussian(0.1))
    else:
        problem = replace(problem, operator=problem.operator * 0.3)
    x = truth + torch.randn(SHAPE, generator=generator(4), dtype=torch.float64)
    with torch.no_grad():
        x0, found = guided(Slices(prior, chunk), x, torch.tensor(1.0, dtype=torch.float64), problem, batch=6)
    expected = direct_gradient(prior, x, 1.0, problem)
    assert relative(x0, expected[0]) < 1e-12 and relative(found, expected[1]) < 1e-10


def test_super_resolution_along_z_is_guided_by_the_data():
    shape = (1, 1, 8, 8, 8)
    truth = GaussianPrior(power_law_spectrum(shape[1:], 4.0, 0.5)).sample(1, generator(2))
    operator = SliceAverage(shape[1:], 2)
    y = operator.forward(truth) + 0.01 * torch.randn(1, 1, 4, 8, 8, generator=generator(3))
    prior = Slices(GaussianPrior(power_law_spectrum((1, 8, 8), 3.0, 0.5)), 8)
    found = {}
    for zeta in (0.0, 1.0):
        method = TPDM(steps=80, grid="edm", zeta=zeta)
        found[zeta] = method.sample(prior, Problem(operator, y, Gaussian(0.01)), None, slice_noise(8), shape)
    assert relative(found[1.0].samples, truth) < 0.5 * relative(found[0.0].samples, truth)
    assert float(found[1.0].stats.residuals[-1]) < 0.15 * float(found[0.0].stats.residuals[-1])
    assert found[1.0].stats.nfe == 160 + 2 * sum(method.turns(80)), "a coupled operator needs a second evaluation"


def test_goes_on_from_every_step_with_the_same_bits():
    problem, _ = fourier_volume(SHAPE, torch.float32)
    assert_resumes(TPDM(steps=6, every=2.7), Slices(VPDenoiser(EpsNet(1, False))), problem, SHAPE)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"every": 0.5}, {"zeta": math.nan}, {"batch": 0}])
def test_refuses_settings(settings):
    with pytest.raises(ConfigError):
        TPDM(**settings)


def test_smooth_volumes_are_what_the_tests_take_them_for():
    x = smooth_volume(SHAPE)
    assert float((x[:, :, 1:] - x[:, :, :-1]).std()) < 0.5 * float(x.std())
