"""Folders of diffusers models against the outputs of that library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import arrays_of, as_tensors, largest_difference, shapes_of, unpack_folder

from recon.errors import ConfigError, InputError
from recon.priors.networks.diffusers_unet import DiffusersUNet
from recon.priors.open import open_prior
from recon.priors.preconditioning import VPTable
from recon.priors.published import diffusers
from recon.priors.published.content import Folder
from recon.priors.published.diffusers_config import read_scheduler, read_unet
from recon.priors.published.reader import read_checkpoint
from recon.priors.published.weights import check_shapes, empty
from recon.priors.store import dump_prior, load_prior

FOLDERS = {
    "diffusers-ddpm-old": VPTable(),
    "diffusers-cosine-v": VPTable("cosine", 100, prediction="v"),
    "diffusers-sample": VPTable("scaled-linear", beta_min=0.00085, beta_max=0.012, prediction="sample"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_outputs_are_those_of_the_library(name, tmp_path):
    prior, arrays = open_prior(unpack_folder(name, tmp_path)), arrays_of(name)
    assert prior.preconditioning == FOLDERS[name] and prior.info.provenance["family"] == "diffusers"
    x, sigma, labels = arrays["x"], arrays["sigma"], arrays.get("labels")
    assert len(sigma) >= 8
    assert largest_difference(prior(x, sigma, labels).x0, arrays["x0"]) <= 1e-5
    one = prior(x[2:3], float(sigma[2]), None if labels is None else labels[2:3]).x0
    assert largest_difference(one, arrays["x0"][2:3]) <= 1e-5
    assert prior.info.sigma_min == pytest.approx(float(sigma.min())) and prior.info.sigma_max > float(sigma.max())
    assert prior.info.provenance["sample_size"] == 8 and prior.info.multiple == 2


def test_ranges_follow_from_the_network(tmp_path):
    plain = open_prior(unpack_folder("diffusers-ddpm-old", tmp_path)).info
    assert plain.value_range == (-1.0, 1.0) and plain.name == "diffusers-ddpm-old" and plain.channels == 1
    # its network takes [0, 1] to [-1, 1] itself
    assert open_prior(unpack_folder("diffusers-sample", tmp_path)).info.value_range == (0.0, 1.0)


def test_a_class_is_needed_where_the_network_was_trained_with_classes(tmp_path):
    prior, arrays = open_prior(unpack_folder("diffusers-cosine-v", tmp_path)), arrays_of("diffusers-cosine-v")
    with pytest.raises(ConfigError, match="one of 3 classes"):
        prior(arrays["x"], arrays["sigma"])
    other = prior(arrays["x"], arrays["sigma"], (arrays["labels"] + 1) % 3).x0
    assert largest_difference(other, arrays["x0"]) > 1e-3


@pytest.mark.parametrize("name", FOLDERS)
def test_written_in_our_format_and_read_again(name, tmp_path):
    prior, arrays = open_prior(unpack_folder(name, tmp_path)), arrays_of(name)
    path = tmp_path / "ours.safetensors"
    path.write_bytes(dump_prior(prior))
    again = load_prior(path)
    assert again.preconditioning == prior.preconditioning and again.network.config == prior.network.config
    assert largest_difference(again(arrays["x"], arrays["sigma"], arrays.get("labels")).x0, arrays["x0"]) <= 1e-5


def test_the_published_ddpm_network_at_full_size():
    found = {
        "_class_name": "UNet2DModel",
        "attention_head_dim": None,
        "block_out_channels": [128, 128, 256, 256, 512, 512],
        "down_block_types": ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
        "downsample_padding": 0,
        "norm_eps": 1e-6,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 2,
    }
    config, learned = read_unet(found, "f")
    assert not learned and config.attention_down == (4,) == config.attention_up and config.multiple == 32
    shapes = shapes_of("diffusers-ddpm-256")
    expected = empty(lambda: DiffusersUNet(config), "f").state_dict()
    check_shapes({key: tuple(value.shape) for key, value in expected.items()}, as_tensors(shapes), "f")


def test_description_is_plain(tmp_path):
    facts = diffusers.describe(read_checkpoint(unpack_folder("diffusers-cosine-v", tmp_path)))
    assert facts["preconditioning"] == "vp, table of 100 levels, cosine, F is v" and facts["widths"] == (8, 16)
    assert json.loads(json.dumps(facts))["sample_size"] == 8


def test_missing_keys_have_the_librarys_defaults():
    config, learned = read_unet({}, "f")
    assert not learned and config.widths == (224, 448, 672, 896) and config.blocks == 2 and config.head_channels == 8
    assert config.attention_down == (1, 2, 3) == config.attention_up and config.eps == 1e-5 and config.cosine_first
    assert read_scheduler({}, "f") == (VPTable(), "fixed_small")


def test_learned_variances_are_told_apart(tmp_path):
    folder = unpack_folder("diffusers-ddpm-old", tmp_path)
    _edit(folder / "config.json", out_channels=2)
    weights = torch.load(folder / "diffusion_pytorch_model.bin", weights_only=True)
    for key in ("conv_out.weight", "conv_out.bias"):
        weights[key] = torch.cat([weights[key], 0 * weights[key] + 0.5])
    torch.save(weights, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ConfigError, match="variance is 'fixed_small'"):
        open_prior(folder)
    _edit(folder / "scheduler_config.json", variance_type="learned_range")
    arrays = arrays_of("diffusers-ddpm-old")
    found = open_prior(folder)(arrays["x"], arrays["sigma"])
    assert largest_difference(found.x0, arrays["x0"]) <= 1e-5
    assert found.variance_mix is not None and found.variance_mix.shape == found.x0.shape


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"_class_name": "UNet2DConditionModel"},
            "network's _class_name is UNet2DConditionModel, expected UNet2DModel",
        ),
        ({"time_embedding_type": "fourier"}, "time_embedding_type is fourier, expected positional"),
        ({"down_block_types": ["SkipDownBlock2D"] * 2}, "down_block_types is SkipDownBlock2D, SkipDownBlock2D"),
        ({"up_block_types": ["UpBlock2D"]}, "up_block_types is UpBlock2D, expected 2 of"),
        ({"block_out_channels": [8, "16"]}, "a list of int"),
        ({"block_out_channels": 8}, "a list of 1 to 16"),
        ({"block_out_channels": [8, 0]}, "widths of at least 1"),
        ({"layers_per_block": 0}, "layers_per_block is 0, expected a whole number"),
        ({"layers_per_block": True}, "layers_per_block is True"),
        ({"layers_per_block": 10**5}, "more blocks than the weights have tensors"),
        ({"layers_per_block": 2}, r"has no tensor down_blocks\.0\.resnets\.1"),
        ({"add_attention": False}, r"has a tensor mid_block\.attentions\.0"),
        ({"norm_eps": "tiny"}, "norm_eps is tiny, expected a number"),
        ({"flip_sin_to_cos": 1}, "flip_sin_to_cos is 1, expected true or false"),
        ({"out_channels": 5}, "out_channels is 5, expected 1 or 2"),
        ({"norm_num_groups": 3}, "cannot be built"),
        ({"attention_head_dim": 64}, "an attention head of 64 channels does not fit into 16"),
    ],
)
def test_networks_that_are_not_known_are_refused_by_their_key(changes, message, tmp_path):
    folder = unpack_folder("diffusers-ddpm-old", tmp_path)
    _edit(folder / "config.json", **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        open_prior(folder)
    assert "\n" not in caught.value.message and len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "ScoreSdeVeScheduler"}, "scheduler's _class_name is ScoreSdeVeScheduler"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule is sigmoid"),
        ({"prediction_type": "flow"}, "prediction_type is flow"),
        ({"trained_betas": [0.1]}, "trained_betas"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is True"),
        ({"num_train_timesteps": 1}, "num_train_timesteps is 1"),
        ({"beta_end": None}, "beta_end is None"),
        ({"beta_end": 0.00001}, "no table of 1000 levels"),
    ],
)
def test_schedulers_that_are_not_known_are_refused_by_their_key(changes, message, tmp_path):
    folder = unpack_folder("diffusers-ddpm-old", tmp_path)
    _edit(folder / "scheduler_config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        open_prior(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scheduler_config.json", r"has no scheduler/scheduler_config\.json"),
        ("diffusion_pytorch_model.bin", r"has no diffusion_pytorch_model\.safetensors"),
    ],
)
def test_a_missing_file_is_named(name, message, tmp_path):
    folder = unpack_folder("diffusers-ddpm-old", tmp_path)
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=message):
        open_prior(folder)


def test_latent_models_damaged_files_and_other_content_are_refused(tmp_path):
    folder = unpack_folder("diffusers-cosine-v", tmp_path)
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="prior of latents"):
        open_prior(folder)
    (folder / "vae" / "config.json").unlink()
    config = folder / "unet" / "config.json"
    text = config.read_text()
    config.write_text("[1]")
    with pytest.raises(ConfigError, match="no JSON object"):
        open_prior(folder)
    config.write_text(text[:30])
    with pytest.raises(InputError, match="JSON"):
        open_prior(folder)
    config.write_text(text)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(InputError, match="damaged"):
        open_prior(folder)
    for content in (None, {}, {"unet/config.json": 1}, Folder("f", ("a.txt",), lambda name: name)):
        assert not diffusers.matches(content)
        with pytest.raises(ConfigError, match="no folder of a diffusers model"):
            diffusers.load(content, "f")
    assert not diffusers.matches(read_checkpoint(tmp_path))
