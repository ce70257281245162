"""Priors made symmetric: closed forms, which element a level gets, and what is left of the images."""

from __future__ import annotations

import itertools

import pytest
import torch

from recon.errors import ConfigError
from recon.priors.base import Denoiser, Prediction, PriorInfo, per_item
from recon.priors.gaussian import GaussianPrior
from recon.priors.symmetric import GROUPS, Symmetric, trained_symmetry


def image(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turned(x):
    """The eight images that mirroring and turning make of a square one."""
    return [torch.rot90(y, k, (-2, -1)) for y in (x, x.flip(-1)) for k in range(4)]


class Ramp(Denoiser):
    """x0 = x ramp/(1 + sigma), with a ramp (Y, X) that no element but the identity keeps."""

    def __init__(self, extras=False):
        self.info, self.extras, self.seen = PriorInfo("ramp", 1), extras, []

    def ramp(self, x):
        rows, columns = (torch.arange(n, dtype=x.dtype) for n in x.shape[-2:])
        return 1 + rows[:, None] + 10 * columns[None, :]

    def _denoise(self, x, sigma, cond):
        self.seen.append((x, cond))
        x0 = x * self.ramp(x) / (1 + per_item(sigma, x))
        return Prediction(x0, x0 + 1, 2 * x0) if self.extras else Prediction(x0)


@pytest.mark.parametrize("extras", [False, True])
def test_the_mean_over_all_elements(extras):
    inner, x = Ramp(extras), image(2, 1, 4, 4)
    found = Symmetric(inner, "dihedral", "all")(x, 1.0)
    ramp = torch.stack(turned(inner.ramp(x))).mean(0)
    torch.testing.assert_close(found.x0, x * ramp / 2)
    assert len(inner.seen) == 8
    if extras:
        torch.testing.assert_close(found.variance_mix, x * ramp / 2 + 1)
        torch.testing.assert_close(found.x0_uncond, x * ramp)
    else:
        assert found.variance_mix is None and found.x0_uncond is None
    mirrored = Symmetric(inner, "mirror", "all")(x, 1.0).x0
    torch.testing.assert_close(mirrored, x * (inner.ramp(x) + inner.ramp(x).flip(-1)) / 4)


@pytest.mark.parametrize(("group", "count"), [("mirror", 2), ("dihedral", 8)])
def test_one_element_for_each_level_and_all_of_them_over_many(group, count):
    inner, x = Ramp(), torch.ones(1, 1, 5, 5, dtype=torch.float64)
    prior = Symmetric(inner, group)
    possible = [inner.ramp(x), inner.ramp(x).flip(-1)] if group == "mirror" else turned(inner.ramp(x))
    hits = torch.zeros(count)
    levels = torch.logspace(-2, 2, 400)
    for level in levels:
        found = (prior(x, level).x0 * (1 + level))[0, 0]
        match = [torch.allclose(found, each) for each in possible]
        assert sum(match) == 1
        hits[match.index(True)] += 1
    assert len(inner.seen) == len(levels)
    # 400 draws: five standard deviations about the mean
    assert (hits / 400 - 1 / count).abs().max() < 5 * (1 / count / 400) ** 0.5


def test_items_of_a_batch_get_what_their_own_level_gives():
    prior, x, levels = Symmetric(Ramp(), "dihedral"), image(6, 1, 4, 4), torch.logspace(-1, 1, 6, dtype=torch.float64)
    together = prior(x, levels).x0
    for i, level in enumerate(levels):
        assert torch.equal(together[i : i + 1], prior(x[i : i + 1], level).x0)


@pytest.mark.parametrize("calls", ["one", "all"])
def test_a_prior_with_the_symmetry_is_left_as_it_is(calls):
    k = torch.fft.fftfreq(8, dtype=torch.float64)
    inner = GaussianPrior(1 / (0.01 + k[:, None] ** 2 + k[None, :] ** 2)[None], mean=0.3)
    x = image(2, 1, 8, 8)
    for level in (0.1, 0.5, 2.0):
        torch.testing.assert_close(Symmetric(inner, "dihedral", calls)(x, level).x0, inner(x, level).x0)


def test_images_that_are_not_square_keep_their_sides():
    inner, x = Ramp(), image(1, 1, 4, 6)
    prior = Symmetric(inner, "dihedral", "all")
    ramp = inner.ramp(x)
    mean = torch.stack([ramp, ramp.flip(-1), ramp.flip(-2), ramp.flip((-1, -2))]).mean(0)
    torch.testing.assert_close(prior(x, 1.0).x0, x * mean / 2)
    assert {tuple(seen.shape) for seen, _ in inner.seen} == {(1, 1, 4, 6)}


def test_the_average_is_nearer_to_the_exact_mean_than_what_it_averages():
    class Flawed(Denoiser):
        """The exact mean of N(0, 1) images, and an error that depends on the place."""

        info = PriorInfo("flawed", 1)

        def _denoise(self, x, sigma, cond):
            return Prediction(x / (1 + per_item(sigma, x) ** 2) + 0.1 * Ramp().ramp(x) / 60)

    x = image(1, 1, 6, 6)
    error = {
        calls: (prior(x, 1.0).x0 - x / 2).square().mean()
        for calls, prior in (("none", Flawed()), ("all", Symmetric(Flawed(), "dihedral", "all")))
    }
    assert error["all"] < 0.8 * error["none"]


def test_derivatives_are_those_of_the_moved_denoiser():
    prior, x = Symmetric(Ramp(), "dihedral"), image(1, 1, 4, 4).requires_grad_()
    (found,) = torch.autograd.grad(prior(x, 0.3).x0.sum(), x)
    torch.testing.assert_close(found, prior(torch.ones_like(x), 0.3).x0)
    value, tangent = torch.func.jvp(lambda z: prior(z, 0.3).x0, (x.detach(),), (image(1, 1, 4, 4, seed=1),))
    torch.testing.assert_close(value, prior(x, 0.3).x0)
    torch.testing.assert_close(tangent, prior(image(1, 1, 4, 4, seed=1), 0.3).x0)


def test_conditions_pass_through_and_it_can_be_put_around_another_prior():
    inner = Ramp()
    prior = Symmetric(inner, "mirror", "all")
    label = torch.tensor([3])
    prior(image(1, 1, 4, 4), 1.0, label)
    assert all(cond is label for _, cond in inner.seen)
    other = prior.around(Ramp())
    assert isinstance(other, Symmetric) and (other.group, other.calls) == ("mirror", "all")


def test_unknown_groups_are_refused():
    for group, calls in (("turned", "one"), ("none", "one"), ("mirror", "two")):
        with pytest.raises(ConfigError, match="unknown symmetry"):
            Symmetric(Ramp(), group, calls)


def test_the_group_of_older_weights_follows_from_their_data():
    def trained(**data):
        return trained_symmetry({"training": {"data": data}})

    assert trained(kind="images") == trained(kind="phantoms") == trained() == "dihedral"
    assert trained(kind="idx") == trained(kind="vorticity") == trained(kind=["images"]) == "none"
    assert trained_symmetry(None) == trained_symmetry({}) == trained_symmetry({"training": "photo"}) == "none"
    assert set(GROUPS) == {"mirror", "dihedral"}


def test_the_shipped_priors_say_what_they_were_trained_on():
    from recon.priors.catalog import describe_prior, prior_path, shipped_priors
    from recon.priors.open import open_prior

    found = {name: open_prior(prior_path(name)).info.symmetry for name in shipped_priors()}
    assert {name: describe_prior(name)["symmetry"] for name in found} == found
    assert found == dict(zip(["brain-mri", "phantom-ct", "photo"], itertools.repeat("dihedral"))) | {
        "fashion32": "none",
        "vorticity": "none",
    }
