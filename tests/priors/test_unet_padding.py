"""Padding of the UNet: circular commutes with shifts of periodic images, zeros stay the default."""

from __future__ import annotations

import pytest
import torch

from recon.errors import ConfigError
from recon.priors.networks.unet import UNet, UNetConfig


def network(padding: str) -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = UNet(UNetConfig(channels=(8, 16), blocks=(1, 1), embedding=16, groups=4, padding=padding))  # type: ignore[arg-type]
        for weight in net.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    return net


def shift_error(net: UNet) -> float:
    x = torch.randn(1, 1, 24, 16, generator=torch.Generator().manual_seed(1))
    c = torch.zeros(1)
    with torch.inference_mode():
        plain = net(x, c)
        return float((net(x.roll((8, 4), (2, 3)), c).roll((-8, -4), (2, 3)) - plain).abs().max() / plain.abs().max())


def test_circular_padding_commutes_with_shifts_and_zeros_do_not():
    assert shift_error(network("circular")) < 1e-5
    assert shift_error(network("zeros")) > 1e-2


def test_padding_changes_no_weight_and_only_the_edges():
    zeros, circular = network("zeros"), network("circular")
    assert list(zeros.state_dict()) == list(circular.state_dict())
    x = torch.zeros(1, 1, 160, 160)
    x[..., 80, 80] = 1.0
    c = torch.zeros(1)
    with torch.inference_mode():
        for net in (zeros, circular):
            for module in net.modules():
                if isinstance(module, torch.nn.GroupNorm):
                    # a normalisation by the whole image would carry the edges inwards
                    module.forward = lambda h: h  # type: ignore[method-assign]
        a, b = zeros(x, c), circular(x, c)
    assert float((a - b)[..., 78:82, 78:82].abs().max()) < 1e-6
    assert float((a - b).abs().max()) > 1e-3


def test_default_is_zeros_and_other_paddings_are_refused():
    assert UNetConfig().padding == "zeros"
    with pytest.raises(ConfigError, match="mirror"):
        UNetConfig(padding="mirror")  # type: ignore[arg-type]
