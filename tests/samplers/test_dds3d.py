"""DDS-3D against the authors' VP form, against DDS where slices are not coupled, and its resumption."""

import math
import weakref
from dataclasses import replace

import pytest
import torch
from sampler_doubles import EpsNet, VPDenoiser, generator, relative
from torch.utils._python_dispatch import TorchDispatchMode
from volume_doubles import assert_resumes, fourier_volume, slice_noise, smooth_volume

from recon import schedules
from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian
from recon.operators.inpaint import Inpaint
from recon.operators.slices import Slicewise
from recon.priors.base import Denoiser, Prediction, PriorInfo, per_item
from recon.priors.gaussian import GaussianPrior, power_law_spectrum
from recon.priors.slices import Slices
from recon.samplers.base import Status
from recon.samplers.dds import DDS
from recon.samplers.dds3d import DDS3D

SHAPE = (1, 1, 5, 6, 6)


def authors_form(net, operator, y, noise, steps, eta, rho, lamb, n_cg, shape):
    """The published loop in VP coordinates on slices as a batch (Z, 1, Y, X); yields x0hat after ADMM."""
    ab_all = schedules.vp_alpha_bars()

    def dz(x):
        return torch.cat([x[1:], x[:1]]) - x

    def dzt(x):
        return torch.cat([x[-1:], x[:-1]]) - x

    def a(x):
        return operator.forward(x.transpose(0, 1)[None])

    def at(v):
        return operator.adjoint(v)[0].transpose(0, 1)

    def system(x):
        return at(a(x)) + rho * dzt(dz(x))

    def cg(b, x):
        r = b - system(x)
        p, old = r, (r * r).sum()
        for _ in range(n_cg):
            ap = system(p)
            alpha = old / (p * ap).sum()
            x, r = x + alpha * p, r - alpha * ap
            new = (r * r).sum()
            p, old = r + new / old * p, new
        return x

    skip, aty = 1000 // steps, at(y)
    times = [k * skip for k in range(steps)][::-1]
    x = noise.normal(shape, torch.float64)[0].transpose(0, 1)
    del_z = udel_z = torch.zeros_like(x)
    for i, j in zip(times, [*times[1:], -1], strict=True):
        ab, ab_next = ab_all[i], ab_all[j] if j >= 0 else 1.0
        e = torch.cat([net(part, i) for part in x.split(2)])
        x0 = (x - math.sqrt(1 - ab) * e) / math.sqrt(ab)
        x0 = cg(aty + rho * (dzt(del_z) - dzt(udel_z)), x0)
        s = dz(x0) + udel_z
        del_z = s.sign() * (s.abs() - lamb / rho).clamp_min(0)
        udel_z = dz(x0) - del_z + udel_z
        yield x0.transpose(0, 1)[None]
        if j == 0:
            x = x0
        elif j > 0:
            fresh = noise.normal(shape, torch.float64)[0].transpose(0, 1)
            x = math.sqrt(ab_next) * x0 + math.sqrt(1 - ab_next) * (eta * fresh + math.sqrt(1 - eta**2) * e)


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("eta", [0.85, 0.3])
def test_matches_the_authors_code_step_by_step(chunk, eta):
    net = EpsNet(1, False)
    problem, _ = fourier_volume(SHAPE)
    method, seen = DDS3D(eta=eta, rho=2.0, weight=0.3, boundary="circular"), []
    prior = Slices(VPDenoiser(net), chunk)
    result = method.sample(prior, problem, None, slice_noise(5), SHAPE, lambda s: seen.append(s.x0.clone()))
    theirs = list(authors_form(net, problem.operator, problem.y, slice_noise(5), 50, eta, 2.0, 0.3, 5, SHAPE))
    assert len(seen) == len(theirs) == 50
    # the code hands the clean estimate to its last network call: the step that we take like every other
    assert max(relative(a, b) for a, b in zip(seen[:-1], theirs[:-1], strict=True)) < 1e-8
    assert torch.equal(result.samples, seen[-1]) and result.status is Status.OK
    assert (result.stats.nfe, result.stats.operator_calls) == (method.network_calls, 50 * 12)


