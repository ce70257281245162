"""Finding, listing and loading presets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recon.config.presets import list_presets, load_preset, preset_names
from recon.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A preset folder with a problem, a preset of it, and one that extends that."""
    (tmp_path / "problems").mkdir()
    (tmp_path / "problems" / "toy.toml").write_text('description = "toy"\n[operator]\nkind = "denoise"\n')
    (tmp_path / "toy-dds.toml").write_text(
        'extends = "problems/toy"\n[method]\nname = "dds"\ngamma = 3.0\n[noise]\nsigma = 0.1\n'
    )
    (tmp_path / "mine.toml").write_text('extends = "toy-dds.toml"\ndescription = "mine"\n[method]\ngamma = 4.0\n')
    return tmp_path


def environ(*folders: Path) -> dict[str, str]:
    return {"RECON_PRESET_PATH": os.pathsep.join(map(str, folders))}


def test_presets_of_a_folder_come_with_the_shipped_ones(folder):
    names = preset_names(environ(folder))
    assert {"toy-dds", "problems/toy", "mri-x4-dds", "problems/mri-x4"} <= set(names)
    assert names.index("toy-dds") < names.index("problems/mri-x4"), "problems come last"


def test_a_folder_that_is_not_there_does_no_harm(tmp_path):
    assert preset_names(environ(tmp_path / "none")) == preset_names({})


def test_a_preset_holds_what_it_extends_with_origins(folder):
    preset = load_preset("toy-dds", environ(folder))
    assert preset.layer.values == {
        "description": "toy",
        "operator": {"kind": "denoise"},
        "method": {"name": "dds", "gamma": 3.0},
        "noise": {"sigma": 0.1},
    }
    assert preset.layer.origins["operator.kind"] == "preset problems/toy"
    assert preset.layer.origins["method.gamma"] == "preset toy-dds"
    assert (preset.problem, preset.method, preset.chain) == ("toy", "dds", ("toy-dds", "problems/toy"))


def test_a_file_extends_a_file_beside_it(folder):
    (folder / "toy-dds.toml").write_text('extends = "problems/toy.toml"\n[method]\nname = "dds"\ngamma = 3.0\n')
    preset = load_preset(str(folder / "mine.toml"), {})
    assert preset.layer.values["method"] == {"name": "dds", "gamma": 4.0}
    assert preset.layer.values["description"] == "mine"
    assert preset.layer.origins["operator.kind"] == "preset toy.toml"
    assert preset.name == "mine.toml"


def test_a_file_extends_a_shipped_preset(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('extends = "mri-x4-dds"\n[method]\nsteps = 7\n')
    preset = load_preset(str(file), {})
    assert preset.layer.values["method"]["steps"] == 7
    assert preset.layer.values["operator"]["kind"] == "mri"
    assert preset.problem == "mri-x4"


def test_the_problem_of_a_preset_without_a_problem_file(tmp_path):
    (tmp_path / "own-dps.toml").write_text('[operator]\nkind = "denoise"\n[method]\nname = "dps"\n')
    assert load_preset("own-dps", environ(tmp_path)).problem == "own"


def test_a_bare_problem_name_means_its_problem():
    assert load_preset("mri-x4", {}).name == "problems/mri-x4"


def test_an_own_folder_goes_before_the_shipped_presets(tmp_path):
    (tmp_path / "mri-x4-dds.toml").write_text('description = "other"\n')
    assert load_preset("mri-x4-dds", environ(tmp_path)).layer.values == {"description": "other"}


def test_the_hash_changes_with_every_file_of_the_chain(folder):
    first = load_preset("toy-dds", environ(folder)).sha256
    parent = folder / "problems" / "toy.toml"
    parent.write_text(parent.read_text() + "# changed\n")
    assert load_preset("toy-dds", environ(folder)).sha256 != first


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        ({}, "mri-x4-dd", "did you mean 'mri-x4-dds'"),
        ({}, "nowhere.toml", "no preset file nowhere.toml"),
        ({}, "../presets/mri-x4-dds", "unknown preset"),
        ({"a": 'extends = "b"', "b": 'extends = "a"'}, "a", "extend each other: a -> b -> a"),
        ({"a": 'extends = "a"'}, "a", "extend each other: a -> a"),
        ({"a": 'extends = "mri-x5"'}, "a", "unknown preset 'mri-x5', which preset 'a' extends; did you mean 'mri-x"),
        ({"a": 'extends = "gone.toml"'}, "a", "no preset file gone.toml, which preset 'a' extends"),
        ({"a": 'extends = ["b"]'}, "a", "expected the name of one preset"),
        ({"a": "x = 1\nx = 2"}, "a", "preset 'a' is not valid TOML"),
        ({"a": "\xff"}, "a", "preset 'a' is not valid TOML"),
    ],
)
def test_what_cannot_be_loaded_says_why(tmp_path, files, name, message):
    for stem, text in files.items():
        (tmp_path / f"{stem}.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        load_preset(name, environ(tmp_path))
    assert message in caught.value.message


def test_a_broken_preset_does_not_break_the_list(tmp_path):
    (tmp_path / "broken.toml").write_text("x = ")
    found = {info.name: info for info in list_presets(environ(tmp_path))}
    assert found["broken"].description.startswith("cannot be used: preset 'broken' is not valid TOML")
    assert found["mri-x4-dds"].method == "dds"


def test_presets_load_without_torch_and_pydantic():
    code = (
        "import sys; from recon.config.presets import list_presets; assert len(list_presets()) > 20; "
        "print([m for m in ('torch', 'pydantic', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
