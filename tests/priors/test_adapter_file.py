"""Files of adapters: damaged, hostile and of another network; what `recon priors show` says of one."""

from __future__ import annotations

import json
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from recon.errors import ConfigError, InputError
from recon.priors.adapter_file import FORMAT, describe_adapters, dump_adapters, load_adapters
from recon.priors.adapters import AdapterSettings, places_of
from recon.priors.base import PriorInfo
from recon.priors.catalog import describe_prior, file_sha256
from recon.priors.edm import EDMDenoiser
from recon.priors.lora import LoRA
from recon.priors.networks.unet import UNet, UNetConfig
from recon.priors.open import open_prior


def prior(width=8):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(UNetConfig(channels=(width, 16), blocks=(1, 1), embedding=16, groups=4))
    return EDMDenoiser(network, PriorInfo("unet", 1, multiple=4))


def adapted(**settings):
    lora = LoRA(prior(), AdapterSettings(**settings), torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    return lora.with_state({k: torch.randn(v.shape, generator=generator) for k, v in lora.state().items()})


@pytest.fixture
def written(tmp_path):
    """Return the path of a file of adapters of some layers, with biases."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(dump_adapters(adapted(rank=2, layers="conv1|middle", biases=True)))
    return path


def rewritten(path, change):
    """Write the file again with its configuration changed."""
    tensors = load_file(path)
    config = {"settings": {**vars(AdapterSettings()), "rank": 2, "biases": True}, "prior": "unet"}
    change(config, tensors)
    save_file(tensors, path, metadata={"format": FORMAT, "config": json.dumps(config)})


def test_adapters_are_where_the_tensors_say(written):
    lora, x = adapted(rank=2, layers="conv1|middle", biases=True), torch.randn(1, 1, 8, 8)
    assert torch.equal(load_adapters(written, prior())(x, 0.3).x0, lora(x, 0.3).x0)
    # the patterns of a file are not looked for: one that no search ends with costs nothing
    rewritten(written, lambda config, tensors: config["settings"].update(layers="([\\w.]+)+!", fixed="([\\w.]+)+!"))
    start = time.perf_counter()
    assert torch.equal(load_adapters(written, prior())(x, 0.3).x0, lora(x, 0.3).x0)
    assert time.perf_counter() - start < 5


def test_places_are_told_by_names():
    found = places_of({"a.down", "a.up", "a.base.bias", "b.bias", "c.d.down", "c.d.up"})
    assert found.layers == {"a", "c.d"} and found.biases == {"a", "b"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 0}, "rank >= 1"),
        ({"rank": "4"}, "valid integer"),
        ({"rank": 2.5}, "valid integer"),
        ({"dropout": 2}, "dropout in"),
        ({"layers": "("}, "patterns of names"),
        ({"layers": "a{99999999999999}"}, "patterns of names"),
        ({"layers": "(" * 5000}, "patterns of names"),
        ({"owner": "me"}, "no setting 'owner'"),
    ],
)
def test_settings_that_cannot_be_are_refused(written, wrong, message):
    rewritten(written, lambda config, tensors: config["settings"].update(wrong))
    with pytest.raises(InputError, match=message) as caught:
        load_adapters(written, prior())
    assert "\n" not in caught.value.message and len(caught.value.message) < 250


@pytest.mark.parametrize("config", ["", "{", "3", "{}", '{"settings": 3, "prior": "u"}', "[" * 100_000])
def test_damaged_configurations_are_refused(written, config):
    save_file(load_file(written), written, metadata={"format": FORMAT, "config": config})
    with pytest.raises(InputError, match="holds no adapters") as caught:
        load_adapters(written, prior())
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_file_that_was_cut_is_unreadable(written, share):
    whole = written.read_bytes()
    written.write_bytes(whole[: int(share * len(whole))])
    for read in (lambda: load_adapters(written, prior()), lambda: describe_prior(str(written))):
        with pytest.raises(InputError, match="cannot read"):
            read()


def test_an_absurd_rank_takes_no_memory(written):
    rewritten(written, lambda config, tensors: config["settings"].update(rank=10**12))
    with pytest.raises(ConfigError, match="do not fit prior 'unet'"):
        load_adapters(written, prior())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, t: t.update({"nowhere.down": torch.ones(1)}), "no layer 'nowhere'"),
        (lambda c, t: t.update({"norm_out.down": torch.ones(1)}), "no layer 'norm_out'"),
        (lambda c, t: t.update({"nowhere.bias": torch.ones(1)}), "no layer 'nowhere'"),
        (lambda c, t: t.pop("middle.conv1.up"), "do not fit prior 'unet': middle"),
        (lambda c, t: t.update({"middle.conv1.up": torch.ones(3, 3)}), "do not fit prior 'unet': middle"),
        (lambda c, t: t.clear(), "no layer whose name"),
    ],
)
def test_adapters_of_another_network_are_a_mismatch(written, change, message):
    rewritten(written, change)
    with pytest.raises(ConfigError, match=message) as caught:
        load_adapters(written, prior())
    assert "\n" not in caught.value.message


def test_adapters_of_another_width_are_a_mismatch(written):
    with pytest.raises(ConfigError, match="do not fit prior 'unet'"):
        load_adapters(written, prior(width=12))


def test_show_says_what_it_is_and_a_run_takes_none(written):
    facts = describe_prior(str(written))
    assert facts["kind"].startswith("adapters (LoRA)") and facts["prior"] == "unet"
    assert facts["settings"]["rank"] == 2 and facts["layers"] == len(places_of(load_file(written)).layers) == 7
    assert facts["sha256"] == file_sha256(written)
    json.dumps(facts)
    with pytest.raises(ConfigError, match="holds adapters of a prior, and is none by itself"):
        open_prior(written)
    lora = adapted()
    assert describe_adapters(written)["parameters"] < sum(p.numel() for p in lora.parameters())