def test_defaults_are_the_published_ones():
    method = DDS3D()
    assert (method.steps, method.grid, method.eta, method.rho, method.weight) == (50, "vp", 0.85, 10.0, 0.04)
    assert (method.cg_iterations, method.weighting) == (5, "none")


@pytest.mark.parametrize("weighting", ["constant", "matched"])
def test_without_coupling_each_slice_is_that_of_dds_alone(weighting):
    problem, _ = fourier_volume(SHAPE)
    prior, settings = VPDenoiser(EpsNet(1, False)), {"steps": 20, "weighting": weighting, "gamma": 2.0}
    whole = DDS3D(rho=0.0, **settings).sample(Slices(prior, 2), problem, None, slice_noise(5), SHAPE)
    for z, part in enumerate(problem.operator.parts):
        alone = Problem(part, problem.y[:, z], Gaussian(0.05))
        found = DDS(**settings).sample(prior, alone, None, slice_noise(5).sources[z], (1, 1, 6, 6))
        # conjugate gradients of one system for all slices take other steps: equal where both are converged
        assert relative(whole.samples[:, :, z], found.samples) < 0.2
    one = replace(problem, operator=problem.operator.part(2, 1), y=problem.y[:, 2:3])
    single = DDS3D(**settings).sample(Slices(prior), one, None, slice_noise(1, seed=5), (1, 1, 1, 6, 6))
    alone = Problem(problem.operator.parts[2], problem.y[:, 2], Gaussian(0.05))
    found = DDS(**settings).sample(prior, alone, None, slice_noise(1, seed=5).sources[0], (1, 1, 6, 6))
    assert relative(single.samples[:, :, 0], found.samples) < 1e-10, "a volume of one slice is an image"


def masked_volume(shape):
    """Slices behind masks of their own, whose data step has a closed form."""
    masks = [(torch.rand(shape[3:], generator=generator(z)) < 0.5).double() for z in range(shape[2])]
    operator = Slicewise([Inpaint((1, *shape[3:]), mask).to(dtype=torch.float64) for mask in masks])
    y = operator.forward(smooth_volume(shape))
    return Problem(operator, y + 0.05 * torch.randn(y.shape, generator=generator(9)).double(), Gaussian(0.05))


@pytest.mark.parametrize("weighting", ["constant", "matched"])
def test_exact_without_coupling_each_slice_is_exactly_that_of_dds(weighting):
    problem, prior = masked_volume(SHAPE), VPDenoiser(EpsNet(1, False))
    settings = {"steps": 8, "weighting": weighting, "gamma": 2.0, "correction": "exact"}
    whole = DDS3D(rho=0.0, **settings).sample(Slices(prior, 2), problem, None, slice_noise(5), SHAPE)
    for z, part in enumerate(problem.operator.parts):
        alone = Problem(part, problem.y[:, z], Gaussian(0.05))
        found = DDS(**settings).sample(prior, alone, None, slice_noise(5).sources[z], (1, 1, 6, 6))
        assert relative(whole.samples[:, :, z], found.samples) < 1e-10


def test_exact_is_conjugate_gradients_where_nothing_is_closed_and_refuses_what_has_no_weight():
    problem, _ = fourier_volume(SHAPE)
    prior, settings = Slices(VPDenoiser(EpsNet(1, False))), {"steps": 4, "weighting": "matched", "rho": 0.0}
    one, two = (
        DDS3D(**settings, correction=correction).sample(prior, problem, None, slice_noise(5), SHAPE).samples
        for correction in ("cg", "exact")
    )
    assert torch.equal(one, two)
    for refused in ({"weighting": "none", "rho": 0.0}, {"weighting": "matched"}, {**settings, "gamma": 0.0}):
        with pytest.raises(ConfigError, match="needs weighting"):
            DDS3D(correction="exact", **refused).sample(prior, problem, None, slice_noise(5), SHAPE)


def test_an_image_is_a_volume_of_one_slice():
    problem, _ = fourier_volume(SHAPE)
    prior = VPDenoiser(EpsNet(1, False))
    image = Problem(problem.operator.parts[0], problem.y[:, 0], Gaussian(0.05))
    method = DDS3D(steps=10, weighting="matched")
    flat = method.sample(prior, image, None, slice_noise(1).sources[0], (1, 1, 6, 6)).samples
    deep = replace(problem, operator=problem.operator.part(0, 1), y=problem.y[:, :1])
    assert (
        relative(method.sample(Slices(prior), deep, None, slice_noise(1), (1, 1, 1, 6, 6)).samples[:, :, 0], flat)
        < 1e-10
    )


