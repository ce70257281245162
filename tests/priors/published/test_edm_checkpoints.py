"""EDM pickles and InverseBench files against the outputs of the authors' own networks."""

from __future__ import annotations

import json

import pytest
import torch
from checkpoint_files import arrays_of, as_tensors, content_of, largest_difference, shapes_of

from recon.errors import ConfigError
from recon.priors.networks.dhariwal import DhariwalConfig, DhariwalUNet
from recon.priors.networks.song import SongConfig, SongUNet
from recon.priors.preconditioning import EDM, IDDPM, VE, VP
from recon.priors.published import edm
from recon.priors.published.content import Record
from recon.priors.published.edm_shapes import infer_dhariwal, infer_song
from recon.priors.published.families import identify
from recon.priors.published.weights import check_shapes, empty
from recon.priors.store import dump_prior, load_prior

CHECKPOINTS = {
    "edm-ncsnpp.pkl": EDM,
    "edm-adm.pkl": EDM,
    "vp-ddpmpp.pkl": VP,
    "ve-ncsnpp-skip.pkl": VE,
    "iddpm-adm.pkl": IDDPM,
    "inversebench-adm.pt": EDM,
    "inversebench-ddpmpp.pt": VP,
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_outputs_are_those_of_the_authors_network(name, tmp_path):
    content, arrays = content_of(name, tmp_path), arrays_of(name)
    assert identify(content, name) == "edm"
    prior = edm.load(content, name)
    assert isinstance(prior.preconditioning, CHECKPOINTS[name])
    x, sigma, expected = arrays["x"], arrays["sigma"], arrays["x0"]
    assert len(sigma) >= 8 and float(sigma.min()) < 0.05 and float(sigma.max()) > 50
    labels = arrays.get("labels")
    assert largest_difference(prior(x, sigma, labels).x0, expected) <= 1e-5
    # alone, and not in channels-last memory, the difference is the same
    prior.network.to(memory_format=torch.contiguous_format)
    for i in (0, len(sigma) // 2):
        one = prior(x[i : i + 1], float(sigma[i]), None if labels is None else labels[i : i + 1]).x0
        assert largest_difference(one, expected[i : i + 1]) <= 1e-5


@pytest.mark.parametrize("name", ["edm-ncsnpp.pkl", "edm-adm.pkl"])
def test_classes_are_indices_vectors_or_none(name, tmp_path):
    prior, arrays = edm.load(content_of(name, tmp_path), name), arrays_of(name)
    # the first item has the class vector zero, which is no class; the others are one-hot
    x, sigma, labels, expected = (arrays[key] for key in ("x", "sigma", "labels", "x0"))
    assert not labels[0].any() and (labels[1:].sum(dim=1) == 1).all()
    assert largest_difference(prior(x[:1], sigma[:1]).x0, expected[:1]) <= 1e-5
    indices = labels[1:].argmax(dim=1)
    assert largest_difference(prior(x[1:], sigma[1:], indices).x0, expected[1:]) <= 1e-5
    assert largest_difference(prior(x[1:], sigma[1:], (indices + 1) % labels.shape[1]).x0, expected[1:]) > 1e-4
    with pytest.raises(ConfigError, match=r"class indices \(B,\)"):
        prior(x, sigma, torch.zeros(len(x), 2))
    with pytest.raises(ConfigError, match="classes 0 to"):
        prior(x, sigma, torch.full((len(x),), labels.shape[1]))


def test_what_a_pickle_declares(tmp_path):
    prior = edm.load(content_of("edm-ncsnpp.pkl", tmp_path), "mine")
    assert prior.info.name == "mine" and prior.info.channels == 1 and prior.info.multiple == 2
    assert (prior.info.sigma_min, prior.info.sigma_max) == (0.002, 80.0) and prior.info.sizes is None
    assert prior.info.value_range == (-1.0, 1.0) and not prior.info.complex_channels
    assert prior.info.provenance == {"family": "edm", "architecture": "SongUNet", "preconditioning": "edm"}
    config = prior.network.config
    assert config.encoder == "residual" and config.features == "fourier" and (config.labels, config.augment) == (3, 9)
    assert config.taps == pytest.approx((0.125, 0.375, 0.375, 0.125))


def test_description_is_plain(tmp_path):
    facts = edm.describe(content_of("inversebench-adm.pt", tmp_path))
    assert facts["architecture"] == "DhariwalUNet" and facts["multipliers"] == (1, 4) and facts["attention"] == (4,)
    assert json.loads(json.dumps(facts))["preconditioning"].startswith("edm (inferred")


def test_two_channels_are_real_and_imaginary_parts_around_zero(tmp_path):
    info = edm.load(content_of("edm-adm.pkl", tmp_path), "edm-adm.pkl").info
    assert info.complex_channels and info.channels == 2 and info.value_range == (0.0, 1.0)


def test_levels_of_vp_ve_and_iddpm_files(tmp_path):
    vp = edm.load(content_of("vp-ddpmpp.pkl", tmp_path), "a.pkl").info
    assert vp.sigma_max == pytest.approx(152.17, rel=1e-4) and vp.sigma_min == pytest.approx(1e-3, rel=0.01)
    ve = edm.load(content_of("ve-ncsnpp-skip.pkl", tmp_path), "a.pkl").info
    assert (ve.sigma_min, ve.sigma_max) == (0.02, 100.0)
    prior = edm.load(content_of("iddpm-adm.pkl", tmp_path), "a.pkl")
    levels = prior.preconditioning.levels
    assert len(levels) == 1001 and levels[-1] == 0
    assert (prior.info.sigma_min, prior.info.sigma_max) == (levels[-2], levels[0])


def test_inversebench_files_use_the_average_and_say_what_is_inferred(tmp_path):
    content = content_of("inversebench-ddpmpp.pt", tmp_path)
    prior = edm.load(content, "blackhole")
    assert prior.info.provenance["preconditioning"].startswith("vp (inferred")
    assert prior.info.provenance["units"] == "2 f - 1, image f in [0, 1]"
    assert "units" not in edm.load(content, "mine").info.provenance
    arrays = arrays_of("inversebench-ddpmpp")
    trained = edm.load({"net": content["net"]}, "a.pt")
    assert largest_difference(trained(arrays["x"], arrays["sigma"]).x0, arrays["x0"]) > 1e-3
    averaged = edm.load(content["ema"], "a.pt")
    assert largest_difference(averaged(arrays["x"], arrays["sigma"]).x0, arrays["x0"]) <= 1e-5


@pytest.mark.parametrize("name", ["iddpm-adm.pkl", "vp-ddpmpp.pkl", "edm-ncsnpp.pkl"])
def test_written_in_our_format_and_read_again(name, tmp_path):
    prior, arrays = edm.load(content_of(name, tmp_path), name), arrays_of(name)
    path = tmp_path / "ours.safetensors"
    path.write_bytes(dump_prior(prior))
    again = load_prior(path)
    assert again.info.sigma_max == prior.info.sigma_max and again.settings == prior.settings
    found = again(arrays["x"], arrays["sigma"], arrays.get("labels")).x0
    assert largest_difference(found, arrays["x0"]) <= 1e-5


@pytest.mark.parametrize("size", [(8, 12), (9, 5)])
def test_other_sizes_than_the_training_size(size, tmp_path):
    prior = edm.load(content_of("edm-ncsnpp.pkl", tmp_path), "a.pkl")
    assert prior(torch.randn(1, 1, *size), 0.4).x0.shape == (1, 1, *size)


FULL = {
    "edm-ffhq-64x64-ddpmpp": SongConfig(64, 3, 3, 128, (1, 2, 2, 2), 4, (16,), augment=9, taps=(0.5, 0.5)),
    "edm-ffhq-64x64-ncsnpp": SongConfig(
        64, 3, 3, 128, (1, 2, 2, 2), 4, (16,), noise=2, augment=9, features="fourier", encoder="residual"
    ),
    "edm-imagenet-64x64-adm": DhariwalConfig(64, 3, 3, labels=1000),
    "inversebench-ns-5m": DhariwalConfig(128, 1, 1, 128, (1, 1, 1, 2, 2), 1, (16,)),
    # 320 is halved to 20: the level 16 is never met
    "inversebench-mri": DhariwalConfig(320, 2, 2, 128, (1, 1, 1, 2, 2), 1, ()),
    "inversebench-blackhole": SongConfig(64, 1, 1, 128, (1, 2, 2), 1, (16,), taps=(0.5, 0.5)),
}


@pytest.mark.parametrize("name", FULL)
def test_published_networks_at_full_size(name):
    shapes, expected = shapes_of(name), FULL[name]
    tensors = as_tensors(shapes)
    if isinstance(expected, DhariwalConfig):
        config, make = infer_dhariwal(tensors, name), DhariwalUNet
    else:
        config, make = infer_song(tensors, name), SongUNet
    # ones stand for the filters, so that only the number of taps is inferred
    taps = getattr(config, "taps", None)
    assert taps is None or len(taps) == (4 if "ncsnpp" in name else 2)
    assert {**vars(config), "taps": None} == {**vars(expected), "taps": None}
    check_shapes({k: tuple(v.shape) for k, v in empty(lambda: make(config), name).state_dict().items()}, tensors, name)


def _damaged(content, damage):
    state = dict(content["ema"])
    if damage == "missing":
        del state["model.dec.4x4_in1.conv1.bias"]
    elif damage == "inferred from":
        del state["model.enc.8x8_conv.weight"]
    elif damage == "extra":
        state["model.enc.8x8_block7.unknown"] = torch.zeros(1)
    elif damage == "shape":
        state["model.map_layer1.bias"] = torch.zeros(3)
    elif damage == "dimensions":
        state["model.map_layer0.weight"] = torch.zeros(3)
    elif damage == "width":
        state["model.dec.4x4_block0.conv0.weight"] = torch.zeros(17, 3, 3, 3)
    else:
        # 144 channels do not divide into 32 groups
        state["model.dec.8x8_block0.conv0.weight"] = torch.zeros(144, 80, 3, 3)
    return {"ema": state}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", r"f\.pt has no tensor dec\.4x4_in1\.conv1\.bias, expected with shape \(64,\)"),
        ("inferred from", r"f\.pt has no first convolution"),
        ("extra", r"f\.pt has a tensor enc\.8x8_block7\.unknown"),
        ("shape", r"f\.pt: tensor map_layer1\.bias has shape \(3,\), expected \(64,\)"),
        ("dimensions", r"map_layer0\.weight has shape \(3,\), expected 2 dimensions"),
        ("width", r"dec\.4x4_block0\.conv0\.weight has 17 channels"),
        ("no network", r"f\.pt describes a network that cannot be built: num_channels"),
    ],
)
def test_tensors_that_do_not_fit_are_named_in_one_line(damage, message, tmp_path):
    content = _damaged(content_of("inversebench-adm.pt", tmp_path), damage)
    with pytest.raises(ConfigError, match=message) as caught:
        edm.load(content, "f.pt")
    assert "\n" not in caught.value.message and len(caught.value.message) < 200


