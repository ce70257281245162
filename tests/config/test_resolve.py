"""Layers resolve in their order, every value knows its origin, and mistakes name their key and the nearest."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.config.resolve import describe, resolve
from recon.config.sources import parse_value
from recon.errors import ConfigError, UsageError

PRESET = "mri-x4-dds"


@given(given_by=st.sets(st.sampled_from(["preset", "file", "environment", "set", "flag"])))
@settings(max_examples=32, deadline=None)
def test_the_last_layer_that_gives_a_value_wins(tmp_path_factory, given_by):
    """defaults < preset < user file < environment < --set < flag, whichever of them give the value."""
    folder = tmp_path_factory.mktemp("layers")
    values = {"preset": 2, "file": 3, "environment": 4, "set": 5, "flag": 6}
    text = {layer: f"[run]\nsamples = {values[layer]}\n" if layer in given_by else "" for layer in values}
    (folder / "p.toml").write_text(f'extends = "{PRESET}"\n{text["preset"]}')
    (folder / "user.toml").write_text(text["file"])
    resolved = resolve(
        str(folder / "p.toml"),
        config_file=folder / "user.toml",
        environ={"RECON_RUN__SAMPLES": "4"} if "environment" in given_by else {},
        sets=["run.samples=5"] if "set" in given_by else [],
        flags={"run.samples": 6 if "flag" in given_by else None},
    )
    origins = {
        "preset": "preset p.toml",
        "file": "file user.toml",
        "environment": "environment RECON_RUN__SAMPLES",
        "set": "--set",
        "flag": "flag --samples",
    }
    winner = next((layer for layer in reversed(values) if layer in given_by), None)
    assert resolved.config.run.samples == (values[winner] if winner else 1)
    assert resolved.origins["run.samples"] == (origins[winner] if winner else "default")


def test_every_value_has_an_origin():
    resolved = resolve(PRESET, environ={})
    rows = {key: (value, origin) for key, value, origin in describe(resolved)}
    assert rows["method.steps"] == (100, "preset mri-x4-dds")
    assert rows["operator.kind"] == ("mri", "preset problems/mri-x4")
    assert rows["run.seed"] == (0, "default")
    assert set(rows) == set(resolved.origins)
    assert {key.partition(".")[0] for key in rows} == set(resolved.values)


def test_the_users_own_file_is_found(tmp_path):
    (tmp_path / "recon").mkdir()
    (tmp_path / "recon" / "config.toml").write_text('[run]\ndevice = "cuda:1"\n')
    resolved = resolve(PRESET, environ={"XDG_CONFIG_HOME": str(tmp_path)})
    assert (resolved.config.run.device, resolved.origins["run.device"]) == ("cuda:1", "file config.toml")
    home = resolve(PRESET, environ={"HOME": str(tmp_path)})
    assert home.config.run.device == "auto"


def test_a_config_file_stands_in_for_the_users_own(tmp_path):
    (tmp_path / "recon").mkdir()
    (tmp_path / "recon" / "config.toml").write_text("[run]\nsamples = 2\n")
    other = tmp_path / "other.toml"
    other.write_text("[run]\nseed = 5\n")
    resolved = resolve(PRESET, config_file=other, environ={"XDG_CONFIG_HOME": str(tmp_path)})
    assert (resolved.config.run.samples, resolved.config.run.seed) == (1, 5)


def test_variables_of_the_environment():
    resolved = resolve(
        PRESET,
        environ={
            "RECON_DEVICE": "cpu",
            "RECON_NUM_THREADS": "3",
            "RECON_SEED": "9",
            "RECON_METHOD__CG_ITERATIONS": "7",
            "RECON_RUN__SAMPLES": "",
            "RECON_CACHE_DIR": "/somewhere",
            "RECON_OF_ANOTHER_PROGRAM": "x",
        },
    )
    run = resolved.config.run
    assert (run.device, run.threads, run.seed, run.samples) == ("cpu", 3, 9, 1)
    assert resolved.config.method.params["cg_iterations"] == 7
    assert resolved.origins["run.threads"] == "environment RECON_NUM_THREADS"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("50", 50),
        ("0.5", 0.5),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ('"cpu"', "cpu"),
        ("cpu", "cpu"),
        ("", ""),
        ("./a file.safetensors", "./a file.safetensors"),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_a_value_is_a_toml_literal_or_text(text, value):
    assert parse_value(text) == value


def test_another_method_takes_its_settings_from_the_preset_of_the_problem():
    resolved = resolve(PRESET, method="dps", sets=["method.steps=20"], environ={})
    assert resolved.config.method.name == "dps"
    assert resolved.config.method.params["zeta"] == 4.0
    assert "gamma" not in resolved.config.method.params
    assert resolved.config.method.params["steps"] == 20
    assert resolved.origins["method.zeta"] == "preset mri-x4-dps"
    assert resolved.origins["method.name"] == "flag --method"
    assert resolved.origins["method.steps"] == "--set"
    assert "DPS" in resolved.config.description and "Posterior" in resolved.config.citation


def test_a_method_without_a_preset_of_the_problem_has_its_defaults():
    resolved = resolve(PRESET, method="tv", environ={})
    assert resolved.values["method"] == {"name": "tv"}
    assert "DDS" not in resolved.config.description and resolved.config.citation == ""
    assert resolved.origins["description"] == "preset problems/mri-x4"


def test_the_presets_own_method_changes_nothing_but_the_origin():
    same, plain = resolve(PRESET, method="dds", environ={}), resolve(PRESET, environ={})
    assert same.values == plain.values
    assert same.origins["method.name"] == "flag --method"


def test_a_problem_alone_takes_a_method():
    assert resolve("mri-x4", method="dds", environ={}).config.method.params["steps"] == 100
    with pytest.raises(ConfigError) as caught:
        resolve("mri-x4", environ={})
    assert caught.value.message == "method.name is not set" and "--method" in (caught.value.hint or "")


def test_a_fallback_method_counts_only_where_none_is_named():
    assert resolve("mri-x4", fallback_method="adjoint", environ={}).values["method"] == {"name": "adjoint"}
    named = resolve(PRESET, fallback_method="adjoint", environ={})
    assert named.values == resolve(PRESET, environ={}).values


def test_settings_of_another_method_in_the_users_file_do_not_reach_the_method_of_the_flag(tmp_path):
    file = tmp_path / "user.toml"
    file.write_text('[method]\nname = "dds"\neta = 0.1\n')
    assert "eta" not in resolve(PRESET, method="dps", config_file=file, environ={}).config.method.params
    assert resolve(PRESET, method="dds", config_file=file, environ={}).config.method.params["eta"] == 0.1


def test_without_a_preset_the_layers_must_give_all(tmp_path):
    resolved = resolve(None, method="tv", sets=["operator.kind=denoise"], environ={})
    assert (resolved.config.operator.kind, resolved.preset) == ("denoise", None)
    with pytest.raises(ConfigError, match=r"operator\.kind is not set"):
        resolve(None, method="tv", environ={})


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"sets": ["run.sampels=3"]}, "unknown key 'run.sampels' (--set)", "did you mean 'run.samples'?"),
        ({"sets": ["rum.samples=3"]}, "unknown section 'rum' (--set)", "did you mean 'run.samples'?"),
        ({"sets": ["samples=3"]}, "unknown key 'samples' (--set)", "did you mean 'run.samples'?"),
        ({"sets": ["run=3"]}, "'run' (--set): expected a section with keys: samples, seed", None),
        ({"sets": ["description.x=3"]}, "'description' (--set): expected one value", None),
        ({"sets": ["run.samples=many"]}, "run.samples = 'many' (--set): expected a valid integer", None),
        ({"sets": ["run.samples=0"]}, "run.samples = 0 (--set): expected greater than or equal to 1", None),
        ({"sets": ["run.samples=true"]}, "run.samples = True (--set): expected a valid integer", None),
        ({"sets": ["noise.kind=uniform"]}, "(--set): expected 'gaussian', 'poisson', 'transmission' or 'none'", None),
        ({"environ": {"RECON_SEED": "x"}}, "run.seed = 'x' (environment RECON_SEED): expected a valid int", None),
        ({"environ": {"RECON_RUN__SEDE": "1"}}, "unknown key 'run.sede' (environment RECON_RUN__SEDE)", "'run.seed'"),
        ({"environ": {"RECON_DEVCE": "cpu"}}, "unknown environment variable RECON_DEVCE", "RECON_DEVICE"),
        ({"flags": {"run.seed": -1}}, "run.seed = -1 (flag --seed): expected greater than or equal to 0", None),
        ({"flags": {"prior.name": 3}}, "prior.name = 3 (flag --prior): expected a valid string", None),
        ({"config_file": Path("none.toml")}, "no configuration file none.toml", None),
    ],
)
def test_a_mistake_names_key_origin_and_what_was_expected(changes, message, hint):
    with pytest.raises(ConfigError) as caught:
        resolve(PRESET, **{"environ": {}, **changes})
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")


def test_mistakes_in_files_are_found_too(tmp_path):
    file = tmp_path / "user.toml"
    for text, message in (
        ("[runn]\n", "unknown key 'runn' (file user.toml)"),
        ("run = 1\n", "'run' (file user.toml): expected a section"),
        ("[run\n", "user.toml is not valid TOML"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            resolve(PRESET, config_file=file, environ={})
        assert message in caught.value.message


@pytest.mark.parametrize("text", ["run.samples", "=3", ""])
def test_a_set_without_key_and_value_is_wrong_usage(text):
    with pytest.raises(UsageError):
        resolve(PRESET, sets=[text], environ={})
