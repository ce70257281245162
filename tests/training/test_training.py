"""Training: exact resumption, crops, configuration, export, report."""

from __future__ import annotations

import json
import tomllib
from importlib.resources import files
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from recon.errors import ConfigError, ReconError, ResourceError
from recon.priors.store import load_prior
from recon.runs.training import TrainRequest, export_prior, read_train_config, report_on_test, run_training
from recon.training.config import TrainConfig
from recon.training.intensity import foreground_quantile
from recon.training.loop import learning_rate, load_state, new_state, save_state, train
from recon.training.slices import prepare_volume, random_crop

TINY = {
    "name": "tiny",
    "description": "for tests",
    "crop": 16,
    "batch": 2,
    "steps": 6,
    "ema": [0.5, 0.9],
    "log_every": 2,
    "checkpoint_seconds": 0.0,
    "network": {"channels": [8, 16], "blocks": [1, 1], "unshuffle": 2, "embedding": 16, "groups": 4},
    "data": {"volumes": [{"path": "v.nii.gz", "source": "synthetic", "licence": "none"}]},
}


def config(**changes: object) -> TrainConfig:
    return TrainConfig.model_validate(TINY | changes)


def crop(rng: np.random.Generator) -> np.ndarray:
    """A disc of random radius and brightness in [-1, 1]."""
    y, x = np.mgrid[-8:8, -8:8]
    disc = (y**2 + x**2 < rng.uniform(9, 49)) * rng.uniform(1, 2)
    return (disc - 1).astype(np.float32)[None]