def test_damaged_pickles_are_refused(tmp_path):
    content = content_of("iddpm-adm.pkl", tmp_path)
    record = content["ema"]
    buffers = record.state["_buffers"]
    table = buffers["u"]
    buffers["u"] = table.flip(0)
    with pytest.raises(ConfigError, match="does not fall from high to low"):
        edm.load(content, "f.pkl")
    del buffers["u"]
    with pytest.raises(ConfigError, match="no table u"):
        edm.load(content, "f.pkl")
    # EDM preconditioning of a network with twice the channels
    record.class_name = "EDMPrecond"
    with pytest.raises(ConfigError, match="edm takes a network with 1 channels out, not 2"):
        edm.load(content, "f.pkl")


def test_a_setting_that_is_no_number_is_refused(tmp_path):
    content = content_of("vp-ddpmpp.pkl", tmp_path)
    content["ema"].state["beta_d"] = "19.9"
    with pytest.raises(ConfigError, match=r"f\.pkl: beta_d is no number"):
        edm.load(content, "f.pkl")


def test_endless_levels_and_blocks_are_refused():
    stem = {"map_layer0.weight": torch.zeros(4, 4), "enc.1x1_conv.weight": torch.zeros(4, 1, 3, 3)}
    endless = {
        **stem,
        "enc.0x0_down.conv0.weight": torch.zeros(1),
        "dec.1x1_block0.conv0.weight": torch.zeros(4, 4, 3, 3),
    }
    with pytest.raises(ConfigError, match=r"out_conv\.weight"):
        infer_dhariwal(endless, "f")
    sides = [2**k for k in range(12, 0, -1)]
    many = {f"enc.4096x4096_block{k}.conv0.weight": torch.zeros(1) for k in range(500)}
    many |= {f"enc.{s}x{s}_down.conv0.weight": torch.zeros(1) for s in sides[1:]}
    many |= {"map_layer0.weight": torch.zeros(4, 4), "enc.4096x4096_conv.weight": torch.zeros(4, 1, 3, 3)}
    with pytest.raises(ConfigError, match="more blocks than it has tensors"):
        infer_dhariwal(many, "f")


@pytest.mark.parametrize(
    "content",
    [
        None,
        3,
        [],
        {},
        {"ema": None},
        {"ema": {"shadow_params": []}},
        {"model.map_layer0.weight": 1},
        Record("EDMPrecond"),
    ],
)
def test_other_content_is_not_matched(content):
    assert not edm.matches(content)
    with pytest.raises(ConfigError, match="no EDM or InverseBench"):
        edm.load(content, "f")


def test_records_of_other_networks_are_not_matched(tmp_path):
    content = content_of("edm-adm.pkl", tmp_path)
    content["ema"].state["_modules"]["model"].class_name = "UNet"
    assert not edm.matches(content)
