"""Backends of the network against torch itself: every network, any batch and size, wrappers, and what they refuse."""

from __future__ import annotations

import shutil
import warnings

import pytest
import torch
from torch import nn

from recon.errors import ConfigError, ResourceError
from recon.priors import backends
from recon.priors.backends import BACKENDS, WarmBackends, missing_packages, with_backend
from recon.priors.base import PriorInfo
from recon.priors.channels import ComplexPairs
from recon.priors.edm import EDMDenoiser
from recon.priors.gaussian import GaussianPrior
from recon.priors.guided import Guided
from recon.priors.networks.adm import ADM, ADMConfig
from recon.priors.networks.dhariwal import DhariwalConfig, DhariwalUNet
from recon.priors.networks.diffusers_unet import DiffusersConfig, DiffusersUNet
from recon.priors.networks.drunet import DRUNet, DRUNetConfig
from recon.priors.networks.ffdnet import FFDNet, FFDNetConfig
from recon.priors.networks.ncsnpp import NCSNpp, NCSNppConfig
from recon.priors.networks.song import SongConfig, SongUNet
from recon.priors.networks.unet import UNet, UNetConfig
from recon.priors.preconditioned import PreconditionedDenoiser
from recon.priors.tiled import Tiled

onnx = pytest.mark.skipif(bool(missing_packages("onnxruntime")), reason="onnx or onnxruntime is not installed")

NETWORKS = {
    "unet": lambda: UNet(UNetConfig(channels=(8, 16), blocks=(1, 1), embedding=16, groups=4)),
    "unet-attention": lambda: UNet(UNetConfig(1, (8, 16), (1, 1), 2, 16, 4, attention=2, padding="circular")),
    "adm": lambda: ADM(ADMConfig(1, 2, 8, (32,), heads=4)),
    "adm-classes": lambda: ADM(ADMConfig(1, 1, 8, (32,), heads=4, labels=3)),
    "song": lambda: SongUNet(SongConfig(8, 1, 1, 8, (1, 2), 1, (4,))),
    "dhariwal-classes": lambda: DhariwalUNet(DhariwalConfig(8, 1, 1, 64, (1, 1), 1, labels=3)),
    "ncsnpp": lambda: NCSNpp(NCSNppConfig(1, 8, (1, 2), 1, (1,))),
    "diffusers": lambda: DiffusersUNet(DiffusersConfig(1, 1, (8, 8), 1, groups=4, middle_groups=4)),
    "ffdnet": lambda: FFDNet(FFDNetConfig(1, 8, 3)),
    "drunet": lambda: DRUNet(DRUNetConfig(1, (4, 8), 1)),
}

KINDS = {"ncsnpp": "score-ve", "ffdnet": "direct", "drunet": "direct"}


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make()
        for p in network.parameters():
            nn.init.normal_(p, std=0.2)
    return network


def prior(name, channels=1, **facts):
    network = seeded(NETWORKS[name]) if isinstance(name, str) else seeded(name)
    info = PriorInfo("tiny", channels, multiple=getattr(network.config, "multiple", 1), sigma_max=50.0, **facts)
    if isinstance(network, UNet):
        return EDMDenoiser(network, info)
    return PreconditionedDenoiser(network, info, KINDS.get(name, "vp-table"))