def finish(settings: TrainConfig, state, until: int):
    for _ in train(settings, state, crop, until):
        pass
    return state


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A folder with a ball of 24 voxels as v.nii.gz, with voxels of 1x1x2 mm."""
    z, y, x = np.mgrid[-12:12, -12:12, -12:12]
    ball = np.where(z**2 + y**2 + x**2 < 100, 80 + 20 * np.sin(x), 0).astype(np.float32)
    nib.Nifti1Image(ball, np.diag([1, 1, 2, 1])).to_filename(tmp_path / "v.nii.gz")
    return tmp_path


def test_resumed_training_is_bit_for_bit_the_uninterrupted_one(tmp_path):
    settings = config()
    whole = finish(settings, new_state(settings), 6)
    half = finish(settings, new_state(settings), 3)
    save_state(tmp_path, settings, half)
    resumed = finish(settings, load_state(tmp_path, settings), 6)
    assert resumed.step == whole.step == 6
    pairs = [*zip(whole.emas, resumed.emas, strict=True), (whole.network.state_dict(), resumed.network.state_dict())]
    for a, b in pairs:
        for key in a:
            assert torch.equal(a[key], b[key]), key


def test_the_learning_rate_warms_up_decays_and_falls_to_zero_in_the_cooldown():
    settings = config(cooldown=100, optimiser={"lr": 0.8, "warmup": 10, "decay_after": 100})
    rates = [learning_rate(settings, step, 500) for step in (0, 9, 100, 400, 450, 499)]
    assert rates == pytest.approx([0.08, 0.8, 0.8, 0.4, 0.2 / 4.5**0.5 * 2, 0.008 / 4.99**0.5])
    assert learning_rate(config(optimiser={"lr": 0.8, "decay_after": 100}), 400, 401) == pytest.approx(0.4)


def test_a_training_goes_on_with_another_end_and_cooldown(tmp_path):
    half = finish(config(), new_state(config()), 3)
    save_state(tmp_path, config(), half)
    longer = config(steps=8, cooldown=4)
    resumed = finish(longer, load_state(tmp_path, longer), 8)
    assert resumed.step == 8
    assert [group["lr"] for group in resumed.optimiser.param_groups] == [learning_rate(longer, 7, 8)]


def test_training_learns_and_averages_lag():
    settings = config(steps=400, log_every=100)
    state = finish(settings, new_state(settings), 400)
    losses = [row["loss"] for row in state.history]
    assert losses[-1] < 0.7 * losses[0]
    weights = state.network.state_dict()
    distance = [sum(float((e[k] - weights[k]).norm()) for k in weights) for e in state.emas]
    assert 0 < distance[0] < distance[1]


def test_a_state_of_another_configuration_is_refused(tmp_path):
    settings = config()
    save_state(tmp_path, settings, new_state(settings))
    with pytest.raises(ConfigError, match="batch"):
        load_state(tmp_path, config(batch=3))
    assert load_state(tmp_path, config(steps=99)).step == 0


def edited(folder: Path, change) -> None:
    """Rewrite the stored configuration of a state."""
    path = folder / "state.safetensors"
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata())
    meta = json.loads(header["meta"])
    change(meta["config"])
    save_file(load_file(path), path, metadata=header | {"meta": json.dumps(meta)})


def test_a_state_without_later_fields_is_loaded_while_they_have_their_defaults(tmp_path):
    settings = config()
    save_state(tmp_path, settings, new_state(settings))

    def forget(stored: dict) -> None:
        del stored["network"]["attention"], stored["data"]["volumes"][0]["credit"], stored["data"]["kind"]

    edited(tmp_path, forget)
    assert load_state(tmp_path, settings).step == 0
    entry = TINY["data"]["volumes"][0] | {"credit": "somebody"}
    with pytest.raises(ConfigError, match="another data"):
        load_state(tmp_path, config(data={"volumes": [entry]}))
    with pytest.raises(ConfigError, match="another network"):
        load_state(tmp_path, config(network=TINY["network"] | {"attention": 2}))


def test_a_state_with_fields_of_another_version_is_refused(tmp_path):
    settings = config()
    save_state(tmp_path, settings, new_state(settings))
    edited(tmp_path, lambda stored: stored["network"].update(experts=4))
    with pytest.raises(ConfigError, match="another network"):
        load_state(tmp_path, settings)


def test_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    settings = config()
    finish(settings, new_state(settings), 1)
    assert torch.equal(torch.rand(1), expected)


def test_unknown_keys_and_wrong_values_are_refused():
    with pytest.raises(ValueError, match="bacth"):
        config(bacth=3)
    with pytest.raises(ConfigError, match="brain-mri"):
        read_train_config("brain-mrt")


def test_shipped_configurations_are_valid_and_fit_their_priors():
    names = [p.name for p in files("recon.training.configs").iterdir() if p.name.endswith(".toml")]
    assert names
    for name in names:
        settings = read_train_config(name.removesuffix(".toml"))
        assert settings.name == name.removesuffix(".toml")
        assert all(f.licence and f.source for f in settings.data.files)
        assert tomllib.loads((files("recon.training.configs") / name).read_text())["name"] == settings.name


def test_run_export_load_and_report(volume):
    test = {"path": "v.nii.gz", "source": "synthetic", "licence": "none"}
    settings = config(data={"volumes": TINY["data"]["volumes"], "test": [test]})
    request = TrainRequest(settings, volume, volume / "state")
    rows: list[dict[str, float]] = []
    run_training(request, rows.append)
    assert [r["step"] for r in rows] == [2, 4, 6]
    provenance = export_prior(request, volume / "p.safetensors", 1, torch.float16, force=False)
    assert provenance["crops"] == 12 and len(provenance["data"][0]["sha256"]) == 64
    prior = load_prior(volume / "p.safetensors")
    assert prior.info.name == "tiny" and prior.info.multiple == 4
    assert json.loads(json.dumps(prior.info.provenance)) == json.loads(json.dumps(provenance))
    state = load_state(volume / "state", settings)
    for key, value in prior.network.state_dict().items():
        torch.testing.assert_close(value, state.emas[1][key].half().float(), rtol=0, atol=0)
    report = report_on_test(request, 0, (0.2,))
    assert len(report) == 3
    for row in report:
        assert row.noisy == pytest.approx(10 * np.log10(4 / 0.04), abs=1)
        assert row.tv_oracle > row.noisy and row.gain == row.prior - row.tv_oracle
    with pytest.raises(ConfigError, match="already") as caught:
        run_training(request, rows.append)
    assert "--resume" in str(caught.value.hint)


def test_missing_data_names_its_source(tmp_path):
    request = TrainRequest(config(), tmp_path, tmp_path / "state")
    with pytest.raises(ResourceError, match=r"v\.nii\.gz") as caught:
        run_training(request, lambda row: None)
    assert "synthetic" in str(caught.value.hint)


def test_changed_data_are_refused(volume):
    entry = TINY["data"]["volumes"][0] | {"sha256": "0" * 64}
    request = TrainRequest(config(data={"volumes": [entry]}), volume, volume / "state")
    with pytest.raises(ReconError, match="SHA-256"):
        run_training(request, lambda row: None)


def test_crops_keep_millimetres_range_and_variety():
    # a ball stays a disc in every crop although the voxels are twice as long along one axis
    z, y, x = np.mgrid[-30:30, -60:60, -60:60]
    ball = ((2 * z) ** 2 + y**2 + x**2 < 55**2).astype(np.float32) * 100
    prepared = [prepare_volume(ball, (2.0, 1.0, 1.0))]
    rng = np.random.default_rng(0)
    crops = [random_crop(prepared, 48, rng) for _ in range(40)]
    for image in crops:
        assert image.shape == (48, 48) and image.dtype == np.float32
        assert image.min() >= -1 and image.max() <= 2 * 1.1 * 1.2 - 1
    assert np.mean([np.mean(c > -0.8) for c in crops]) > 0.3
    assert len({c.tobytes() for c in crops}) == 40


def test_crop_depends_on_the_generator_alone():
    volume = [prepare_volume(np.random.default_rng(1).random((30, 30, 30)), (1.0, 1.0, 1.0))]
    a, b = (random_crop(volume, 16, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_foreground_quantile_ignores_background_and_scales():
    values = np.concatenate([np.zeros(9000), np.full(996, 50.0), np.full(4, 100.0)])
    assert foreground_quantile(values) == pytest.approx(50, abs=1e-9)
    assert foreground_quantile(3 * values) == pytest.approx(3 * foreground_quantile(values))
    assert foreground_quantile(np.zeros(10)) == 1.0
