"""Guided-diffusion files, InverseBench's and DeepInverse's ADM against the outputs of the authors' own networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from checkpoint_files import arrays_of, as_tensors, content_of, largest_difference, shapes_of
from torch import nn

from recon.errors import ConfigError
from recon.priors.networks.adm import ADM, ADMConfig
from recon.priors.open import with_changes
from recon.priors.preconditioning import VPTable
from recon.priors.published import adm
from recon.priors.published.adm_shapes import infer_adm
from recon.priors.published.families import identify
from recon.priors.published.weights import check_shapes, empty
from recon.schedules import sigma_from_alpha_bar, vp_alpha_bars, vp_cosine_alpha_bars

ALPHA_BARS = vp_alpha_bars()
PLAIN = {
    "adm-learned": ADMConfig(3, 6, 16, (32, 64), attention=(1,)),
    "adm-classes": ADMConfig(
        1, 1, 16, (32, 32), blocks=2, attention=(0,), heads=4, scale_shift=False, resample_blocks=False, labels=5
    ),
    "adm-new-order": ADMConfig(2, 4, 16, (32, 32), heads=4, new_order=True),
}


def in_sigma_space(x, t):
    """Return x/sqrt(ab_t) and sigma_t, float32, of x (B, C, Y, X) and times t (B,)."""
    ab = torch.from_numpy(ALPHA_BARS)[t]
    return (x / ab.sqrt()[:, None, None, None]).float(), ((1 - ab) / ab).sqrt().float()


def prior_of(name, tmp_path):
    content = content_of(f"{name}.pt", tmp_path)
    assert identify(content, name) == "adm"
    prior = adm.load(content, name)
    # no shape tells the order of qkv
    return with_changes(prior, {"new_order": True}) if name == "adm-new-order" else prior


@pytest.mark.parametrize("name", PLAIN)
def test_outputs_are_those_of_the_authors_network(name, tmp_path):
    prior, arrays = prior_of(name, tmp_path), arrays_of(name)
    assert prior.network.config == PLAIN[name]
    x, t, labels = arrays["x"], arrays["t"], arrays.get("labels")
    assert len(t) >= 10 and int(t.min()) == 0 and int(t.max()) == 999
    onehot = () if labels is None else (nn.functional.one_hot(labels, 5).float(),)
    with torch.no_grad():
        assert largest_difference(prior.network(x, t.float(), *onehot), arrays["out"]) <= 1e-5
    x_sigma, sigma = in_sigma_space(x, t)
    found = prior(x_sigma, sigma, labels)
    assert largest_difference(found.x0, arrays["x0"]) <= 1e-5
    assert largest_difference(prior(x_sigma[4:5], float(sigma[4]), None if labels is None else labels[4:5]).x0,
                              arrays["x0"][4:5]) <= 1e-5  # fmt: skip
    if "log_variance" not in arrays:
        assert found.variance_mix is None
        return
    # learned-range variance: ln v = m ln beta_t + (1-m) ln beta~_t
    beta = 1 - ALPHA_BARS / np.append(1.0, ALPHA_BARS[:-1])
    floor = beta * (1 - np.append(1.0, ALPHA_BARS[:-1])) / (1 - ALPHA_BARS)
    high, low = (torch.from_numpy(np.log(v))[t][:, None, None, None] for v in (beta, np.append(floor[1], floor[1:])))
    expected = arrays["log_variance"].double()
    assert found.variance_mix is not None
    torch.testing.assert_close(found.variance_mix * (high - low) + low, expected, rtol=1e-5, atol=1e-5)


def test_the_legacy_order_gives_another_result(tmp_path):
    content, arrays = content_of("adm-new-order.pt", tmp_path), arrays_of("adm-new-order")
    found = adm.load(content, "f")(*in_sigma_space(arrays["x"], arrays["t"])).x0
    assert largest_difference(found, arrays["x0"]) > 1e-3


def test_inversebench_takes_the_average_and_continuous_time(tmp_path):
    arrays = arrays_of("inversebench-vp-adm")
    prior = prior_of("inversebench-vp-adm", tmp_path)
    assert largest_difference(prior(arrays["x"], arrays["sigma"]).x0, arrays["x0"]) <= 1e-5
    assert prior.settings == {"kind": "vp", "beta_d": 19.9, "beta_min": 0.1, "steps": 1000}
    assert prior.info.sigma_max == pytest.approx(152.167, rel=1e-5)


def test_deepinverse_diffunet(tmp_path):
    arrays, prior = arrays_of("diffunet"), prior_of("diffunet", tmp_path)
    with torch.no_grad():
        assert largest_difference(prior.network(arrays["x_vp"], arrays["t"].float()), arrays["out"]) <= 1e-5
    # its images are in [0, 1], ours in [-1, 1]; it clamps
    found = prior(2 * arrays["x"] - 1, 2 * arrays["sigma"]).x0.clamp(-1, 1) / 2 + 0.5
    inside = (arrays["x0"] > 0) & (arrays["x0"] < 1)
    assert 0.2 < float(inside.float().mean()) < 0.9
    # values before clamping grow with the level
    error = (found - arrays["x0"]).abs().flatten(1).amax(dim=1) / (2 * arrays["sigma"]).clamp_min(1)
    assert float(error.max()) <= 1e-5


# full size: levels with attention, blocks, widths over the base width, labels, value range
FULL = {
    "adm-ffhq-10m": ((4,), 1, (1, 1, 2, 2, 4, 4), 0, (-1.0, 1.0), 93_563_910),
    "adm-imagenet-256-uncond": ((3, 4, 5), 2, (1, 1, 2, 2, 4, 4), 0, (-1.0, 1.0), 552_814_086),
    "adm-imagenet-512": ((4, 5, 6), 2, (0.5, 1, 1, 2, 2, 4, 4), 1000, (-1.0, 1.0), 558_997_638),
    "adm-imagenet-128": ((2, 3, 4), 2, (1, 1, 2, 3, 4), 1000, (-1.0, 1.0), 421_529_606),
    "adm-imagenet-64": ((1, 2, 3), 3, (1, 2, 3, 4), 1000, (-1.0, 1.0), 295_904_454),
    "adm-dds-aapm": ((4,), 1, (1, 1, 2, 2, 4, 4), 0, (0.0, 1.0), 374_022_658),
    "adm-dds-fastmri": ((), 1, (1, 1, 2, 2, 4, 4), 0, (0.0, 1.0), 361_428_228),
    "inversebench-ffhq256": ((4,), 1, (1, 1, 2, 2, 4, 4), 0, (-1.0, 1.0), 93_563_910),
    "diffunet-small": ((4,), 1, (1, 1, 2, 2, 4, 4), 0, (-1.0, 1.0), 93_563_910),
    "diffunet-large": ((3, 4, 5), 2, (1, 1, 2, 2, 4, 4), 0, (-1.0, 1.0), 552_814_086),
}


@pytest.mark.parametrize("name", FULL)
def test_published_networks_are_inferred_at_their_full_size(name):
    attention, blocks, multipliers, labels, value_range, parameters = FULL[name]
    shapes = shapes_of(name)
    found = adm._find({key: value for key, value in as_tensors(shapes).items()} | real_tables(shapes), name)
    config = found.config
    assert (config.attention, config.blocks, config.labels) == (attention, blocks, labels)
    assert tuple(width / config.channels for width in config.widths) == multipliers
    assert config.scale_shift and config.resample_blocks and found.value_range == value_range
    assert (config.heads, config.new_order) == ((4, False) if name.endswith("128") else (0, name.endswith("net-64")))
    network = empty(lambda: ADM(config), name)
    check_shapes({key: tuple(value.shape) for key, value in network.state_dict().items()}, found.tensors, name)
    assert sum(p.numel() for p in network.parameters()) == parameters
    cosine = isinstance(found.levels, VPTable) and found.levels.schedule == "cosine"
    assert cosine == name.endswith("net-64")


def real_tables(shapes):
    """Return the buffers of DeepInverse's wrapper with their values, where a list of shapes has them."""
    ab = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    tables = {"sqrt_alphas_cumprod": ab.sqrt(), "sqrt_1m_alphas_cumprod": (1 - ab).sqrt()}
    return {key: value for key, value in tables.items() if key in shapes}


