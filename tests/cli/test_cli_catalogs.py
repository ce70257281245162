"""The commands that list and show, `config show`, `samples` and `doctor`."""

import json
from pathlib import Path

import pytest
import typer

from recon.config.presets import preset_names
from recon.errors import ConfigError, OutputExistsError, ResourceError
from recon.operators.catalog import OPERATORS
from recon.runs.methods import METHODS


def test_lists_name_everything(call):
    assert {entry["name"] for entry in json.loads(call("presets", "list", "--json"))["presets"]} == set(preset_names())
    assert {entry["name"] for entry in json.loads(call("methods", "list", "--json"))["methods"]} == set(METHODS)
    assert {entry["kind"] for entry in json.loads(call("operators", "list", "--json"))["operators"]} == set(OPERATORS)
    for group, names in (("presets", preset_names()), ("methods", METHODS), ("operators", OPERATORS)):
        shown = [line.split()[0] for line in call(group, "list").splitlines()[1:]]
        assert shown == list(names)


@pytest.mark.parametrize("kind", sorted(OPERATORS))
def test_every_operator_shows_its_parameters(call, kind):
    found = json.loads(call("operators", "show", kind, "--json"))
    assert found["kind"] == kind and isinstance(found["parameters"], list)
    text = call("operators", "show", kind)
    assert all(entry["name"] in text for entry in found["parameters"])
    assert all(name in text for name in found["arrays"])


def test_an_operator_shows_defaults_and_arrays(call):
    found = json.loads(call("operators", "show", "mri", "--json"))
    defaults = {entry["name"]: entry.get("default") for entry in found["parameters"]}
    assert defaults["acceleration"] == 4.0 and "mask" in found["arrays"]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_shows_its_settings(call, name):
    found = json.loads(call("methods", "show", name, "--json"))
    assert found["name"] == name and isinstance(found["settings"], list)
    assert all(entry["name"] in call("methods", "show", name) for entry in found["settings"])


def test_a_method_shows_needs_citation_and_presets(call):
    found = json.loads(call("methods", "show", "dds", "--json"))
    assert found["needs"] == ["adjoint", "linear"] and "2024" in found["citation"]
    assert "mri-x4-dds" in found["presets"] and "mri-x4-dps" not in found["presets"]
    defaults = {entry["name"]: entry["default"] for entry in found["settings"]}
    assert defaults["eta"] == 0.85


def test_unknown_names_are_refused_with_the_nearest(call):
    for group, name, nearest in (
        ("methods", "ddz", "dds"),
        ("operators", "mrii", "mri"),
        ("presets", "sr4-dp", "sr4-dp"),
    ):
        with pytest.raises(ConfigError, match=f"did you mean '{nearest}"):
            call(group, "show", name)


def test_a_preset_shows_values_and_where_they_come_from(call):
    found = json.loads(call("presets", "show", "mri-x4-dds", "--json"))
    assert found["extends"] == ["problems/mri-x4"] and found["problem"] == "mri-x4"
    assert found["values"]["method"]["steps"] == 100
    assert found["origins"]["operator.kind"] == "preset problems/mri-x4"
    rows = [line.split() for line in call("presets", "show", "mri-x4-dds").splitlines()]
    assert ["operator.kind", "mri", "preset", "problems/mri-x4"] in rows


def test_config_show_names_origins_of_flags_and_sets(call, monkeypatch):
    monkeypatch.setenv("RECON_NUM_THREADS", "2")
    arguments = ("config", "show", "-p", "mri-x4-dds", "-m", "dps", "--samples", "3", "-s", "method.steps=9", "--json")
    found = json.loads(call(*arguments))
    assert found["values"]["run"]["samples"] == 3 and found["origins"]["run.samples"] == "flag --samples"
    assert found["values"]["run"]["threads"] == 2 and found["origins"]["run.threads"] == "environment RECON_NUM_THREADS"
    assert found["values"]["method"] == {
        "name": "dps", "steps": 9, "grid": "vp", "zeta": 4.0, "form": "ancestral", "clip": False,
    }  # fmt: skip
    assert found["origins"]["method.steps"] == "--set" and found["origins"]["method.zeta"] == "preset mri-x4-dps"
    rows = [line.split() for line in call(*arguments[:-1]).splitlines()]
    assert ["run.samples", "3", "flag", "--samples"] in rows


def test_samples_are_listed_with_their_licences(call):
    found = json.loads(call("samples", "list", "--json"))["samples"]
    assert len(found) >= 5 and all(entry["licence"] and entry["what"] for entry in found)


def test_samples_are_copied_with_licences_and_never_over_other_files(call, tmp_path):
    folder = tmp_path / "new" / "samples"
    copied = json.loads(call("samples", "copy", "camera", "brain_slice.nii.gz", str(folder), "--json"))["copied"]
    names = {"camera.png", "brain_slice.nii.gz", "LICENCES.md"}
    assert {Path(name).name for name in copied} == names == {p.name for p in folder.iterdir()}
    call("samples", "copy", "camera", str(folder))
    (folder / "camera.png").write_bytes(b"mine")
    with pytest.raises(OutputExistsError, match=r"camera\.png"):
        call("samples", "copy", str(folder))
    assert (folder / "camera.png").read_bytes() == b"mine" and {p.name for p in folder.iterdir()} == names
    call("samples", "copy", "camera", str(folder), "--force")
    assert (folder / "camera.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ConfigError, match="unknown sample 'camra'"):
        call("samples", "copy", "camra", str(folder))
    with pytest.raises(ResourceError, match="cannot make folder"):
        call("samples", "copy", str(folder / "camera.png" / "x"))


def test_a_doctor_reports_and_finds_what_is_missing(call, monkeypatch, capsys):
    from recon.priors import catalog

    good, bad = catalog.WeightsCheck("a", True, "0" * 64), catalog.WeightsCheck("b", False, "altered")
    monkeypatch.setattr(catalog, "check_weights", lambda: [good])
    report = json.loads(call("doctor", "--json"))
    assert report["ok"] is True
    assert {"python", "torch", "numpy", "kernels", "threads", "devices", "memory", "disk", "cache", "prior a"} <= set(
        report["facts"]
    )
    assert "cpu" in report["facts"]["devices"]["value"]
    monkeypatch.setattr(catalog, "check_weights", lambda: [good, bad])
    with pytest.raises(typer.Exit) as caught:
        call("doctor", "--json")
    assert caught.value.exit_code == 7
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False and report["facts"]["prior b"]["ok"] is False


def test_a_doctor_without_weights_or_cache_is_not_well(call, monkeypatch, capsys, tmp_path):
    from recon.priors import catalog

    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("RECON_CACHE_DIR", str(blocked / "cache"))
    monkeypatch.setattr(catalog, "check_weights", lambda: [])
    with pytest.raises(typer.Exit):
        call("doctor")
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "MISSING" in lines["cache"] and "MISSING" in lines["priors"]