def image(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@onnx
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_at_any_batch_and_size(name):
    eager = prior(name)
    fast, before = with_backend(eager, "onnxruntime", 1), torch.get_rng_state()
    for batch, height, width in ((1, 16, 16), (3, 24, 8), (2, 15, 21), (1, 40, 32)):
        x, sigma = image(batch, 1, height, width), torch.linspace(0.05, 9.0, batch)
        cond = torch.arange(batch) % 3 if getattr(eager, "labels", 0) else None
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("error")
            found, expected = fast(x, sigma, cond), eager(x, sigma, cond)
        assert error(found.x0, expected.x0) < 1e-4
        # the difference is rounding: the network itself was asked, not a copy of its output
        if expected.variance_mix is not None:
            assert error(found.variance_mix, expected.variance_mix) < 1e-4
    assert torch.equal(torch.get_rng_state(), before)


@onnx
def test_the_same_call_gives_the_same_bits_and_chunks_agree():
    fast, x = with_backend(prior("unet"), "onnxruntime", 1), image(4, 1, 16, 24)
    with torch.no_grad():
        whole = fast(x, 0.7).x0
        assert torch.equal(with_backend(prior("unet"), "onnxruntime", 1)(x, 0.7).x0, whole)
        for k in range(4):
            torch.testing.assert_close(fast(x[k : k + 1], 0.7).x0, whole[k : k + 1], rtol=1e-4, atol=1e-5)


@onnx
def test_a_network_that_can_do_without_a_class_is_asked_both_ways():
    eager = prior("dhariwal-classes")
    fast, x = with_backend(eager, "onnxruntime", 1), image(2, 1, 16, 16)
    for cond in (None, torch.tensor([2, 0])):
        assert error(fast(x, 0.7, cond).x0, eager(x, 0.7, cond).x0) < 1e-4
    assert error(fast(x, 0.7).x0, eager(x, 0.7, torch.tensor([2, 0])).x0) > 1e-3


@onnx
def test_wrappers_keep_what_they_are():
    guided = Tiled(Guided(prior("dhariwal-classes"), 1, 0.6, "cfg++"), 8, 4)
    fast, x = with_backend(guided, "onnxruntime", 1), image(1, 1, 12, 20)
    assert isinstance(fast, Tiled) and isinstance(fast.inner, Guided)
    for part in ("x0", "x0_uncond"):
        assert error(getattr(fast(x, 0.7), part), getattr(guided(x, 0.7), part)) < 1e-4
    pairs = ComplexPairs(prior(lambda: UNet(UNetConfig(2, (8, 16), (1, 1), 2, 16, 4)), 2, complex_channels=True))
    z = torch.complex(x, image(1, 1, 12, 20, seed=1))
    assert error(with_backend(pairs, "onnxruntime", 1)(z, 0.7).x0, pairs(z, 0.7).x0) < 1e-4


@onnx
def test_gradients_are_refused_not_left_out():
    fast, x = with_backend(prior("unet"), "onnxruntime", 1), image(1, 1, 8, 8).requires_grad_()
    with pytest.raises(ConfigError, match="gives no gradients"):
        fast(x, 0.7)
    with torch.no_grad():
        assert torch.isfinite(fast(x, 0.7).x0).all()


class Sized(nn.Module):
    """A network that does another thing on small images, which a graph cannot know."""

    config = UNetConfig()

    def forward(self, x, c):
        return x * (2 if x.shape[-1] > 4 else 1) + c[:, None, None, None]


class Odd(nn.Module):
    """A network of something that no graph has."""

    config = UNetConfig()

    def forward(self, x, c):
        return torch.linalg.svdvals(x).sum() + x + c[:, None, None, None]


@onnx
@pytest.mark.parametrize(("network", "message"), [(Sized, "differs from the network by"), (Odd, "cannot be exported")])
def test_a_graph_that_is_not_the_network_is_told_in_one_line(network, message, capfd):
    fast = with_backend(EDMDenoiser(network(), PriorInfo("odd", 1)), "onnxruntime", 1)
    with pytest.raises(ResourceError, match=message) as caught:
        fast(image(1, 1, 8, 8), 0.7)
    assert "\n" not in caught.value.message and "run.backend=eager" in str(caught.value.hint)
    assert capfd.readouterr().out == ""


@onnx
def test_weights_that_no_graph_can_hold_are_refused(monkeypatch):
    from recon.priors import onnx_network

    monkeypatch.setattr(onnx_network, "MAX_BYTES", 1000)
    with pytest.raises(ResourceError, match="more than a graph can hold"):
        with_backend(prior("unet"), "onnxruntime", 1)(image(1, 1, 8, 8), 0.7)


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda name: None if name == "onnx" else object())
    assert missing_packages("onnxruntime") == ["onnx"] and missing_packages("eager") == []
    with pytest.raises(ResourceError, match="needs onnx") as caught:
        with_backend(prior("unet"), "onnxruntime", 1)
    assert "pip install 'diffusion-recon[onnx]'" in str(caught.value.hint)


def test_eager_is_the_prior_itself_and_unknown_ones_are_refused():
    eager = prior("unet")
    assert with_backend(eager, "eager", 1) is eager
    with pytest.raises(ConfigError, match="unknown backend 'tensorrt'"):
        with_backend(eager, "tensorrt", 1)
    with pytest.raises(ConfigError, match="has no network"):
        with_backend(GaussianPrior(torch.ones(1, 4, 4)), "compile", 1)
    assert BACKENDS == ("eager", "compile", "onnxruntime")


def test_a_compiler_that_fails_is_told_in_one_line(monkeypatch):
    from torch._inductor.exc import InductorError

    def broken(network, options):
        def call(*inputs):
            raise InductorError(RuntimeError("no working C++ compiler\nand more"), None)

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ResourceError, match="no working C\\+\\+ compiler") as caught:
        with_backend(prior("unet"), "compile", 1)(image(1, 1, 8, 8), 0.7)
    assert "\n" not in caught.value.message


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_the_compiled_network_is_the_network_and_has_gradients():
    eager, x = prior("ffdnet"), image(1, 1, 16, 16)
    fast = with_backend(eager, "compile", 1)
    with torch.no_grad():
        assert error(fast(x, 0.7).x0, eager(x, 0.7).x0) < 1e-4
    slopes = []
    for one in (fast, eager):
        leaf = x.clone().requires_grad_()
        slopes.append(torch.autograd.grad(one(leaf, 0.7).x0.square().sum(), leaf)[0])
    assert error(*slopes) < 1e-4


@onnx
def test_warm_backends_export_a_network_once_for_all_wrappers_of_it(monkeypatch):
    from recon.priors import onnx_network

    made, export = [], onnx_network.exported
    monkeypatch.setattr(onnx_network, "exported", lambda *args: made.append(args) or export(*args))
    warm, eager, x = WarmBackends(), prior("unet"), image(1, 1, 16, 16)
    first, second = warm(eager, "onnxruntime", 1), warm(Tiled(eager, 8, 4), "onnxruntime", 1)
    found = first(x, 0.7).x0
    second(x, 0.7)
    assert len(made) == 1
    assert torch.equal(found, with_backend(eager, "onnxruntime", 1)(x, 0.7).x0)
    assert warm(eager, "eager", 1) is eager
