"""Adapters: the prior itself at first, trained without touching the base, merged, stored and refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from recon.errors import ConfigError, InputError
from recon.priors.adapter_file import dump_adapters, load_adapters
from recon.priors.adapters import Adapted, AdapterSettings
from recon.priors.base import PriorInfo
from recon.priors.channels import PerChannel
from recon.priors.edm import EDMDenoiser
from recon.priors.gaussian import GaussianPrior
from recon.priors.lora import LoRA
from recon.priors.networks.adm import ADM, ADMConfig
from recon.priors.networks.dhariwal import DhariwalConfig, DhariwalUNet
from recon.priors.networks.diffusers_unet import DiffusersConfig, DiffusersUNet
from recon.priors.networks.drunet import DRUNet, DRUNetConfig
from recon.priors.networks.ffdnet import FFDNet, FFDNetConfig
from recon.priors.networks.ncsnpp import NCSNpp, NCSNppConfig
from recon.priors.networks.song import SongConfig, SongUNet
from recon.priors.networks.unet import UNet, UNetConfig
from recon.priors.preconditioned import PreconditionedDenoiser
from recon.priors.store import dump_prior, load_prior
from recon.priors.tiled import Tiled

NETWORKS = {
    "unet": lambda: UNet(UNetConfig(channels=(8, 16), blocks=(1, 1), embedding=16, groups=4, attention=1)),
    "adm": lambda: ADM(ADMConfig(1, 1, 8, (32,), heads=4)),
    "song": lambda: SongUNet(SongConfig(8, 1, 1, 8, (1, 2), 1, (4,))),
    "dhariwal": lambda: DhariwalUNet(DhariwalConfig(8, 1, 1, 64, (1,), 1)),
    "ncsnpp": lambda: NCSNpp(NCSNppConfig(1, 8, (1, 2), 1, (1,))),
    "diffusers": lambda: DiffusersUNet(DiffusersConfig(1, 1, (8, 8), 1, groups=4, middle_groups=4)),
    "ffdnet": lambda: FFDNet(FFDNetConfig(1, 8, 3)),
    "drunet": lambda: DRUNet(DRUNetConfig(1, (4, 8), 1)),
}


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = make()
        for p in network.parameters():
            nn.init.normal_(p, std=0.2)
    return network


def prior(name="unet"):
    network = seeded(NETWORKS[name])
    info = PriorInfo(name, 1, multiple=network.config.multiple, sigma_max=50.0)
    if name == "unet":
        return EDMDenoiser(network, info)
    return PreconditionedDenoiser(network, info, "score-ve" if name == "ncsnpp" else "vp")


def adapted(base, seed=1, **settings):
    return LoRA(base, AdapterSettings(**settings), torch.Generator().manual_seed(seed))


def image(batch=2):
    return torch.randn(batch, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def disturbed(lora):
    """Return the same prior with random values of what is trained."""
    g = torch.Generator().manual_seed(3)
    return lora.with_state({k: v + 0.1 * torch.randn(v.shape, generator=g) for k, v in lora.state().items()})


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_the_prior_at_first_and_another_once_trained(name):
    base = prior(name)
    lora = adapted(base, biases=True)
    x = image()
    expected = base(x, 0.7).x0
    assert torch.equal(lora(x, 0.7).x0, expected) and lora.info == base.info
    assert not torch.allclose(disturbed(lora)(x, 0.7).x0, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(disturbed(lora).merged()(x, 0.7).x0, disturbed(lora)(x, 0.7).x0, rtol=1e-3, atol=1e-4)
    assert torch.equal(base(x, 0.7).x0, expected)


def test_merging_leaves_everything_trainable():
    lora = adapted(prior(), biases=True)
    names = list(lora.state())
    merged = lora.merged()
    assert list(lora.state()) == names and any(name.endswith("bias") for name in names)
    assert not any(p.requires_grad for p in merged.network.parameters())


def test_layers_are_the_literal_form():
    g = torch.Generator().manual_seed(0)
    settings = AdapterSettings(rank=2, scale=0.5)
    cases = [
        (nn.Linear(6, 5), torch.randn(3, 6)),
        (nn.Conv1d(4, 5, 3, padding=1), torch.randn(2, 4, 9)),
        (nn.Conv2d(4, 5, 3, stride=2, padding=1), torch.randn(2, 4, 8, 8)),
        (nn.Conv2d(4, 5, 3, padding=1, padding_mode="circular"), torch.randn(2, 4, 8, 8)),
    ]
    for layer, x in cases:
        made = Adapted(layer, settings, g)
        made.up.data.normal_(generator=g)
        if isinstance(layer, nn.Linear):
            expected = layer(x) + 0.5 * x @ made.down.T @ made.up.T
        else:
            # down has the layer's own kernel, stride and padding; up is a 1x1 convolution
            down = type(layer)(layer.in_channels, 2, 3, layer.stride, 1, bias=False, padding_mode=layer.padding_mode)
            up = type(layer)(2, 5, 1, bias=False)
            down.weight.data, up.weight.data = made.down.data, made.up.data.reshape(up.weight.shape)
            expected = layer(x) + 0.5 * up(down(x))
        torch.testing.assert_close(made(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(made.merged()(x), expected, rtol=1e-5, atol=1e-5)


def test_the_first_values_are_the_published_ones():
    made = Adapted(nn.Conv2d(200, 50, 3), AdapterSettings(rank=4), torch.Generator().manual_seed(0))
    assert made.down.shape == (4, 200, 3, 3) and float(made.down.detach().std()) == pytest.approx(1 / 4, rel=0.03)
    assert made.up.shape == (50, 4) and not made.up.any()
    # the rank is lowered to a layer's channels
    assert Adapted(nn.Linear(2, 9), AdapterSettings(rank=4), torch.Generator().manual_seed(0)).down.shape == (2, 2)


def test_training_moves_the_adapters_and_nothing_else():
    base = prior()
    before = {key: value.clone() for key, value in base.network.state_dict().items()}
    lora, x = adapted(base, rank=2, biases=True), image(1)
    target = torch.zeros_like(x)
    optimiser = torch.optim.AdamW(lora.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = F.mse_loss(lora(x, 0.5).x0, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(value, before[key]) for key, value in base.network.state_dict().items())
    assert all(not p.requires_grad and p.grad is None for p in base.network.parameters())
    # two of one base know nothing of each other
    assert torch.equal(adapted(base)(x, 0.5).x0, base(x, 0.5).x0)


def test_what_is_trained():
    lora = adapted(prior("adm"), biases=False, layers="qkv|proj_out")
    names = set(lora.state())
    assert names and all("qkv" in n or "proj_out" in n for n in names)
    assert {n.rpartition(".")[2] for n in names} == {"down", "up"}
    names = set(adapted(prior("adm"), biases=True).state())
    biases = {n for n in names if n.endswith("bias")}
    assert any(n.startswith("out.0") for n in biases) and not any("emb" in n for n in biases)
    assert len(adapted(prior("adm")).parameters()) == len([n for n in names if not n.endswith("bias")])
    with pytest.raises(ConfigError, match="no layer whose name contains 'nothing'"):
        adapted(prior(), layers="nothing")


def test_only_the_weights_that_are_trained_take_memory():
    base = prior()
    lora = adapted(base)
    shared = {p.data_ptr() for p in base.network.parameters()}
    assert {p.data_ptr() for p in lora.network.parameters() if not p.requires_grad} <= shared


def test_states_are_copies():
    lora = adapted(prior())
    other, x = disturbed(lora), image(1)
    again = lora.with_state(other.state())
    assert torch.equal(again(x, 0.3).x0, other(x, 0.3).x0)
    state = lora.state()
    state[next(iter(state))].add_(1.0)
    again.parameters()[0].data.add_(1.0)
    assert torch.equal(lora(x, 0.3).x0, prior()(x, 0.3).x0)
    with pytest.raises(ConfigError, match=r"do not fit prior 'unet': .*, and 0 more"):
        lora.with_state({key: value for key, value in state.items() if key != next(iter(state))})


def test_dropout_draws_from_its_generator_alone():
    lora, x = disturbed(adapted(prior(), dropout=0.5)), image(1)
    plain, before = lora(x, 0.3).x0, torch.get_rng_state()
    one, other = (lora.with_dropout(torch.Generator().manual_seed(7))(x, 0.3).x0 for _ in range(2))
    assert torch.equal(one, other) and not torch.allclose(one, plain, atol=1e-4)
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(lora(x, 0.3).x0, plain)
    dropping = lora.with_dropout(torch.Generator().manual_seed(7))
    # the same tensors: training with dropout trains this prior
    assert dropping.parameters()[0] is lora.parameters()[0]
    assert torch.equal(dropping.with_dropout(None)(x, 0.3).x0, plain)
    assert torch.equal(dropping.with_state(lora.state())(x, 0.3).x0, plain)


def test_the_share_that_is_dropped():
    made = Adapted(nn.Linear(3, 4000), AdapterSettings(rank=3, dropout=0.25), torch.Generator().manual_seed(0))
    made.up.data.fill_(1.0)
    made.noise = torch.Generator().manual_seed(1)
    x = torch.randn(1, 3)
    added = (made(x) - made.base(x)).detach()
    assert float((added.abs() < 1e-6).float().mean()) == pytest.approx(0.25, abs=0.03)
    made.noise = None
    whole = (made(x) - made.base(x)).detach()
    assert float(added.abs().max() / whole.abs().max()) == pytest.approx(1 / 0.75, rel=1e-3)


def test_adapters_inside_wrappers():
    base, x = prior(), torch.randn(1, 3, 12, 8)
    wrapped = PerChannel(Tiled(base, 8, 4), 3)
    lora = adapted(wrapped)
    assert torch.equal(lora(x, 0.4).x0, wrapped(x, 0.4).x0) and lora.info == wrapped.info
    changed = disturbed(lora)
    assert not torch.allclose(changed(x, 0.4).x0, wrapped(x, 0.4).x0, atol=1e-3)
    merged = changed.merged()
    assert isinstance(merged, PerChannel)
    torch.testing.assert_close(merged(x, 0.4).x0, changed(x, 0.4).x0, rtol=1e-3, atol=1e-4)


def test_stored_and_read_again(tmp_path):
    base, x = prior(), image(1)
    lora = disturbed(adapted(base, rank=3, biases=True))
    (tmp_path / "a.safetensors").write_bytes(dump_adapters(lora))
    again = load_adapters(tmp_path / "a.safetensors", base)
    assert torch.equal(again(x, 0.3).x0, lora(x, 0.3).x0) and again.settings == lora.settings
    with pytest.raises(ConfigError, match="do not fit prior 'adm'"):
        load_adapters(tmp_path / "a.safetensors", prior("adm"))
    (tmp_path / "b.safetensors").write_bytes(dump_prior(base))
    with pytest.raises(InputError, match="its format is recon-prior/1"):
        load_adapters(tmp_path / "b.safetensors", base)
    (tmp_path / "c.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot read weights"):
        load_adapters(tmp_path / "c.safetensors", base)


def test_a_merged_prior_can_be_written(tmp_path):
    lora, x = disturbed(adapted(prior())), image(1)
    (tmp_path / "m.safetensors").write_bytes(dump_prior(lora.merged()))
    assert torch.equal(load_prior(tmp_path / "m.safetensors")(x, 0.3).x0, lora.merged()(x, 0.3).x0)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"dropout": 1.0}, {"dropout": -0.1}, {"layers": "("}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match="adapters"):
        AdapterSettings(**wrong)


def test_a_prior_without_a_network_takes_none():
    with pytest.raises(ConfigError, match="has no network"):
        adapted(GaussianPrior(torch.ones(1, 4, 4)))


def test_moving_keeps_what_was_trained():
    lora, x = disturbed(adapted(prior())), image(1)
    moved = lora.to("cpu")
    assert moved is not lora and torch.equal(moved(x, 0.3).x0, lora(x, 0.3).x0)
