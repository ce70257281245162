"""The network, its preconditioning, padding, and the weight file."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from recon.errors import ConfigError, InputError
from recon.priors.base import PriorInfo
from recon.priors.catalog import prior_path, shipped_priors
from recon.priors.edm import EDMDenoiser, preconditioned
from recon.priors.networks.unet import UNet, UNetConfig
from recon.priors.store import load_prior, read_config, save_prior

TINY = UNetConfig(channels=(8, 16), blocks=(1, 2), embedding=16, groups=4)

# kinds of training data that are made, not collected
GENERATED = ("phantoms", "vorticity")


def network(config: UNetConfig = TINY, seed: int = 0) -> UNet:
    """A UNet with all weights random, so that no output is zero by initialisation."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = UNet(config)
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.1)
    return net.eval()


def denoiser(**changes: object) -> EDMDenoiser:
    return EDMDenoiser(network(), PriorInfo("tiny", 1, multiple=TINY.multiple, **changes))


def test_preconditioning_is_that_of_edm():
    net, x, s = network(), torch.randn(2, 1, 8, 8), torch.tensor([0.3, 5.0])
    with torch.no_grad():
        for i in range(2):
            sigma, sd = float(s[i]), 0.5
            norm = (sigma**2 + sd**2) ** 0.5
            f = net(x[i : i + 1] / norm, torch.log(s[i : i + 1]) / 4)
            expected = sd**2 / norm**2 * x[i : i + 1] + sigma * sd / norm * f
            found = preconditioned(net, x, s, sd)[i : i + 1]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_untrained_network_is_the_wiener_filter():
    prior = EDMDenoiser(UNet(TINY), PriorInfo("zero", 1, multiple=4))
    x = torch.randn(1, 1, 8, 8)
    torch.testing.assert_close(prior(x, 0.5).x0, 0.5 * x)


@pytest.mark.parametrize("size", [(8, 12), (9, 11), (5, 16), (31, 3)])
def test_any_size_is_padded_and_cropped_back(size):
    prior, x = denoiser(), torch.randn(2, 1, *size)
    out = prior(x, 0.7).x0
    assert out.shape == x.shape
    extra = [-n % 4 for n in size]
    padded = torch.nn.functional.pad(
        x, (extra[1] // 2, extra[1] - extra[1] // 2, extra[0] // 2, extra[0] - extra[0] // 2), mode="reflect"
    )
    whole = prior(padded, 0.7).x0
    top, left = extra[0] // 2, extra[1] // 2
    torch.testing.assert_close(out, whole[..., top : top + size[0], left : left + size[1]])


def test_too_small_images_and_other_channels_are_refused():
    with pytest.raises(ConfigError, match="pixels a side"):
        denoiser()(torch.randn(1, 1, 1, 9), 1.0)
    with pytest.raises(ConfigError, match="1 channel"):
        denoiser()(torch.randn(1, 3, 8, 8), 1.0)


def test_a_level_above_sigma_max_is_evaluated_there_on_the_rescaled_input():
    prior, x = denoiser(sigma_max=10.0), 40 * torch.randn(1, 1, 8, 8)
    torch.testing.assert_close(prior(x, 40.0).x0, prior(x / 4, 10.0).x0)
    inside = prior(x, 9.0).x0
    torch.testing.assert_close(inside, preconditioned(prior.network, x, torch.tensor([9.0]), 0.5))


def test_levels_differ_per_item_and_items_are_independent():
    prior, x = denoiser(), torch.randn(3, 1, 8, 8)
    levels = torch.tensor([0.1, 1.0, 7.0])
    batch = prior(x, levels).x0
    for i in range(3):
        torch.testing.assert_close(batch[i : i + 1], prior(x[i : i + 1], float(levels[i])).x0, rtol=1e-4, atol=1e-5)


def test_the_denoiser_is_differentiable_in_its_input():
    x = torch.randn(1, 1, 9, 8, dtype=torch.float64, requires_grad=True)
    prior = EDMDenoiser(network().double(), PriorInfo("tiny", 1, multiple=4))
    assert torch.autograd.gradcheck(lambda v: prior(v, 0.8).x0[..., ::3, ::3], (x,), eps=1e-5, atol=1e-4)


def test_network_refuses_no_size_that_divides_and_uses_every_weight():
    net = network()
    out = net(torch.randn(1, 1, 12, 20), torch.zeros(1))
    assert out.shape == (1, 1, 12, 20)
    net.train().requires_grad_(True)
    net(torch.randn(1, 1, 8, 8), torch.zeros(1)).square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in net.parameters())


def test_weight_file_round_trip(tmp_path):
    net, info = network(), PriorInfo("tiny", 1, multiple=4, sigma_max=33.0, provenance={"data": ["a"]})
    path = tmp_path / "w.safetensors"
    save_prior(path, net.state_dict(), TINY, 0.4, info, torch.float32)
    loaded = load_prior(path)
    assert loaded.info == info and loaded.sigma_data == 0.4
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(loaded(x, 0.3).x0, EDMDenoiser(net, info, 0.4)(x, 0.3).x0)


def test_files_that_are_not_ours_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"no tensors here")
    with pytest.raises(InputError, match=r"w\.safetensors"):
        load_prior(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="recon-prior/1"):
        load_prior(path)
    # a header that claims to be larger than the file
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(InputError):
        read_config(path)


@pytest.mark.parametrize("damage", ["missing", "shape", "config", "json"])
def test_weights_that_do_not_fit_their_configuration_are_refused(tmp_path, damage):
    net, path = network(), tmp_path / "w.safetensors"
    save_prior(path, net.state_dict(), TINY, 0.5, PriorInfo("tiny", 1, multiple=4), torch.float32)
    config = read_config(path)
    weights = dict(net.state_dict())
    text = json.dumps(config)
    if damage == "missing":
        weights.pop("conv_in.weight")
    elif damage == "shape":
        weights["conv_in.weight"] = torch.zeros(3, 3)
    elif damage == "config":
        text = json.dumps(config | {"unet": config["unet"] | {"depth": 3}})
    else:
        text = "{"
    save_file(weights, path, metadata={"format": "recon-prior/1", "config": text})
    with pytest.raises((ConfigError, InputError)) as caught:
        load_prior(path)
    assert "\n" not in caught.value.message


def test_shipped_priors_denoise():
    assert "brain-mri" in shipped_priors()
    for name in shipped_priors():
        path = prior_path(name)
        assert path.stat().st_size <= 12 * 2**20
        prior = load_prior(path)
        assert prior.info.name == name
        provenance = prior.info.provenance
        assert all(d["licence"] and d["sha256"] for d in provenance["data"])
        assert provenance["data"] or provenance["training"]["data"]["kind"] in GENERATED
        # a smooth blob in the value range; and smooth waves, for a prior of periodic fields whose mean is 0
        y, x = torch.meshgrid(torch.linspace(-2, 2, 64), torch.linspace(-2, 2, 64), indexing="ij")
        turn = torch.arange(64) * 2 * torch.pi / 64
        pictures = [turn.sin()[:, None] * turn.cos()]
        if prior.network.config.padding != "circular":
            pictures.append(2 * torch.exp(-(x**2) - y**2) - 1)
        for picture in pictures:
            clean = picture.expand(1, prior.info.channels, 64, 64)
            noisy = clean + 0.2 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
            error = float((prior(noisy, 0.2).x0 - clean).square().mean())
            assert error < 0.25 * 0.2**2
