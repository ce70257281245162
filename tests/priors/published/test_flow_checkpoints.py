"""Flow-matching files against the outputs of the authors' own networks, and flows in closed form."""

from __future__ import annotations

import pytest
import torch
from checkpoint_files import (
    arrays_of,
    as_tensors,
    content_of,
    largest_difference,
    shapes_of,
    unpack,
    unpack_folder,
)
from torch import nn

from recon.errors import ConfigError
from recon.priors.base import PriorInfo
from recon.priors.networks.adm import ADMConfig
from recon.priors.networks.unet import UNet, UNetConfig
from recon.priors.open import open_prior, with_changes
from recon.priors.preconditioned import PreconditionedDenoiser
from recon.priors.preconditioning import Flow
from recon.priors.published import adm
from recon.priors.published.adm_shapes import infer_adm
from recon.priors.store import dump_prior, load_prior
from recon.runs.priors import convert_prior


def opened(name, folder):
    if name == "diffusers-flow":
        return open_prior(unpack_folder(name, folder))
    if name == "torchcfm":
        return open_prior(unpack("torchcfm.pt", folder))
    return with_changes(open_prior(unpack("rectified-flow.pth", folder)), {"prediction": "flow"})


@pytest.mark.parametrize("name", ["torchcfm", "rectified-flow", "diffusers-flow"])
def test_outputs_are_those_of_the_authors_network(name, tmp_path):
    prior, arrays = opened(name, tmp_path), arrays_of(name)
    x, sigma, expected = arrays["x"], arrays["sigma"], arrays["x0"]
    assert len(sigma) >= 10 and float(sigma.min()) < 0.002 and float(sigma.max()) > 300
    assert largest_difference(prior(x, sigma).x0, expected) <= 1e-5
    assert prior.settings["kind"] == "flow" and prior.info.value_range == (-1.0, 1.0)
    assert prior.info.sigma_max == pytest.approx(999.0) and prior.info.sigma_min == pytest.approx(1 / 999)


@pytest.mark.parametrize("name", ["torchcfm", "rectified-flow", "diffusers-flow"])
def test_written_in_our_format_and_read_again(name, tmp_path):
    prior, arrays = opened(name, tmp_path), arrays_of(name)
    (tmp_path / "ours.safetensors").write_bytes(dump_prior(prior))
    again = load_prior(tmp_path / "ours.safetensors")
    assert torch.equal(again(arrays["x"], arrays["sigma"]).x0, prior(arrays["x"], arrays["sigma"]).x0)
    assert again.settings == prior.settings


def test_torchcfm_files_are_told_by_their_keys_and_use_the_average(tmp_path):
    content = content_of("torchcfm.pt", tmp_path)
    assert adm.describe(content)["preconditioning"] == "flow, time from noise to data"
    assert adm.load(content, "f").settings == {"kind": "flow", "scale": 1.0, "to_data": True}
    bare = adm.load(content["ema_model"], "f")
    assert bare.settings["kind"] == "vp-table"
    stated = with_changes(bare, {"prediction": "flow"})
    arrays = arrays_of("torchcfm")
    assert largest_difference(stated(arrays["x"], arrays["sigma"]).x0, arrays["x0"]) <= 1e-5


def test_flow_can_be_stated_from_the_command_line(tmp_path):
    source = unpack("rectified-flow.pth", tmp_path)
    facts = convert_prior(str(source), tmp_path / "a.safetensors", ("prediction=flow", "name=cats"))
    assert facts["denoiser"] == {"kind": "flow", "scale": 999.0, "to_data": True} and facts["network"]["centred"]
    arrays = arrays_of("rectified-flow")
    found = open_prior(tmp_path / "a.safetensors")(arrays["x"], arrays["sigma"]).x0
    assert largest_difference(found, arrays["x0"]) <= 1e-5
    mine = with_changes(open_prior(source), {"kind": "flow", "scale": 5.0, "to_data": False})
    assert mine.settings == {"kind": "flow", "scale": 5.0, "to_data": False} and not mine.network.config.centred
    with pytest.raises(ConfigError, match="no flow of scale 0"):
        with_changes(mine, {"scale": 0})
    with pytest.raises(ConfigError, match="no setting 'scale'"):
        with_changes(open_prior(source), {"scale": 5.0})
    with pytest.raises(ConfigError, match="cannot be changed so"):
        with_changes(open_prior(source), {"kind": "flux"})


def test_published_network_at_full_size():
    found = infer_adm(as_tensors(shapes_of("torchcfm-cifar10")), "f")
    assert found == ADMConfig(3, 3, 128, (128, 256, 256, 256), 2, (1,), scale_shift=False, resample_blocks=False)


@pytest.mark.parametrize("to_data", [False, True])
def test_a_perfect_velocity_gives_the_image(to_data):
    x0, n = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)

    class Velocity(nn.Module):
        config = UNetConfig()

        def forward(self, x, c):
            self.seen = x, c
            return x0 - n if to_data else n - x0

    network = Velocity()
    prior = PreconditionedDenoiser(network, PriorInfo("v", 1, sigma_max=1e4), "flow", scale=10.0, to_data=to_data)
    t = torch.tensor([0.001, 0.5, 0.99], dtype=torch.float64)
    sigma = t / (1 - t)
    torch.testing.assert_close(prior(x0 + sigma[:, None, None, None] * n, sigma).x0, x0, rtol=1e-8, atol=1e-8)
    state, time = network.seen
    torch.testing.assert_close(time, 10 * (1 - t if to_data else t))
    at = t[:, None, None, None]
    torch.testing.assert_close(state, (1 - at) * x0 + at * n)


def test_a_network_of_ours_can_be_a_flow(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(UNetConfig(channels=(8, 16), blocks=(1, 1), embedding=16, groups=4))
        nn.init.normal_(network.conv_out.weight, std=0.1)
    prior = PreconditionedDenoiser(network, PriorInfo("ours", 1, multiple=4), "flow", scale=1.0)
    (tmp_path / "w.safetensors").write_bytes(dump_prior(prior))
    x, again = torch.randn(2, 1, 8, 8), load_prior(tmp_path / "w.safetensors")
    assert torch.equal(again(x, 0.7).x0, prior(x, 0.7).x0) and not torch.allclose(prior(x, 0.7).x0, x / 1.7)
    assert again.preconditioning == Flow(1.0, False)


def test_inverted_times_of_a_scheduler_are_refused(tmp_path):
    folder = unpack_folder("diffusers-flow", tmp_path)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(file.read_text().replace('"shift"', '"invert_sigmas": true, "shift"'))
    with pytest.raises(ConfigError, match="invert_sigmas is True"):
        open_prior(folder)