def test_coupling_recovers_what_single_slices_lack():
    shape = (1, 1, 8, 8, 8)
    truth = smooth_volume(shape, torch.float32)
    masks = [(torch.rand(8, 8, generator=generator(z)) < 0.4).float() for z in range(8)]
    operator = Slicewise([Inpaint((1, 8, 8), mask) for mask in masks])
    y = operator.forward(truth + 0.02 * torch.randn(shape, generator=generator(20)))
    prior = Slices(GaussianPrior(power_law_spectrum((1, 8, 8), 1.0, 0.5)))
    settings = {"steps": 30, "grid": "edm", "eta": 1.0, "weighting": "matched", "cg_iterations": 10}
    errors = []
    for weight, rho in ((0.0, 0.0), (15.0, 100.0)):
        method = DDS3D(rho=rho, weight=weight, **settings)
        found = method.sample(prior, Problem(operator, y, Gaussian(0.02)), None, slice_noise(8), shape)
        errors.append(relative(found.samples, truth))
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("weighting", ["none", "matched"])
def test_goes_on_from_every_step_with_the_same_bits(weighting):
    problem, _ = fourier_volume(SHAPE, torch.float32)
    assert_resumes(DDS3D(steps=6, weighting=weighting), Slices(VPDenoiser(EpsNet(1, False))), problem, SHAPE)


def test_samples_do_not_depend_on_each_other():
    problem, _ = fourier_volume(SHAPE)
    prior, method = Slices(VPDenoiser(EpsNet(1, False)), 2), DDS3D(steps=5, weighting="matched")
    both = method.sample(prior, problem, None, slice_noise(5, 2), (2, *SHAPE[1:])).samples
    alone = method.sample(prior, problem, None, slice_noise(5, 1), SHAPE).samples
    assert relative(both[:1], alone) < 1e-10 and relative(both[1:], alone) > 0.01


class Shrink(Denoiser):
    info = PriorInfo(name="shrink", channels=1)

    def _denoise(self, x, sigma, cond):
        return Prediction(x / (1 + per_item(sigma, x) ** 2))


class Alive(TorchDispatchMode):
    """The most bytes that results of operations hold at once."""

    def __init__(self):
        super().__init__()
        self.sizes, self.now, self.most = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self._note(tensor)
        return out

    def _note(self, tensor):
        key = tensor.untyped_storage().data_ptr()
        held = self.sizes.setdefault(key, [0, tensor.untyped_storage().nbytes()])
        if held[0] == 0:
            self.now += held[1]
            self.most = max(self.most, self.now)
        held[0] += 1
        weakref.finalize(tensor, self._drop, key)

    def _drop(self, key):
        held = self.sizes[key]
        held[0] -= 1
        if held[0] == 0:
            self.now -= held[1]
            del self.sizes[key]


def test_memory_is_a_dozen_volumes():
    shape = (1, 1, 64, 32, 32)
    volume = 4 * 64 * 32 * 32
    operator = Slicewise(
        [Inpaint(shape[1:2] + shape[3:], (torch.rand(32, 32, generator=generator(0)) < 0.5).float())], 64
    )
    y = operator.forward(torch.randn(shape, generator=generator(1)))
    held = {}

    def keep(step):
        held["state"] = step.state

    with Alive() as alive:
        DDS3D(steps=4, weighting="matched").sample(
            Slices(Shrink()), Problem(operator, y, Gaussian(0.1)), None, slice_noise(64), shape, keep
        )
    # the state that may be saved (x, split, dual, last), and what a step makes
    assert 8 < alive.most / volume < 13, alive.most / volume


@pytest.mark.parametrize(
    "settings", [{"steps": 0}, {"eta": 1.5}, {"rho": -1.0}, {"grid": "nope"}, {"weight": math.nan}]
)
def test_refuses_settings(settings):
    with pytest.raises(ConfigError):
        DDS3D(**settings)
