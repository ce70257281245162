"""score_sde files against the outputs of the authors' own networks."""

from __future__ import annotations

import pytest
import torch
from checkpoint_files import arrays_of, as_tensors, content_of, largest_difference, shapes_of

from recon.errors import ConfigError
from recon.priors.networks.ncsnpp import NCSNpp, NCSNppConfig
from recon.priors.published import ncsnpp
from recon.priors.published.families import identify
from recon.priors.published.ncsnpp_shapes import infer_ncsnpp
from recon.priors.published.weights import check_shapes, empty
from recon.priors.store import dump_prior, load_prior

CHECKPOINTS = {"score-sde-residual.pth": 378.0, "score-sde-skip.pth": 348.0}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_outputs_are_those_of_the_authors_network(name, tmp_path):
    content, arrays = content_of(name, tmp_path), arrays_of(name)
    assert identify(content, name) == "score_sde"
    prior = ncsnpp.load(content, name)
    x, sigma, expected = arrays["x"], arrays["sigma"], arrays["x0"]
    assert len(sigma) >= 8 and float(sigma.min()) < 0.05 and float(sigma.max()) > 100
    assert largest_difference(prior(x, sigma).x0, expected) <= 1e-5
    assert largest_difference(prior(x[4:5], float(sigma[4])).x0, expected[4:5]) <= 1e-5
    assert prior.info.value_range == (0.0, 1.0) and prior.info.sizes is None
    assert prior.info.sigma_min == pytest.approx(0.01) and prior.info.sigma_max == pytest.approx(CHECKPOINTS[name])
    facts = prior.info.provenance
    assert facts["architecture"] == "NCSN++" and facts["averaged"] and facts["step"] == 1200


def test_the_averages_are_laid_over_the_trainable_tensors_in_order(tmp_path):
    content, arrays = content_of("score-sde-residual.pth", tmp_path), arrays_of("score-sde-residual")
    trained = {"model": content["model"]}
    assert not ncsnpp.describe(trained)["averaged"]
    found = ncsnpp.load(trained, "f.pth")(arrays["x"], arrays["sigma"]).x0
    assert largest_difference(found, arrays["x0"]) > 1e-3
    # two neighbours of one shape, exchanged
    shadow = content["ema"]["shadow_params"]
    i = next(k for k in range(10, len(shadow)) if shadow[k].shape == shadow[k + 1].shape)
    shadow[i], shadow[i + 1] = shadow[i + 1], shadow[i]
    found = ncsnpp.load(content, "f.pth")(arrays["x"], arrays["sigma"]).x0
    assert largest_difference(found, arrays["x0"]) > 1e-4


def test_a_file_without_the_table_has_the_published_levels(tmp_path):
    content = content_of("score-sde-residual.pth", tmp_path)
    del content["model"]["module.sigmas"]
    info = ncsnpp.load(content, "f.pth").info
    assert (info.sigma_min, info.sigma_max) == (0.01, 378.0)
    for damaged in (torch.zeros(0), torch.zeros(3), torch.tensor([1.0, float("nan")])):
        content["model"]["module.sigmas"] = damaged
        with pytest.raises(ConfigError, match=r"f\.pth: the table sigmas of noise levels is damaged"):
            ncsnpp.load(content, "f.pth")


def test_written_in_our_format_and_read_again(tmp_path):
    prior, arrays = ncsnpp.load(content_of("score-sde-skip.pth", tmp_path), "f.pth"), arrays_of("score-sde-skip")
    path = tmp_path / "ours.safetensors"
    path.write_bytes(dump_prior(prior))
    assert largest_difference(load_prior(path)(arrays["x"], arrays["sigma"]).x0, arrays["x0"]) <= 1e-5


def test_other_sizes_than_the_training_size(tmp_path):
    prior = ncsnpp.load(content_of("score-sde-skip.pth", tmp_path), "f.pth")
    assert prior.info.multiple == 4
    assert prior(torch.rand(1, 3, 20, 13), 0.3).x0.shape == (1, 3, 20, 13)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("score-sde-aapm-256", NCSNppConfig(1, 128, (1, 2, 2, 2), 4, (), "residual", "none")),
        ("score-sde-ffhq-256", NCSNppConfig(3, 128, (1, 1, 2, 2, 2, 2, 2), 2, (4,), "input_skip", "output_skip")),
    ],
)
def test_published_networks_at_full_size(name, expected):
    shapes = {key.removeprefix("module."): shape for key, shape in shapes_of(name).items()}
    assert shapes.pop("sigmas") == (2000,)
    tensors = as_tensors(shapes)
    assert infer_ncsnpp(tensors, name) == expected
    network = empty(lambda: NCSNpp(expected), name)
    check_shapes({k: tuple(v.shape) for k, v in network.state_dict().items()}, tensors, name)
    # the averages are a list: the order counts
    assert list(network.state_dict()) == list(shapes)


