"""No sampler reads a value off the device in its steps, nor asks the network twice for the same answer."""

from dataclasses import fields

import pytest
import torch
from sampler_doubles import Convolutional
from torch.utils._python_dispatch import TorchDispatchMode

from recon.data import Problem
from recon.likelihoods import Gaussian
from recon.operators.inpaint import Inpaint
from recon.priors.base import Denoiser, Prediction, PriorInfo, per_item
from recon.runs.methods import SAMPLERS, make_method, method_class, missing_needs
from recon.samplers.base import SeededNoise
from recon.samplers.guard import CHECK_EVERY

SHAPE = (1, 4, 4)
FEW, MANY = 30, 80

# the setting that is a method's number of steps: the first of these that it has
STEPS = ("steps", "levels", "iterations")
# settings that keep a method small here, where it has them
SMALL = {"adapt_steps": 2, "inner_steps": 3, "prior_steps": 5, "ode_steps": 2, "particles": 8, "draws": 2, "queries": 4}
# looks per step that a method's algorithm needs, and why
ALLOWED: dict[str, tuple[float, str]] = {
    "reddiff": (2, "torch.optim.Adam reads its own step count, which it keeps on the CPU"),
}

WAITING = {
    torch.ops.aten._local_scalar_dense.default,  # item, float(), bool(), int(), a tensor as a Python number
    torch.ops.aten.equal.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten._unique2.default,
}


class Looks(TorchDispatchMode):
    """Counts the operations after which a program has waited for its device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in WAITING
        return func(*args, **(kwargs or {}))


class Shrink(Denoiser):
    """The denoiser of N(0, I), which remembers what it was asked."""

    info = PriorInfo(name="shrink", channels=1)

    def __init__(self):
        self.asked = []

    def _denoise(self, x, sigma, cond):
        self.asked.append((x.detach().clone(), sigma.clone()))
        return Prediction(x / (1 + per_item(sigma, x) ** 2))


def looks(monkeypatch, act):
    """Return how often `act` reads values off a tensor."""
    counter, read = Looks(), []
    with monkeypatch.context() as patched:
        for name in ("tolist", "numpy", "cpu"):
            original = getattr(torch.Tensor, name)

            def spied(self, *args, _original=original, **kwargs):
                read.append(1)
                return _original(self, *args, **kwargs)

            patched.setattr(torch.Tensor, name, spied)
        with counter:
            act()
    return counter.count + len(read)


def run(name, steps, operator, y):
    names = [f.name for f in fields(method_class(name))]
    counted = next(field for field in STEPS if field in names)
    method = make_method(name, {k: v for k, v in SMALL.items() if k in names} | {counted: steps})
    noise, prior = SeededNoise(0, [0, 1]), Convolutional(1) if method.trains_prior else Shrink()
    result = method.sample(prior, Problem(operator, y, Gaussian(0.1)), None, noise, (2, *SHAPE))
    return method, prior.asked, result


def masked():
    """Half of the pixels of an image, and their values."""
    mask = (torch.rand(4, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    operator = Inpaint(SHAPE, mask)
    return operator, operator.forward(torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_looks_do_not_grow_with_the_steps(name, monkeypatch):
    operator, y = masked()
    assert missing_needs(method_class(name), operator) == []
    few, many = (looks(monkeypatch, lambda n=n: run(name, n, operator, y)) for n in (FEW, MANY))
    # the guard against non-finite values looks at every 25th step, and once at the end
    guard = MANY // CHECK_EVERY - FEW // CHECK_EVERY
    assert many - few <= guard + ALLOWED.get(name, (0, ""))[0] * (MANY - FEW)


@pytest.mark.parametrize("name", SAMPLERS)
def test_network_evaluations_are_counted_and_none_is_repeated(name):
    method, asked, result = run(name, FEW, *masked())
    evaluations = sum(x.shape[0] for x, _ in asked) / 2
    assert evaluations == result.stats.nfe + result.stats.shared == method.network_calls
    if method.trains_prior:  # another network is asked each time
        return
    for (x, sigma), (before, level) in zip(asked[1:], asked, strict=False):
        assert x.shape != before.shape or not (torch.equal(x, before) and torch.equal(sigma, level))


@pytest.mark.parametrize(
    "look",
    [
        lambda t: t.item(),
        float,
        bool,
        int,
        range,
        lambda t: t.tolist(),
        lambda t: t.numpy(),
        lambda t: torch.equal(t, t),
        lambda t: t.reshape(1).nonzero(),
        lambda t: torch.zeros(1).add(t, alpha=t),
    ],
)
def test_every_look_is_counted(look, monkeypatch):
    one = torch.ones((), dtype=torch.int64)
    assert looks(monkeypatch, lambda: look(one)) >= 1
    assert looks(monkeypatch, lambda: one + one) == 0
