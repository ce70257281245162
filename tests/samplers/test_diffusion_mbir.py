"""DiffusionMBIR against the authors' VE form step by step, and what it does to a volume."""

import math

import numpy as np
import pytest
import torch
from sampler_doubles import EpsNet, VPDenoiser, relative
from volume_doubles import assert_resumes, fourier_volume, slice_noise

from recon.errors import ConfigError
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.priors.slices import Slices
from recon.samplers.base import Status
from recon.samplers.diffusion_mbir import DiffusionMBIR
from recon.samplers.slice_steps import group_means

SHAPE = (1, 1, 6, 6, 6)


def dz(x):
    y = torch.zeros_like(x)
    y[:-1], y[-1] = x[1:], x[0]
    return y - x


def dzt(x):
    y = torch.zeros_like(x)
    y[1:], y[0] = x[:-1], x[-1]
    return y - x


def shrink(x, threshold):
    return torch.sign(x) * torch.max(torch.abs(x) - threshold, torch.zeros_like(x))


def authors_form(score, operator, y, noise, steps, snr, batch, rho, lamb, n_cg, shape):
    """The published loop on slices as a batch (Z, 1, Y, X), with its score network; yields x after ADMM."""
    discrete = np.exp(np.linspace(np.log(0.01), np.log(378.0), steps))

    def drawn():
        return noise.normal(shape, torch.float64)[0].transpose(0, 1)

    def a(x):
        return operator.forward(x.transpose(0, 1)[None])

    def at(v):
        return operator.adjoint(v)[0].transpose(0, 1)

    def system(x):
        return at(a(x)) + rho * dzt(dz(x))

    x = drawn() * 378.0
    del_z = udel_z = torch.zeros_like(x)
    aty = at(y)
    for i in range(steps):
        step = steps - 1 - i
        sigma, adjacent = discrete[step], discrete[step - 1] if step > 0 else 0.0
        first = drawn() if step > 0 else torch.zeros_like(x)
        second = drawn()
        parts = []
        for xb, z1, z2 in zip(x.split(batch), first.split(batch), second.split(batch), strict=True):
            g = math.sqrt(sigma**2 - adjacent**2)
            xb = xb + g**2 * score(xb, sigma) + g * z1
            grad = score(xb, sigma)
            grad_norm = torch.norm(grad.reshape(len(grad), -1), dim=-1).mean()
            noise_norm = torch.norm(z2.reshape(len(z2), -1), dim=-1).mean()
            size = (snr * noise_norm / grad_norm) ** 2 * 2
            parts.append(xb + size * grad + torch.sqrt(size * 2) * z2)
        x = torch.cat(parts)
        r = aty + rho * (dzt(del_z) - dzt(udel_z)) - system(x)
        p, old = r, (r * r).sum()
        for _ in range(n_cg):
            ap = system(p)
            alpha = old / (p * ap).sum()
            x, r = x + alpha * p, r - alpha * ap
            new = (r * r).sum()
            p, old = r + new / old * p, new
        del_z = shrink(dz(x) + udel_z, lamb / rho)
        udel_z = dz(x) - del_z + udel_z
        yield x.transpose(0, 1)[None]


@pytest.mark.parametrize(("n_cg", "chunk"), [(1, 1), (3, 4)])
def test_matches_the_authors_code_step_by_step(n_cg, chunk):
    problem, _ = fourier_volume(SHAPE)
    prior, steps, seen = VPDenoiser(EpsNet(1, False)), 40, []
    method = DiffusionMBIR(steps=steps, batch=3, rho=0.5, weight=0.02, cg_iterations=n_cg, boundary="circular")
    result = method.sample(
        Slices(prior, chunk), problem, None, slice_noise(6), SHAPE, lambda s: seen.append(s.x0.clone())
    )

    def score(x, sigma):
        return (prior(x, float(sigma)).x0 - x) / sigma**2

    theirs = list(
        authors_form(score, problem.operator, problem.y, slice_noise(6), steps, 0.16, 3, 0.5, 0.02, n_cg, SHAPE)
    )
    assert len(seen) == len(theirs) == steps
    assert max(relative(a, b) for a, b in zip(seen, theirs, strict=True)) < 1e-8
    assert torch.equal(result.samples, seen[-1]) and result.status is Status.OK
    assert result.stats.nfe == method.network_calls == 2 * steps
    assert result.stats.operator_calls == steps * (2 + 2 * n_cg)


def test_defaults_are_the_published_ones():
    method = DiffusionMBIR()
    assert (method.steps, method.grid, method.snr, method.batch) == (2000, "ve", 0.16, 12)
    assert (method.rho, method.weight, method.cg_iterations) == (10.0, 0.04, 1)


def test_group_means():
    values = torch.tensor([[1.0, 3.0, 5.0, 7.0, 9.0]])
    assert group_means(values, 1).tolist() == values.tolist()
    assert group_means(values, 2).tolist() == [[2, 2, 6, 6, 9]]
    assert group_means(values, 5).tolist() == group_means(values, 99).tolist() == [[5] * 5]


def test_coupled_slices_help_each_other_and_the_final_step_fits_the_data_better():
    problem, truth = fourier_volume(SHAPE, torch.float32, 0.02)
    prior = Slices(GaussianPrior(power_law_spectrum((1, 6, 6), 2.0, 0.5)), 6)
    errors, misfits = [], []
    for settings in ({"rho": 0.0}, {"rho": 0.1}, {"rho": 0.1, "final_step": True}):
        method = DiffusionMBIR(steps=150, weight=0.1, **settings)
        found = method.sample(prior, problem, None, slice_noise(6), SHAPE).samples
        errors.append(relative(found, truth))
        misfits.append(float((problem.y - problem.operator.forward(found)).abs().square().sum()))
    assert errors[1] < 0.5 * errors[0]
    assert misfits[2] < misfits[1]


def test_goes_on_from_every_step_with_the_same_bits():
    problem, _ = fourier_volume(SHAPE, torch.float32)
    method = DiffusionMBIR(steps=6, final_step=True)
    assert_resumes(method, Slices(VPDenoiser(EpsNet(1, False))), problem, SHAPE)


@pytest.mark.parametrize("settings", [{"steps": 0}, {"snr": 0.0}, {"batch": 0}, {"rho": math.nan}, {"grid": "nope"}])
def test_refuses_settings(settings):
    with pytest.raises(ConfigError):
        DiffusionMBIR(**settings)