def test_networks_that_are_no_denoisers_are_refused():
    with pytest.raises(ConfigError, match="up-sampler"):
        adm._find(as_tensors(shapes_of("adm-upsampler-256")), "f")
    shapes = shapes_of("adm-ffhq-10m")
    classifier = {key: shape for key, shape in shapes.items() if not key.startswith("output_blocks")}
    assert not adm.matches(as_tensors(classifier))
    latent = shapes | {"input_blocks.1.1.transformer_blocks.0.norm1.weight": (128,)}
    assert not adm.matches(as_tensors(latent))
    wrong = {**as_tensors(shapes), "out.2.weight": torch.empty(5, 128, 3, 3), "out.2.bias": torch.empty(5)}
    with pytest.raises(ConfigError, match="from 3 to 5 channels"):
        adm._find(wrong, "f")


def test_another_table_of_levels_is_refused(tmp_path):
    content = content_of("diffunet.pt", tmp_path)
    content["sqrt_alphas_cumprod"] = content["sqrt_alphas_cumprod"] * 0.9
    with pytest.raises(ConfigError, match="a table of noise levels of its own"):
        adm.load(content, "f")


@pytest.mark.parametrize("damage", ["missing", "shape", "extra", "blocks"])
def test_mismatched_tensors_are_refused_by_name(tmp_path, damage):
    content = content_of("adm-learned.pt", tmp_path)
    if damage == "missing":
        del content["middle_block.1.qkv.bias"]
    elif damage == "shape":
        content["middle_block.1.qkv.bias"] = torch.zeros(3)
    elif damage == "extra":
        content["middle_block.1.qkv.gain"] = torch.zeros(3)
    else:
        content = {key: value for key, value in content.items() if not key.startswith("output_blocks.3.")}
    with pytest.raises(ConfigError, match=r"output blocks" if damage == "blocks" else r"middle_block\.1\.qkv"):
        adm.load(content, "f")


