"""FFDNet and DRUNet files against the outputs of the authors' own networks, and what lies above their noise levels."""

from __future__ import annotations

import pytest
import torch
from checkpoint_files import arrays_of, as_tensors, content_of, largest_difference, shapes_of

from recon.errors import ConfigError, InputError
from recon.priors.base import PriorInfo
from recon.priors.networks.drunet import DRUNet, DRUNetConfig
from recon.priors.networks.ffdnet import FFDNet, FFDNetConfig
from recon.priors.preconditioned import PreconditionedDenoiser
from recon.priors.published import denoisers
from recon.priors.published.families import identify
from recon.priors.published.weights import check_shapes, empty
from recon.priors.store import dump_prior, load_prior

CHECKPOINTS = {
    "ffdnet-grey.pth": (FFDNetConfig(1, 16, 4), 75),
    "ffdnet-colour.pth": (FFDNetConfig(3, 12, 3), 75),
    "drunet-grey.pth": (DRUNetConfig(1, (4, 8, 8, 12), 2, False), 50),
    "drunet-bias.pth": (DRUNetConfig(3, (4, 8, 8, 12), 2, True), 50),
}
FULL = {
    "ffdnet-grey": FFDNetConfig(1, 64, 15),
    "ffdnet-colour": FFDNetConfig(3, 96, 12),
    "drunet-grey": DRUNetConfig(1),
    "drunet-colour": DRUNetConfig(3),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_outputs_are_those_of_the_authors_network(name, tmp_path):
    content, arrays = content_of(name, tmp_path), arrays_of(name)
    config, top = CHECKPOINTS[name]
    assert identify(content, name) == "denoiser"
    prior = denoisers.load(content, name)
    x, sigma, expected = arrays["x"], arrays["sigma"], arrays["x0"]
    assert len(sigma) >= 8 and float(sigma[0]) == 0 and float(sigma[-1]) == pytest.approx(top / 255)
    assert largest_difference(prior(x, sigma).x0, expected) <= 1e-5
    assert largest_difference(prior(x[3:4], float(sigma[3])).x0, expected[3:4]) <= 1e-5
    assert prior.network.config == config and prior.info.channels == config.in_channels
    assert prior.info.value_range == (0.0, 1.0) and prior.info.sigma_max == pytest.approx(top / 255)
    assert f"0 to {top}/255" in denoisers.describe(content)["noise_levels"]


@pytest.mark.parametrize("name", FULL)
def test_published_networks_at_full_size(name):
    tensors = as_tensors(shapes_of(name))
    assert denoisers.describe(tensors).items() >= {"architecture": "FFDNet" if "ffd" in name else "DRUNet"}.items()
    found = denoisers._find(tensors, name).config
    assert found == FULL[name]
    make = FFDNet if isinstance(found, FFDNetConfig) else DRUNet
    network = empty(lambda: make(found), name)
    check_shapes({k: tuple(v.shape) for k, v in network.state_dict().items()}, tensors, name)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_written_in_our_format_and_read_again(name, tmp_path):
    prior, arrays = denoisers.load(content_of(name, tmp_path), name), arrays_of(name)
    path = tmp_path / "ours.safetensors"
    path.write_bytes(dump_prior(prior))
    assert torch.equal(load_prior(path)(arrays["x"], arrays["sigma"]).x0, prior(arrays["x"], arrays["sigma"]).x0)


def test_odd_sizes_are_padded_and_cropped(tmp_path):
    prior = denoisers.load(content_of("drunet-grey.pth", tmp_path), "f")
    assert prior.info.multiple == 8 and prior(torch.rand(1, 1, 13, 21), 0.1).x0.shape == (1, 1, 13, 21)


def test_a_level_above_the_trained_ones_is_that_of_an_image_of_less_contrast(tmp_path):
    prior = denoisers.load(content_of("ffdnet-grey.pth", tmp_path), "f")
    top = prior.info.sigma_max
    x = torch.rand(2, 1, 8, 8)
    sigma = torch.tensor([4 * top, 0.5 * top])
    found = prior(x, sigma).x0
    faint = prior(0.5 + (x[:1] - 0.5) / 4, top).x0
    torch.testing.assert_close(found[:1], 0.5 + 4 * (faint - 0.5), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1:], prior(x[1:], 0.5 * top).x0, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found[:1], faint, atol=1e-2)