ARCHITECTURES = [
    *(NCSNppConfig(2, 8, (1,), blocks, attention, "none", "none") for blocks, attention in ((2, (0,)), (1, ()))),
    *(
        NCSNppConfig(2, 8, *levels, image_in, image_out)
        for levels in (((1, 2), 1, (0, 1)), ((2, 1, 2), 2, (1,)), ((1, 1, 1), 3, ()))
        for image_in in ("none", "input_skip", "residual")
        for image_out in ("none", "output_skip")
    ),
]


@pytest.mark.parametrize("config", ARCHITECTURES, ids=repr)
def test_every_architecture_is_inferred_from_its_own_shapes(config):
    tensors = empty(lambda: NCSNpp(config), "f").state_dict()
    assert infer_ncsnpp(tensors, "f") == config


def _damage(content, damage):
    model, shadow = content["model"], content["ema"]["shadow_params"]
    if damage == "missing":
        # of the last module, so that all kinds are still known
        key = [k for k in model if k.endswith("Dense_0.bias")][-1]
        i = [k for k in model if not k.endswith((".0.W", "sigmas"))].index(key)
        del model[key], shadow[i]
    elif damage == "short":
        shadow.pop()
    elif damage == "shape":
        shadow[3] = torch.zeros(5)
    elif damage == "no list":
        content["ema"]["shadow_params"] = None
    elif damage == "gap":
        for key in [k for k in model if k.startswith("module.all_modules.9.")]:
            del model[key]
    elif damage == "kind":
        for key in [k for k in model if k.startswith("module.all_modules.5.")]:
            del model[key]
        model["module.all_modules.5.strange"] = torch.zeros(2)
    elif damage == "extra":
        model["module.unknown"] = torch.zeros(2)
    else:
        del model["module.all_modules.1.weight"]
    if damage in ("gap", "kind", "extra", "start"):
        del content["ema"]
    return content


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", r"f\.pth has no tensor all_modules\.\d+\.Dense_0\.bias, expected with shape \(8,\)"),
        ("short", r"f\.pth has \d+ averaged tensors for \d+ trainable"),
        ("shape", r"the average of all_modules\.2\.bias has shape \(5,\), expected \(32,\)"),
        ("no list", r"no list 'shadow_params'"),
        ("gap", r"has no tensors of all_modules\.9"),
        ("kind", r"all_modules\.5 is of no known kind: it has strange"),
        ("extra", r"has a tensor unknown"),
        ("start", r"all_modules\.1 is of no known kind"),
    ],
)
def test_tensors_that_do_not_fit_are_named_in_one_line(damage, message, tmp_path):
    content = _damage(content_of("score-sde-residual.pth", tmp_path), damage)
    with pytest.raises(ConfigError, match=message) as caught:
        ncsnpp.load(content, "f.pth")
    assert "\n" not in caught.value.message


def test_networks_of_discrete_levels_are_refused(tmp_path):
    content = content_of("score-sde-residual.pth", tmp_path)["model"]
    shifted = {k: v for k, v in content.items() if not k.startswith("module.all_modules.1.")}
    renamed = {}
    for key, value in shifted.items():
        parts = key.split(".")
        if len(parts) > 2 and int(parts[2]) > 1:
            parts[2] = str(int(parts[2]) - 1)
        renamed[".".join(parts)] = value
    with pytest.raises(ConfigError, match="does not start with Fourier features, two linear layers"):
        ncsnpp.load(renamed, "f.pth")


@pytest.mark.parametrize("content", [None, 3, [], {}, {"model": {}}, {"model": {"all_modules.0.W": 1}}])
def test_other_content_is_not_matched(content):
    assert not ncsnpp.matches(content)
    with pytest.raises(ConfigError, match="no score_sde checkpoint"):
        ncsnpp.load(content, "f")
