"""D3IP against the authors' VP form, what it trains and leaves alone, its samples, resumption and refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sampler_doubles import ConvNet, Convolutional, Dense, MaskedFourier, VPDenoiser, generator, relative
from volume_doubles import assert_resumes, fourier_volume, slice_noise, smooth_volume

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian
from recon.operators.inpaint import Inpaint
from recon.operators.registry import build, draw
from recon.operators.slices import Slicewise
from recon.priors.channels import ComplexPairs
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.priors.lora import LoRA
from recon.priors.slices import Slices
from recon.runs.methods import missing_needs
from recon.samplers.adaptation import drawn_seeds
from recon.samplers.base import Status
from recon.samplers.d3ip import D3IP
from recon.samplers.dds3d import DDS3D

SHAPE = (1, 1, 5, 6, 6)
SMALL = {"steps": 5, "adapt_steps": 2, "start": "noise", "dropout": 0.0}


def conv_prior(dtype=torch.float64, seed=0):
    return VPDenoiser(ConvNet(1, dtype, seed))


def cg(system, b, x, iterations):
    """Conjugate gradients on a whole batch as one system, with their graph."""
    r = b - system(x)
    p, old = r, (r * r).sum()
    for _ in range(iterations):
        ap = system(p)
        alpha = old / (p * ap).sum()
        x, r = x + alpha * p, r - alpha * ap
        new = (r * r).sum()
        p, old = r + new / old * p, new
    return x


class Views(Dense):
    """A dense matrix with its pseudo-inverse."""

    def pinv(self, y):
        return (y @ torch.linalg.pinv(self.matrix).T).reshape(-1, *self.in_shape)


def dense_volume():
    """Each slice through a matrix of its own."""
    matrices = [torch.randn(20, 36, generator=generator(z), dtype=torch.float64) / 6 for z in range(5)]
    operator = Slicewise([Views(matrix, (1, 6, 6)) for matrix in matrices])
    y = operator.forward(smooth_volume(SHAPE)) + 0.05 * torch.randn(1, 5, 20, generator=generator(9)).double()
    return Problem(operator, y, Gaussian(0.05))


def dz(x):
    return torch.cat([x[1:], x[:1]]) - x


def dzt(x):
    return torch.cat([x[-1:], x[:-1]]) - x


def authors_form(net, first_adapters, problem, noise, method):
    """The published loop in VP coordinates on slices as a batch (Z, 1, Y, X); yields x0hat after the data step."""
    ab_all, operator = schedules.vp_alpha_bars(), problem.operator
    rho, lamb, tv = method.rho, method.weight, method.rho > 0
    gamma, keep = (1.0, 0.0) if method.weighting == "none" else (method.gamma, 1.0)
    state = {k: v.clone().requires_grad_() for k, v in first_adapters.items()}

    def network(x, t):
        hidden = x
        for name in ("first", "last"):
            layer, down, up = getattr(net, name), state[f"{name}.down"], state[f"{name}.up"]
            own = F.conv2d(hidden, layer.weight, state[f"{name}.base.bias"], padding=1)
            hidden = own + F.conv2d(F.conv2d(hidden, down, padding=1), up[:, :, None, None])
            hidden = torch.tanh(hidden + t / 500) if name == "first" else hidden
        ab = float(net.alpha_bars[t])
        return (1 - ab) ** 0.5 * x + 0.5 * ab**0.5 * hidden

    def step(x0, places, iterations, sweeps, del_z, udel_z, coupled):
        part, y = operator.chosen(places), problem.y[:, places]

        def a(x):
            return part.forward(x.transpose(0, 1)[None])

        def at(v):
            return part.adjoint(v)[0].transpose(0, 1)

        weight = rho if coupled else 0.0
        start, aty = x0, at(y)
        for _ in range(sweeps):
            right = keep * start + gamma * (aty + weight * dzt(del_z - udel_z))
            x0 = cg(lambda v: keep * v + gamma * (at(a(v)) + weight * dzt(dz(v))), right, x0, iterations)
            s = dz(x0) + udel_z
            del_z = s.sign() * (s.abs() - lamb / max(rho, 1e-30)).clamp_min(0)
            udel_z = dz(x0) - del_z + udel_z
        return x0, del_z, udel_z, a, y

    steps, depth = method.steps, SHAPE[2]
    skip, every = 1000 // steps, list(range(depth))
    times = [k * skip for k in range(steps)][::-1]
    x = noise.normal(SHAPE, torch.float64)[0].transpose(0, 1)
    if method.start == "pinv":
        ab, inverse = ab_all[times[0]], operator.pinv(problem.y)[0].transpose(0, 1)
        x = math.sqrt(ab) * inverse + math.sqrt(1 - ab) * x
    seed = int(drawn_seeds(noise, SHAPE)[0])
    del_z = udel_z = torch.zeros_like(x)
    for number, (i, j) in enumerate(zip(times, [*times[1:], -1], strict=True)):
        ab, ab_next = ab_all[i], ab_all[j] if j >= 0 else 1.0

        def tweedie(x, i=i, ab=ab):
            e = network(x, i)
            return e, (x - math.sqrt(1 - ab) * e) / math.sqrt(ab)

        if 20 <= i <= 980:
            optimiser, rng = torch.optim.AdamW(state.values(), lr=method.lr), np.random.default_rng([seed, number])
            for _ in range(method.adapt_steps):
                if method.contiguous:
                    first = int(rng.integers(depth - method.slices + 1))
                    places = list(range(first, first + method.slices))
                else:
                    places = sorted(rng.choice(depth, method.slices, replace=False).tolist())
                zero = torch.zeros_like(x[places])
                coupled = method.contiguous
                x0, _, _, a, y = step(tweedie(x[places])[1], places, method.adapt_cg, 1, zero, zero, coupled)
                misfit = a(x0) - y
                loss = (torch.view_as_real(misfit) if misfit.is_complex() else misfit).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        with torch.no_grad():
            e, x0 = tweedie(x)
            x0, del_z, udel_z, _, _ = step(x0, every, method.cg_iterations, method.sweeps, del_z, udel_z, tv)
            yield x0.transpose(0, 1)[None]
            if j >= 0:
                fresh, eta = noise.normal(SHAPE, torch.float64)[0].transpose(0, 1), method.eta
                x = math.sqrt(ab_next) * x0 + math.sqrt(1 - ab_next) * (eta * fresh + math.sqrt(1 - eta**2) * e)


FAMILIES = {
    "tomography": {"start": "pinv"},
    "MRI": {"weighting": "constant", "gamma": 5.0, "start": "noise", "adapt_steps": 5},
    "total variation": {"rho": 0.5, "weight": 0.01, "sweeps": 5, "contiguous": True, "adapt_cg": 5, "adapt_steps": 3},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_matches_the_authors_form_step_by_step(family):
    prior = conv_prior()
    problem = dense_volume() if family == "tomography" else fourier_volume(SHAPE)[0]
    method = D3IP(steps=10, dropout=0.0, boundary="circular", lr=1e-2, **FAMILIES[family])
    seen, noise = [], slice_noise(5)
    result = method.sample(
        Slices(prior, 2), problem, None, noise, SHAPE, lambda s: seen.append((s.x0.clone(), s.state["adapters"]))
    )
    again = slice_noise(5)
    again.normal(SHAPE, torch.float64)
    seed = int(drawn_seeds(again, SHAPE)[0])
    mixed = int(np.random.SeedSequence([seed, 0]).generate_state(1, np.uint64)[0] >> np.uint64(1))
    first = LoRA(prior, method.adaptation.adapters, generator(mixed)).state()
    theirs = list(authors_form(prior.network, first, problem, slice_noise(5), method))
    assert len(seen) == len(theirs) == 10
    assert max(relative(a[0], b) for a, b in zip(seen, theirs, strict=True)) < 1e-8
    assert not torch.equal(seen[0][1], seen[1][1]), "the adapters move"
    # the last level, t = 0, is below those of the fit
    assert torch.equal(seen[-1][1], seen[-2][1])
    assert torch.equal(result.samples, seen[-1][0]) and result.status is Status.OK
    plain = DDS3D(steps=10, rho=0.0, weighting=method.weighting, gamma=method.gamma)
    bare = plain.sample(Slices(prior, 2), problem, None, slice_noise(5), SHAPE)
    assert relative(bare.samples, result.samples) > 1e-4, "a test that the fit cannot fail would be none"


def test_without_a_fit_it_is_dds_3d_with_every_correction():
    masks = [(torch.rand(6, 6, generator=generator(z)) < 0.5).double() for z in range(5)]
    operator = Slicewise([Inpaint((1, 6, 6), mask).to(dtype=torch.float64) for mask in masks])
    problem = Problem(operator, operator.forward(smooth_volume(SHAPE)), Gaussian(0.05))
    prior, found = Slices(conv_prior()), []
    for correction in ("cg", "exact"):
        # without fresh noise both go on alike from the first draw
        shared = {
            "steps": 5,
            "weighting": "matched",
            "gamma": 2.0,
            "rho": 0.0,
            "eta": 0.0,
            "cg_iterations": 0,
            "correction": correction,
        }
        fitted = D3IP(**shared, start="noise", adapt_steps=0, dropout=0.0)
        plain = DDS3D(**shared).sample(prior, problem, None, slice_noise(5), SHAPE).samples
        found.append(fitted.sample(prior, problem, None, slice_noise(5), SHAPE).samples)
        assert relative(found[-1], plain) < 1e-12
    assert relative(*found) > 1e-4


def test_defaults_are_the_published_ones():
    method = D3IP()
    assert (method.steps, method.grid, method.eta, method.start, method.weighting) == (50, "vp", 0.85, "pinv", "none")
    assert (method.cg_iterations, method.adapt_cg, method.adapt_steps, method.slices) == (5, 1, 10, 3)
    assert (method.lr, method.rank, method.dropout, method.rho) == (1e-3, 4, 0.1, 0.0)
    ab = schedules.vp_alpha_bars()
    level = [math.sqrt((1 - ab[t]) / ab[t]) for t in (19, 20, 980, 981)]
    assert method.adaptation.levels([level[3], level[2], level[1], level[0], 0.0]) == [False, True, True, False]
    assert sum(method.adaptation.levels(schedules.grid("vp", 50).tolist())) == 49
    assert method.evaluations(100) == 50 * 100 + 490 * 3


def ood_problem(dtype=torch.float32):
    """A bright block, which the prior around zero has not seen, behind masks."""
    truth = torch.zeros(1, 1, 6, 8, 8, dtype=dtype)
    truth[..., 2:6, 2:6] = 2.0
    masks = [(torch.rand(8, 8, generator=generator(z)) < 0.6).to(dtype) for z in range(6)]
    operator = Slicewise([Inpaint((1, 8, 8), mask).to(dtype=dtype) for mask in masks])
    return Problem(operator, operator.forward(truth), Gaussian(0.05)), truth


def test_fitting_lowers_the_residual_of_an_object_that_the_prior_does_not_know():
    problem, _ = ood_problem()
    shape, found = (1, 1, 6, 8, 8), []
    for adapt_steps in (0, 10):
        method = D3IP(steps=20, weighting="constant", gamma=0.2, start="noise", adapt_steps=adapt_steps, lr=3e-2)
        result = method.sample(Slices(conv_prior(torch.float32)), problem, None, slice_noise(6), shape)
        found.append(float(result.stats.residuals[-2][0]))  # of the denoised volume, before the data step
    assert found[1] < 0.7 * found[0], found


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_prior_is_left_as_it_was(dropout):
    prior, problem = conv_prior(), fourier_volume(SHAPE)[0]
    weights, modules = prior.network.state_dict(), dict(prior.network.named_modules())
    before = {k: v.clone() for k, v in weights.items()}
    whole = Slices(prior)
    method, called = D3IP(steps=5, adapt_steps=2, dropout=dropout), []
    method.sample(whole, problem, None, slice_noise(5), SHAPE, called.append)
    assert whole.inner is prior and dict(prior.network.named_modules()) == modules
    assert all(torch.equal(v, before[k]) for k, v in prior.network.state_dict().items()) and len(called) == 5
    assert all(p.grad is None and not p.requires_grad for p in prior.network.parameters())


@pytest.mark.parametrize("settings", [{}, {"dropout": 0.2}, {"rho": 2.0, "contiguous": True, "weighting": "matched"}])
def test_goes_on_from_every_step_with_the_same_bits(settings):
    problem, _ = fourier_volume(SHAPE, torch.float32)
    assert_resumes(D3IP(**(SMALL | settings)), Slices(conv_prior(torch.float32)), problem, SHAPE)


def test_a_seed_gives_the_same_sample_and_never_asks_the_global_generator():
    problem = fourier_volume(SHAPE, torch.float32)[0]
    prior, method = Slices(conv_prior(torch.float32)), D3IP(**(SMALL | {"dropout": 0.2}))
    before = torch.get_rng_state()
    one, two, other = (
        method.sample(prior, problem, None, slice_noise(5, seed=seed), SHAPE).samples for seed in (3, 3, 4)
    )
    assert torch.equal(one, two) and not torch.allclose(one, other, atol=1e-3)
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_do_not_depend_on_each_other():
    problem, _ = fourier_volume(SHAPE)
    prior, method = Slices(conv_prior()), D3IP(**SMALL, weighting="matched")
    both = method.sample(prior, problem, None, slice_noise(5, 2), (2, *SHAPE[1:])).samples
    alone = method.sample(prior, problem, None, slice_noise(5, 1), SHAPE).samples
    assert relative(both[:1], alone) < 1e-10 and relative(both[1:], alone) > 0.01


def test_complex_volumes_are_fitted_as_they_are():
    masks = [(torch.rand(6, 6, generator=generator(z)) < 0.6).float() for z in range(4)]
    operator = Slicewise([MaskedFourier(mask, torch.complex64) for mask in masks])
    shape = (1, 1, 4, 6, 6)
    y = operator.forward(torch.randn(shape, dtype=torch.complex64, generator=generator(5)))
    inner = VPDenoiser(ConvNet(2, torch.float32))
    inner.info = replace(inner.info, complex_channels=True)
    prior = Slices(ComplexPairs(inner))
    seen = []
    result = D3IP(**SMALL, weighting="matched").sample(
        prior, Problem(operator, y, Gaussian(0.05)), None, slice_noise(4), shape, lambda s: seen.append(s.state)
    )
    assert result.samples.dtype == torch.complex64 and result.status is Status.OK
    assert not torch.equal(seen[0]["adapters"], seen[1]["adapters"])


def test_evaluations_are_counted():
    problem, _ = fourier_volume(SHAPE, torch.float32)
    prior, method = Convolutional(1), D3IP(**SMALL, slices=2)
    stats = method.sample(Slices(prior), problem, None, slice_noise(5), SHAPE).stats
    assert sum(len(x) for x, _ in prior.asked) == 25 + 16
    assert (stats.nfe, stats.shared) == (5, 4 * 2 * 2)
    assert method.evaluations(5) == stats.nfe * 5 + stats.shared
    assert stats.operator_calls == 5 * 12 + math.ceil(16 * 10 / 5)


def test_refuses_what_cannot_be():
    problem, _ = fourier_volume(SHAPE, torch.float32)
    with pytest.raises(ConfigError, match="has no network"):
        gaussian = GaussianPrior(power_law_spectrum((1, 6, 6), 1.0, 0.5))
        D3IP(**SMALL).sample(Slices(gaussian), problem, None, slice_noise(5), SHAPE)
    with pytest.raises(ConfigError, match="needs a prior"):
        D3IP(**SMALL).sample(None, problem, None, slice_noise(5), SHAPE)
    thick = build(draw("slice-average", {"factor": 2}, (1, 4, 8, 8), 0))
    assert missing_needs(D3IP, thick) == ["slices"] and missing_needs(D3IP, problem.operator) == []
    assert missing_needs(D3IP, 2.0 * problem.operator) == []
    with pytest.raises(ConfigError, match="measured one by one"):
        data = Problem(thick, torch.zeros(1, *thick.out_shape), Gaussian(0.1))
        D3IP(**SMALL).sample(Slices(Convolutional(1)), data, None, slice_noise(4), (1, 1, 4, 8, 8))


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0}, {"sweeps": 0}, {"eta": 1.5}, {"rho": -1.0}, {"grid": "nope"}, {"weight": math.nan}, {"lr": 0.0},
        {"adapt_steps": -1}, {"slices": 0}, {"rank": 0}, {"dropout": 1.0}, {"layers": "("}, {"lowest": 2, "highest": 1},
    ],
)  # fmt: skip
def test_refuses_settings(settings):
    with pytest.raises(ConfigError):
        D3IP(**settings)