def test_time_is_interpolated_on_the_table():
    table, sigmas = VPTable(), sigma_from_alpha_bar(ALPHA_BARS)
    times = table.coefficients(torch.tensor(sigmas, dtype=torch.float32)).noise
    assert torch.equal(times, torch.arange(1000, dtype=torch.float32))
    between = torch.tensor(np.sqrt(sigmas[:-1] * sigmas[1:]))
    torch.testing.assert_close(table.coefficients(between).noise, torch.arange(999, dtype=torch.float64) + 0.5)
    outside = table.coefficients(torch.tensor([1e-4, 500.0], dtype=torch.float64)).noise
    assert outside.tolist() == [0.0, 999.0]
    assert table.range == pytest.approx((0.0100005, 157.407), rel=1e-5)


def test_the_cosine_table_is_that_of_the_paper():
    # eq. 17 of Nichol and Dhariwal, where no beta is cut
    ab = vp_cosine_alpha_bars()
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(ab[:990], f[1:991] / f[0], rtol=1e-9)
    assert 1 - ab[-1] / ab[-2] == pytest.approx(0.999)
    assert VPTable(schedule="cosine").range[0] == pytest.approx(float(np.sqrt(1 / ab[0] - 1)))


def test_classes_enter_as_indices_or_weights(tmp_path):
    prior, x = prior_of("adm-classes", tmp_path), torch.randn(2, 1, 9, 8, generator=torch.Generator().manual_seed(0))
    by_index = prior(x, 0.5, torch.tensor([3, 1])).x0
    torch.testing.assert_close(by_index, prior(x, 0.5, nn.functional.one_hot(torch.tensor([3, 1]), 5).float()).x0)
    assert not torch.allclose(by_index, prior(x, 0.5, torch.tensor([0, 0])).x0)
    with pytest.raises(ConfigError, match="one of 5 classes"):
        prior(x, 0.5)
    with pytest.raises(ConfigError, match="classes 0 to 4"):
        prior(x, 0.5, torch.tensor([3, 5]))


def test_sizes_are_padded_and_levels_above_the_table_are_rescaled(tmp_path):
    prior = prior_of("adm-learned", tmp_path)
    x = torch.randn(1, 3, 9, 7)
    found = prior(x, 1.0)
    assert found.x0.shape == x.shape and found.variance_mix is not None and found.variance_mix.shape == x.shape
    high = prior.info.sigma_max
    torch.testing.assert_close(prior(4 * x, 4 * high).x0, prior(x, high).x0, rtol=1e-4, atol=1e-3)


def test_two_channels_are_complex_and_a_complex_prior_has_black_at_zero(tmp_path):
    info = prior_of("adm-new-order", tmp_path).info
    assert info.complex_channels and info.value_range == (0.0, 1.0) and info.channels == 2 and info.multiple == 2
    assert not prior_of("adm-learned", tmp_path).info.complex_channels


def test_gradients_flow_to_the_input(tmp_path):
    prior = prior_of("adm-learned", tmp_path)
    x = torch.randn(1, 3, 4, 4, requires_grad=True)
    prior(x, 0.5).x0.square().sum().backward()
    assert x.grad is not None and float(x.grad.abs().max()) > 0
    assert not any(p.requires_grad for p in prior.network.parameters())


def test_an_architecture_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="divide by 32"):
        ADMConfig(1, 1, 16, (48,))
    with pytest.raises(ConfigError, match="cannot be split into 3 heads"):
        ADMConfig(1, 1, 16, (32,), heads=3)
    with pytest.raises(ConfigError, match="expected a tensor input_blocks"):
        infer_adm({f"output_blocks.{i}.0.in_layers.2.weight": torch.zeros(1) for i in (0, 1)}, "f")
    with pytest.raises(ConfigError, match="3 output blocks do not make 2 levels"):
        infer_adm(
            {f"output_blocks.{i}.{j}.in_layers.2.weight": torch.zeros(1) for i, j in ((0, 0), (1, 1), (2, 0))}, "f"
        )
