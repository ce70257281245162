"""Self-attention of the UNet: zero start, the equation, weights without it unchanged."""

from __future__ import annotations

import torch

from recon.priors.base import PriorInfo
from recon.priors.edm import preconditioned
from recon.priors.networks.unet import Attention, UNet, UNetConfig
from recon.priors.store import load_prior, save_prior

SHAPE = {"channels": (8, 16), "blocks": (1, 2), "embedding": 16, "groups": 4}


def random_weights(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return module.eval()


def test_attention_is_the_published_equation_over_positions():
    layer = random_weights(Attention(8, heads=2, groups=4))
    x = torch.randn(2, 8, 3, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = layer(x)
        flat = layer.norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            torch.nn.functional.linear(flat, layer.qkv.weight[rows, :, 0, 0], layer.qkv.bias[rows])
            for rows in torch.arange(24).split(8)
        )
        heads = []
        for part in torch.arange(8).split(4):
            weights = (q[..., part] @ k[..., part].transpose(1, 2) / 4**0.5).softmax(-1)
            heads.append(weights @ v[..., part])
        joined = torch.cat(heads, dim=-1)
        expected = torch.nn.functional.linear(joined, layer.out.weight[:, :, 0, 0], layer.out.bias)
    torch.testing.assert_close(found, x + expected.transpose(1, 2).reshape(x.shape), rtol=1e-5, atol=1e-5)


def test_attention_starts_as_the_identity_and_reaches_all_positions():
    x = torch.randn(1, 16, 4, 4)
    assert torch.equal(Attention(16, 4, 4)(x), x)
    layer, moved = random_weights(Attention(16, 4, 4)), x.clone()
    moved[..., 0, 0] += torch.randn(16)
    assert (layer(moved) - layer(x))[..., 3, 3].abs().max() > 1e-4


def test_a_network_without_attention_has_the_names_it_had():
    plain, attentive = UNet(UNetConfig(**SHAPE)), UNet(UNetConfig(**SHAPE, attention=2))
    names, more = set(plain.state_dict()), set(attentive.state_dict())
    assert not [name for name in names if "attention" in name]
    added = more - names
    assert names < more and {name.split(".")[1] for name in added} == {"0", "1", "2", "3", "4"}


def test_attention_is_used_after_every_block_of_the_last_level_once():
    net = random_weights(UNet(UNetConfig(**SHAPE, attention=2)))
    calls: list[int] = []
    for index, layer in enumerate(net.attentions):
        layer.register_forward_hook(lambda m, i, o, k=index: calls.append(k))
    x, c = torch.randn(1, 1, 16, 16), torch.zeros(1)
    before = net(x, c)
    assert calls == [0, 1, 2, 3, 4]
    for layer in net.attentions:
        with torch.no_grad():
            kept = layer.out.weight.clone()
            layer.out.weight.zero_()
            assert not torch.allclose(net(x, c), before, rtol=1e-4)
            layer.out.weight.copy_(kept)


def test_attention_is_stored_with_the_network(tmp_path):
    config = UNetConfig(**SHAPE, attention=2)
    net = random_weights(UNet(config))
    save_prior(tmp_path / "a.safetensors", net.state_dict(), config, 0.5, PriorInfo("a", 1, multiple=4), torch.float32)
    x, sigma = torch.randn(1, 1, 8, 8), torch.tensor([0.7])
    with torch.no_grad():
        found, expected = load_prior(tmp_path / "a.safetensors")(x, 0.7).x0, preconditioned(net, x, sigma, 0.5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_the_function_twice():
    layer = random_weights(Attention(4, 2, 2)).double()
    x = torch.randn(1, 4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(layer, (x,))
