"""One entry point for every prior file, `recon priors show|convert`, and `--prior FILE`."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoint_files import FIXTURES, arrays_of, unpack, unpack_folder
from safetensors.torch import save_file

from recon.errors import ConfigError, InputError, OutputExistsError, ResourceError, UsageError
from recon.priors import store
from recon.priors.base import PriorInfo
from recon.priors.catalog import describe_prior, file_sha256, prior_path, weights_sha256
from recon.priors.edm import EDMDenoiser
from recon.priors.gaussian import GaussianPrior
from recon.priors.networks.adm import ADM, ADMConfig
from recon.priors.networks.unet import UNet, UNetConfig
from recon.priors.open import open_prior, with_changes
from recon.priors.published import families
from recon.runs.priors import convert_prior

PUBLISHED = sorted(file.name.removesuffix(".xz") for file in FIXTURES.glob("*.xz"))
TINY = ADMConfig(1, 2, 8, (32,), heads=4)


def tiny_file(path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(ADM(TINY).state_dict(), path)
    return path


def inputs_for(prior, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    size = prior.info.multiple * 4
    x = torch.randn(2, prior.info.channels, size, size, generator=generator, dtype=dtype)
    labels = getattr(prior.network.config, "labels", 0)
    return x, torch.tensor([0.1, 3.0]), torch.tensor([0, 1]) if labels else None


def unpacked(name, folder):
    """Return the file, or the folder, of a fixture."""
    return unpack_folder(name.removesuffix(".tar"), folder) if name.endswith(".tar") else unpack(name, folder)


def test_there_is_a_fixture_of_every_network_that_can_be_written(tmp_path):
    found = {open_prior(unpacked(name, tmp_path)).network.__class__.__name__ for name in PUBLISHED}
    assert found | {"UNet"} == {network for _, network, _ in store.NETWORKS.values()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_converted_gives_identical_outputs(name, tmp_path):
    source, output = unpacked(name, tmp_path), tmp_path / "out.safetensors"
    facts = convert_prior(str(source), output)
    original, converted = open_prior(source), open_prior(output)
    x, sigma, cond = inputs_for(original)
    one, other = original(x, sigma, cond), converted(x, sigma, cond)
    assert torch.equal(one.x0, other.x0)
    assert (one.variance_mix is None) == (other.variance_mix is None)
    if one.variance_mix is not None:
        assert torch.equal(one.variance_mix, other.variance_mix)
    provenance = original.info.provenance | {"converted_from": {"file": source.name, "sha256": weights_sha256(source)}}
    assert converted.info == replace(original.info, provenance=json.loads(json.dumps(provenance)))
    assert converted.network.config == original.network.config and converted.settings == original.settings
    assert facts["sha256"] == file_sha256(output) and facts["parameters"] > 1000
    assert facts["name"] == (source.name if source.is_dir() else source.stem)


def test_a_trained_prior_of_ours_is_converted_too(tmp_path):
    network = UNet(UNetConfig(channels=(8, 16), blocks=(1, 1), embedding=16, groups=4))
    prior = EDMDenoiser(network, PriorInfo("tiny", 1, multiple=4, sizes=(8, 8)), 0.4)
    (tmp_path / "w.safetensors").write_bytes(store.dump_prior(prior))
    loaded = store.load_prior(tmp_path / "w.safetensors")
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(loaded(x, 0.3).x0, prior(x, 0.3).x0) and loaded.info == prior.info
    assert loaded.settings == {"sigma_data": 0.4}


def test_shipped_priors_are_opened_as_before():
    path = prior_path("brain-mri")
    prior = open_prior(path)
    assert isinstance(prior, EDMDenoiser) and prior.info.name == "brain-mri" and prior.sigma_data > 0
    facts = describe_prior("brain-mri")
    assert facts["network"]["in_channels"] == 1 and facts["sha256"] == weights_sha256(path)
    assert not any(p.is_meta for p in (*prior.network.parameters(), *prior.network.buffers()))


def test_loading_draws_no_random_numbers(tmp_path):
    source = tiny_file(tmp_path / "a.pt")
    convert_prior(str(source), tmp_path / "a.safetensors")
    before = torch.get_rng_state()
    open_prior(source), open_prior(tmp_path / "a.safetensors"), open_prior(prior_path("brain-mri"))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_no_shape_tells_can_be_stated(tmp_path):
    source = unpack("adm-new-order.pt", tmp_path)
    changes = ("new_order=true", "value_range=[-1, 1]", "complex_channels=false", "sizes=[8, 8]", "name=other")
    facts = convert_prior(str(source), tmp_path / "a.safetensors", changes)
    prior, arrays = open_prior(tmp_path / "a.safetensors"), arrays_of("adm-new-order")
    assert prior.network.config.new_order and facts["provenance"]["set"]["name"] == "other"
    info = prior.info
    assert (info.name, info.value_range, info.complex_channels, info.sizes) == ("other", (-1.0, 1.0), False, (8, 8))
    with torch.no_grad():
        found = prior.network(arrays["x"], arrays["t"].float())
    torch.testing.assert_close(found, arrays["out"], rtol=1e-4, atol=1e-5)


def test_a_stated_table_moves_the_levels(tmp_path):
    prior = open_prior(tiny_file(tmp_path / "a.pt"))
    cosine = with_changes(prior, {"schedule": "cosine"})
    assert cosine.info.sigma_max != prior.info.sigma_max
    assert (cosine.info.sigma_min, cosine.info.sigma_max) == cosine.preconditioning.range
    assert with_changes(prior, {"schedule": "cosine", "sigma_max": 50}).info.sigma_max == 50.0
    continuous = with_changes(prior, {"kind": "vp"})
    assert continuous.settings["kind"] == "vp" and continuous.info.sigma_max == pytest.approx(152.167, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heds": 2}, "no setting 'heds'"),
        ({"heads": 3}, "cannot be split into 3 heads"),
        ({"heads": "many"}, "heads: "),
        ({"blocks": 2}, "has no tensor input_blocks"),
        ({"value_range": [1, -1]}, "from low to high"),
        ({"value_range": 3}, "value_range: "),
        ({"sigma_max": 0.001}, "from low to high"),
        ({"schedule": "quadratic"}, "schedule 'quadratic'"),
        ({"channels": 16}, r"tensor time_embed\.0\.weight has shape"),
        ({"provenance": {}}, "no setting 'provenance'"),
    ],
)
def test_what_cannot_be_stated_is_refused(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        with_changes(open_prior(tiny_file(tmp_path / "a.pt")), change)
    assert "\n" not in caught.value.message


def test_convert_refuses_before_it_reads(tmp_path):
    source = tiny_file(tmp_path / "a.pt")
    with pytest.raises(UsageError, match=r"\.safetensors"):
        convert_prior(str(source), tmp_path / "out.pt")
    with pytest.raises(UsageError, match="expected key=value"):
        convert_prior(str(source), tmp_path / "out.safetensors", ("heads",))
    with pytest.raises(ResourceError, match="folder does not exist"):
        convert_prior(str(tmp_path / "gone.pt"), tmp_path / "none" / "out.safetensors")
    (tmp_path / "there.safetensors").write_bytes(b"kept")
    with pytest.raises(OutputExistsError):
        convert_prior(str(tmp_path / "gone.pt"), tmp_path / "there.safetensors")
    bad = tmp_path / "bad.pt"
    bad.write_bytes(source.read_bytes()[:5000])
    with pytest.raises(InputError):
        convert_prior(str(bad), tmp_path / "there.safetensors", force=True)
    assert (tmp_path / "there.safetensors").read_bytes() == b"kept"
    assert {p.name for p in tmp_path.iterdir()} == {"a.pt", "bad.pt", "there.safetensors"}


def test_a_prior_without_a_network_cannot_be_written():
    prior = GaussianPrior(torch.ones(1, 4, 4))
    with pytest.raises(ConfigError, match="no known network"):
        store.dump_prior(prior)
    with pytest.raises(ConfigError, match="nothing that can be changed"):
        with_changes(prior, {"heads": 1})


@pytest.mark.parametrize("damage", ["network", "denoiser", "blocks", "levels", "settings", "info", "missing"])
def test_damaged_configurations_of_our_own_format_are_refused(tmp_path, damage):
    convert_prior(str(tiny_file(tmp_path / "a.pt")), tmp_path / "a.safetensors")
    config = store.read_config(tmp_path / "a.safetensors")
    if damage == "blocks":
        config["adm"]["blocks"] = 10**9
    elif damage == "levels":
        config["adm"]["widths"] = [32] * 10**5
    elif damage == "settings":
        config["settings"]["count"] = 10**12
    elif damage == "info":
        config["info"] = 3
    elif damage == "missing":
        del config["settings"]
    else:
        config[damage] = "os.system"
    weights = {key: value.contiguous() for key, value in open_prior(tmp_path / "a.pt").network.state_dict().items()}
    save_file(weights, tmp_path / "b.safetensors", metadata={"format": store.FORMAT, "config": json.dumps(config)})
    with pytest.raises(ConfigError, match=r"b\.safetensors|no table of") as caught:
        open_prior(tmp_path / "b.safetensors")
    assert "\n" not in caught.value.message


def test_unknown_content_is_told_with_what_was_looked_for(tmp_path):
    torch.save({"weights": torch.ones(1), "step": 3}, tmp_path / "f.pt")
    with pytest.raises(
        ConfigError, match=r"f\.pt is no checkpoint of a known family: .* mapping of 2: weights, step"
    ) as caught:
        open_prior(tmp_path / "f.pt")
    for sign in ("guided-diffusion", "EDM", "score_sde"):
        assert sign in caught.value.hint
    save_file({"a": torch.ones(1)}, tmp_path / "f.safetensors")
    with pytest.raises(ConfigError, match=r"mapping of 1: a"):
        open_prior(tmp_path / "f.safetensors")
    with pytest.raises(ConfigError, match=r"it holds 2 files: f\.pt, f\.safetensors"):
        open_prior(tmp_path)


def test_every_family_answers_any_content(tmp_path):
    odd = [
        None,
        3,
        "text",
        [],
        (),
        {},
        {1: 2},
        {"ema": 3},
        {"ema": {"shadow_params": [1]}},
        torch.ones(2),
        {"a": {"b": {}}},
    ]
    for name in families.FAMILIES:
        for content in odd:
            assert families.family(name).matches(content) is False, (name, content)


def test_show_identifies_a_published_file(tmp_path, recon, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = unpack("adm-learned.pt", tmp_path)
    code, out, _ = recon("priors", "show", path.name, "--json")
    facts = json.loads(out)
    assert code == 0 and facts["provenance"]["family"] == "adm" and facts["channels"] == 3
    assert facts["network"]["widths"] == [32, 64] and facts["sha256"] == file_sha256(path)
    assert facts["sigma_max"] == pytest.approx(157.407, rel=1e-5) and facts["parameters"] == 747334
    code, out, _ = recon("priors", "show", path.name)
    assert code == 0 and "family: adm" in out and "architecture: ADM" in out


def test_convert_from_the_command_line(tmp_path, recon, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_file(tmp_path / "a.pt")
    code, out, _ = recon("priors", "convert", "a.pt", "b.safetensors", "--set", "name=mine", "--json")
    assert code == 0 and json.loads(out)["name"] == "mine" and json.loads(out)["output"] == "b.safetensors"
    code, _, err = recon("priors", "convert", "a.pt", "b.safetensors")
    assert code == 5 and "b.safetensors" in err
    assert recon("priors", "convert", "a.pt", "b.safetensors", "--force")[0] == 0
    assert recon("priors", "show", "b.safetensors")[0] == 0


def test_exit_codes_and_one_line_for_bad_files(tmp_path, recon, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = tiny_file(tmp_path / "a.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "evil.pkl").write_bytes(b"cos\nsystem\n(S'touch sentinel'\ntR.")
    torch.save({"a": 1}, tmp_path / "other.pt")
    state = torch.load(tmp_path / "a.pt", weights_only=True)
    torch.save({**state, "out.2.weight": torch.ones(2, 32, 5, 5)}, tmp_path / "misfit.pt")
    (tmp_path / "sub").mkdir()
    cases = {"cut.pt": 3, "evil.pkl": 3, "other.pt": 4, "misfit.pt": 4, "gone.pth": 7, "sub": 4, "./sub": 4}
    for name, expected in cases.items():
        for arguments in (("show", name), ("convert", name, "out.safetensors")):
            code, out, err = recon("priors", *arguments)
            assert code == expected and not out, (arguments, code, err)
            lines = err.splitlines()
            assert lines[0].startswith("recon: error: ") and all(line.startswith("hint: ") for line in lines[1:])
            assert len(lines) <= 2
    assert "give ./sub, the folder" in recon("priors", "show", "sub")[2]
    assert not (tmp_path / "sentinel").exists() and not (tmp_path / "out.safetensors").exists()


def test_a_run_takes_a_published_file_as_its_prior(tmp_path, recon, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_file(tmp_path / "a.pt")
    np.save(tmp_path / "truth.npy", np.random.default_rng(0).random((1, 12, 10)).astype(np.float32))
    assert recon("simulate", "truth.npy", "y.h5", "--preset", "denoise-dds", "-q")[0] == 0
    arguments = ("--preset", "denoise-dds", "--prior", "a.pt", "--set", "method.steps=2", "--json", "-q")
    code, out, err = recon("run", "y.h5", "out.npy", *arguments)
    assert code == 0, err
    assert json.loads(out)["status"] == "ok" and np.isfinite(np.load(tmp_path / "out.npy")).all()
    sidecar = json.loads((tmp_path / "out.npy.json").read_text())["Recon"]
    assert sidecar["Weights"] == {"name": "a", "sha256": file_sha256(tmp_path / "a.pt")}
    code, _, err = recon("rerun", "out.npy.json", "again.npy", "-q")
    assert code == 0, err
    assert np.array_equal(np.load(tmp_path / "out.npy"), np.load(tmp_path / "again.npy"))
    two = unpack("adm-new-order.pt", tmp_path)
    code, _, err = recon("run", "y.h5", "other.npy", "--preset", "denoise-dds", "--prior", two.name, "-q")
    assert code == 4 and "is for complex images, but the operator's images are real" in err


def test_the_hash_of_a_folder_follows_its_files(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    first = weights_sha256(tmp_path)
    (tmp_path / "notes.txt").write_text("not part of the model")
    assert weights_sha256(tmp_path) == first
    (tmp_path / "unet" / "config.json").write_text("{ }")
    assert weights_sha256(tmp_path) != first


def test_a_file_of_another_suffix_is_known_by_its_bytes(tmp_path):
    convert_prior(str(tiny_file(tmp_path / "a.pt")), tmp_path / "a.safetensors")
    (tmp_path / "renamed.bin").write_bytes((tmp_path / "a.safetensors").read_bytes())
    assert open_prior(tmp_path / "renamed.bin").info == open_prior(tmp_path / "a.safetensors").info
    (tmp_path / "plain.bin").write_bytes(pickle.dumps(ADM(TINY).state_dict()))
    assert open_prior(tmp_path / "plain.bin").network.config == TINY