def test_without_biases_a_network_does_not_depend_on_its_units(tmp_path):
    network = denoisers.load(content_of("drunet-grey.pth", tmp_path), "f").network
    x, c = torch.rand(1, 1, 16, 16), torch.tensor([0.1])
    with torch.no_grad():
        torch.testing.assert_close(network(3 * x, 3 * c), 3 * network(x, c), rtol=1e-4, atol=1e-5)
        other = denoisers.load(content_of("drunet-bias.pth", tmp_path), "f").network
        x = x.expand(-1, 3, -1, -1)
        assert not torch.allclose(other(3 * x, 3 * c), 3 * other(x, c), rtol=1e-2, atol=1e-2)


def test_a_perfect_denoiser_is_itself():
    class Half(torch.nn.Module):
        config = FFDNetConfig()

        def forward(self, x, c):
            return 0.5 * x + c[:, None, None, None]

    prior = PreconditionedDenoiser(Half(), PriorInfo("half", 1, sigma_max=10.0, value_range=(0.0, 1.0)), "direct")
    x = torch.rand(2, 1, 4, 4)
    expected = 0.5 * x + torch.tensor([0.25, 2.0])[:, None, None, None]
    torch.testing.assert_close(prior(x, torch.tensor([0.25, 2.0])).x0, expected)


def _damaged(content, damage):
    if damage == "missing":
        del content["model.2.bias"]
    elif damage == "shape":
        content["model.4.weight"] = torch.zeros(5, 5)
    elif damage == "extra":
        content["model.1.weight"] = torch.zeros(3)
    else:
        content["model.999999.weight"] = torch.zeros(3)
    return content


@pytest.mark.parametrize(
    ("damage", "message", "kind"),
    [
        ("missing", r"f has no tensor model\.2\.bias", ConfigError),
        ("shape", r"tensor model\.4\.weight has shape \(5, 5\)", ConfigError),
        ("extra", r"tensor model\.6\.weight has shape", ConfigError),
        ("many", "more than 1000 layers", InputError),
    ],
)
def test_tensors_that_do_not_fit_are_named_in_one_line(damage, message, kind, tmp_path):
    content = _damaged(dict(content_of("ffdnet-grey.pth", tmp_path)), damage)
    with pytest.raises(kind, match=message) as caught:
        denoisers.load(content, "f")
    assert "\n" not in caught.value.message


def test_a_drunet_with_a_level_missing_is_told(tmp_path):
    content = dict(content_of("drunet-grey.pth", tmp_path))
    without = {key: value for key, value in content.items() if not key.startswith("m_down2")}
    with pytest.raises(ConfigError, match=r"expected a tensor|no tensor|has shape"):
        denoisers.load(without, "f")
    content["m_tail.weight"] = torch.zeros(3)
    with pytest.raises(ConfigError, match=r"expected a tensor m_tail\.weight of 4 dimensions"):
        denoisers.load(content, "f")


def test_networks_of_one_noise_level_are_not_matched(tmp_path):
    # DnCNN and IRCNN: the same names, but the first layer takes the image alone
    plain = {f"model.{2 * k}.weight": torch.zeros(8, 3 if k == 0 else 8, 3, 3) for k in range(3)}
    assert not denoisers.matches(plain) and not denoisers.matches({"model.0.weight": torch.zeros(3)})
    with pytest.raises(ConfigError, match="no FFDNet or DRUNet checkpoint"):
        denoisers.load(plain, "f")


@pytest.mark.parametrize("config", [{"layers": 1}, {"width": 0}, {"in_channels": 0}])
def test_ffdnets_that_cannot_be_are_refused(config):
    with pytest.raises(ConfigError, match="FFDNet"):
        FFDNetConfig(**config)


@pytest.mark.parametrize("config", [{"widths": ()}, {"blocks": 0}, {"widths": (8, 0)}])
def test_drunets_that_cannot_be_are_refused(config):
    with pytest.raises(ConfigError, match="DRUNet"):
        DRUNetConfig(**config)
