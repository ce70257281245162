"""Classes and guidance: closed forms, what the network sees, and CFG++ steps against the authors' formulas."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from recon.data import Problem
from recon.errors import ConfigError
from recon.likelihoods import Gaussian
from recon.operators.inpaint import Inpaint
from recon.priors.base import PriorInfo
from recon.priors.gaussian import GaussianPrior
from recon.priors.guided import Guided
from recon.priors.networks.adm import ADM, ADMConfig
from recon.priors.networks.dhariwal import DhariwalConfig
from recon.priors.preconditioned import PreconditionedDenoiser
from recon.priors.tiled import Tiled
from recon.samplers.base import SeededNoise
from recon.samplers.ddnm import DDNM
from recon.samplers.ddrm import DDRM
from recon.samplers.dds import DDS
from recon.samplers.integrate import INTEGRATORS, integrate
from recon.schedules import grid

CENTRES = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)


class Classes(nn.Module):
    """F such that D(x, s) of kind "edm" with sigma_data 1 is that of N(centre of the class, 1); 0.5 without a class."""

    def __init__(self, needs_class=False):
        super().__init__()
        self.config = DhariwalConfig(8, 1, 1, labels=3)
        self.needs_class, self.calls = needs_class, []

    def forward(self, x, c, labels=None):
        self.calls.append(None if labels is None else labels.clone())
        labels = torch.zeros(len(x), 3, dtype=x.dtype) if labels is None else labels
        sigma = (4 * c).exp()[:, None, None, None]
        centre = (labels @ CENTRES.to(x.dtype) + 0.5 * (1 - labels.sum(1)))[:, None, None, None]
        # D = x/(1 + s^2) + s/sqrt(1 + s^2) F
        return centre * sigma / (1 + sigma**2).sqrt() + 0 * x


def prior(needs_class=False):
    info = PriorInfo("classes", 1, sigma_max=1e4)
    return PreconditionedDenoiser(Classes(needs_class), info, "edm", sigma_data=1.0)


def exact(x, sigma, centre):
    return (x + sigma**2 * centre) / (1 + sigma**2)


def image(seed=0, batch=2):
    return torch.randn(batch, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_class_is_given_to_every_call():
    inner, x = prior(), image()
    for label, centre in enumerate(CENTRES):
        torch.testing.assert_close(Guided(inner, label)(x, 0.7).x0, exact(x, 0.7, centre))
    assert len(inner.network.calls) == 3, "no work without guidance"
    # a class of the call counts
    torch.testing.assert_close(Guided(inner, 0)(x, 0.7, torch.tensor([2, 1])).x0[:1], exact(x, 0.7, 2.0)[:1])


@pytest.mark.parametrize("weight", [0.0, 0.6, 1.0, 3.0])
def test_guidance_is_the_line_from_no_class_to_the_class(weight):
    x = image()
    seen = Guided(prior(), 2, weight)(x, 0.7)
    expected = exact(x, 0.7, 0.5) + weight * (exact(x, 0.7, 2.0) - exact(x, 0.7, 0.5))
    torch.testing.assert_close(seen.x0, expected)
    assert seen.x0_uncond is None
    mixed = Guided(prior(), 2, weight)(x, 0.7, torch.tensor([[0.5, 0.0, 0.5], [1.0, 0.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(mixed.x0[:1], (exact(x, 0.7, 0.5))[:1])


def test_cfg_plus_plus_gives_the_unconditional_mean_as_well():
    x = image()
    seen = Guided(prior(), 2, 0.6, "cfg++")(x, 0.7)
    torch.testing.assert_close(seen.x0_uncond, exact(x, 0.7, 0.5))
    torch.testing.assert_close(seen.eps(x, 0.7), (x - exact(x, 0.7, 0.5)) / 0.7)
    plain = Guided(prior(), 2, 0.6)(x, 0.7)
    torch.testing.assert_close(plain.eps(x, 0.7), (x - plain.x0) / 0.7)
    assert torch.equal(plain.x0, seen.x0)


def test_a_class_may_stand_for_none():
    inner, x = prior(needs_class=True), image()
    found = Guided(inner, 2, 2.0, null_label=0)(x, 0.7).x0
    torch.testing.assert_close(found, 2 * exact(x, 0.7, 2.0) - exact(x, 0.7, -1.0))
    assert inner.network.calls[-1].tolist() == [[0, 0, 1]] * 2 + [[1, 0, 0]] * 2


@pytest.mark.parametrize(
    ("arguments", "needs_class", "message"),
    [
        ((3,), False, r"has classes 0 to 2: prior\.label = 3"),
        ((-1,), False, r"prior\.label = -1"),
        ((0, 2.0, "cfg", 7), False, r"prior\.null_label = 7"),
        ((0, 2.0), True, "always takes a class"),
        ((0, 1.5, "cfg++"), False, "CFG\\+\\+ needs a weight above 0, up to 1, got 1.5"),
        ((0, None, "cfg++"), False, "CFG\\+\\+ needs a weight"),
    ],
)
def test_what_cannot_be_is_refused(arguments, needs_class, message):
    with pytest.raises(ConfigError, match=message):
        Guided(prior(needs_class), *arguments)


def test_a_prior_without_classes_takes_none():
    plain = PreconditionedDenoiser(ADM(ADMConfig(1, 1, 8, (32,), heads=4)), PriorInfo("adm", 1), "vp")
    for other in (plain, GaussianPrior(torch.ones(1, 4, 4))):
        with pytest.raises(ConfigError, match="takes no classes"):
            Guided(other, 0)
    assert not plain.needs_class


def test_networks_that_always_take_a_class_say_so():
    network = ADM(ADMConfig(1, 1, 8, (32,), heads=4, labels=3))
    assert PreconditionedDenoiser(network, PriorInfo("adm", 1), "vp").needs_class


def test_guided_tiles():
    x = image(batch=1).repeat(1, 1, 3, 3)
    one, other = Tiled(Guided(prior(), 2, 0.6, "cfg++"), 8, 4)(x, 0.7), Guided(prior(), 2, 0.6, "cfg++")(x, 0.7)
    torch.testing.assert_close(one.x0, other.x0)
    torch.testing.assert_close(one.x0_uncond, other.x0_uncond)


# --- CFG++ in the samplers: x_s = D + s (x - D_0)/t, in the authors' VP and sigma coordinates


def alpha_bar(sigma):
    return 1 / (1 + sigma**2)


def test_an_euler_step_is_the_authors():
    guided, x = Guided(prior(), 2, 0.6, "cfg++"), image()
    sigmas = [3.0, 1.2, 0.4, 0.0]
    z, x_now = x.clone() * math.sqrt(alpha_bar(sigmas[0])), x
    for t, s in itertools.pairwise(sigmas):
        # CFG++, algorithm 2: the image from the guided noise, renoised with the unconditional one
        state = z / math.sqrt(alpha_bar(t))
        eps_null = (state - exact(state, t, 0.5)) / t
        eps_class = (state - exact(state, t, 2.0)) / t
        eps = eps_null + 0.6 * (eps_class - eps_null)
        z0 = (z - math.sqrt(1 - alpha_bar(t)) * eps) / math.sqrt(alpha_bar(t))
        z = math.sqrt(alpha_bar(s)) * z0 + math.sqrt(1 - alpha_bar(s)) * eps_null
        x_now = integrate(guided, x_now, [t, s], "euler")
        torch.testing.assert_close(x_now, z / math.sqrt(alpha_bar(s)), rtol=1e-8, atol=1e-8)


def test_dpm_plus_plus_is_the_authors():
    guided, x = Guided(prior(), 2, 0.6, "cfg++"), image()
    sigmas = [3.0, 1.2, 0.5, 0.2, 0.0]
    found = integrate(guided, x, sigmas, "dpm++2m")
    old, h_last = None, None
    for t, s in itertools.pairwise(sigmas):
        null, towards = exact(x, t, 0.5), exact(x, t, 2.0)
        guide = null + 0.6 * (towards - null)
        if s == 0:
            x = guide
            break
        h = math.log(t / s)
        step = guide - math.exp(-h) * null + math.exp(-h) * x
        if old is not None:
            step = step + (1 - math.exp(-h)) * (guide - old) / (2 * h_last / h)
        x, old, h_last = step, null, h
    torch.testing.assert_close(found, x, rtol=1e-8, atol=1e-8)


class Fixed:
    """Noise that is one array, whatever is asked for."""

    def normal(self, shape, dtype):
        return torch.full(tuple(shape), 0.3, dtype=dtype)


def test_an_ancestral_step_renoises_with_the_unconditional_noise():
    guided, x, t, s = Guided(prior(), 2, 0.6, "cfg++"), image(), 2.0, 0.8
    up = s * math.sqrt(t**2 - s**2) / t
    eps = (x - exact(x, t, 0.5)) / t
    guide = exact(x, t, 0.5) + 0.6 * (exact(x, t, 2.0) - exact(x, t, 0.5))
    expected = guide + math.sqrt(s**2 - up**2) * eps + up * 0.3
    torch.testing.assert_close(integrate(guided, x, [t, s], "ancestral", Fixed()), expected)


@pytest.mark.parametrize("name", sorted(set(INTEGRATORS) - {"euler", "dpm++2m", "ancestral"}))
def test_integrators_without_a_form_of_it_refuse(name):
    guided = Guided(prior(), 2, 0.6, "cfg++")
    with pytest.raises(ConfigError, match=r"no CFG\+\+ form"):
        integrate(guided, image(), [2.0, 1.0, 0.5], name, Fixed())


def test_weight_one_of_cfg_is_the_class_and_of_cfg_plus_plus_is_not():
    x, sigmas = image(), [3.0, 1.0, 0.3, 0.0]
    alone = integrate(Guided(prior(), 2), x, sigmas, "euler")
    torch.testing.assert_close(integrate(Guided(prior(), 2, 1.0), x, sigmas, "euler"), alone)
    assert not torch.allclose(integrate(Guided(prior(), 2, 1.0, "cfg++"), x, sigmas, "euler"), alone, atol=1e-3)


def inpainting():
    mask = torch.ones(1, 4, 4)
    mask[:, :2] = 0
    operator = Inpaint((1, 4, 4), mask).to(dtype=torch.float64)
    y = operator.forward(image(5, 1))
    return Problem(operator, y, Gaussian(0.1))


@pytest.mark.parametrize("method", [DDS(steps=4, eta=0.0), DDRM(steps=4, eta=0.0), DDNM(steps=4, eta=0.0)])
def test_methods_renoise_with_it(method):
    assert method.cfg_plus_plus
    problem, shape = inpainting(), (2, 1, 4, 4)

    def run(inner):
        return method.sample(inner, problem, None, SeededNoise(0, [0, 1]), shape).samples

    plus, plain, alone = (run(Guided(prior(), 2, w, mode)) for w, mode in ((1.0, "cfg++"), (1.0, "cfg"), (None, "cfg")))
    torch.testing.assert_close(plain, alone)
    unmeasured = (plus - plain)[:, :, :2]
    assert float(unmeasured.abs().max()) > 1e-3


def test_a_dds_step_is_the_formula():
    method = DDS(steps=2, eta=0.5, cg_iterations=1, gamma=0.0)
    sigmas = grid(method.grid, 2).tolist()
    x = image(7, 1) * sigmas[0]
    start, noise = torch.zeros(1, 1, 4, 4, dtype=torch.float64), Stream(x / sigmas[0])
    found = method.sample(Guided(prior(), 2, 0.6, "cfg++"), inpainting(), start, noise, (1, 1, 4, 4))
    for t, s in itertools.pairwise(sigmas):
        null, towards = exact(x, t, 0.5), exact(x, t, 2.0)
        guide = null + 0.6 * (towards - null)
        # gamma = 0: no correction by the data
        x = guide + s * (math.sqrt(0.75) * (x - null) / t + 0.5 * 0.3)
    torch.testing.assert_close(found.samples, guide, rtol=1e-6, atol=1e-6)


class Stream:
    """A first draw, then constants."""

    def __init__(self, first):
        self.first = first

    def normal(self, shape, dtype):
        drawn, self.first = self.first, torch.full(tuple(shape), 0.3, dtype=torch.float64)
        return drawn.to(dtype)
