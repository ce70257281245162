"""Names, files and hashes of the shipped priors, and what a weight file says about itself."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from recon.errors import ConfigError, InputError, ResourceError
from recon.priors import catalog

INFO = {"name": "tiny", "channels": 1, "value_range": [-1, 1], "sizes": None, "provenance": {"licence": "CC0"}}


def write_prior(path, name="tiny"):
    config = {"network": "unet", "unet": {"base": 8}, "sigma_data": 0.5, "info": {**INFO, "name": name}}
    tensors = {"w": np.zeros((3, 5), np.float16), "b": np.zeros(3, np.float16)}
    save_file(tensors, path, metadata={"format": "recon-prior/1", "config": json.dumps(config)})
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A weights folder with two priors, both recorded."""
    lines = []
    for name in ("one", "two"):
        path = write_prior(tmp_path / f"{name}.safetensors", name)
        lines.append(f"{catalog.file_sha256(path)}  {path.name}\n")
    (tmp_path / "SHA256SUMS").write_text("".join(lines))
    monkeypatch.setattr(catalog, "_folder", lambda: tmp_path)
    return tmp_path


def test_priors_are_found_by_name_and_file(folder):
    assert catalog.shipped_priors() == ["one", "two"]
    assert catalog.prior_path("two") == folder / "two.safetensors"
    assert catalog.prior_path(str(folder / "one.safetensors")) == folder / "one.safetensors"


def test_unknown_priors_are_refused(folder):
    with pytest.raises(ConfigError, match="unknown prior 'on'; did you mean 'one'"):
        catalog.prior_path("on")
    with pytest.raises(ResourceError, match=r"no weight file gone\.safetensors"):
        catalog.prior_path("gone.safetensors")


def test_recorded_weights_pass(folder):
    assert [(check.name, check.ok) for check in catalog.check_weights()] == [("one", True), ("two", True)]


def test_altered_missing_and_unrecorded_weights_do_not_pass(folder):
    with (folder / "one.safetensors").open("ab") as file:
        file.write(b"x")
    (folder / "two.safetensors").rename(folder / "three.safetensors")
    found = {check.name: (check.ok, check.detail) for check in catalog.check_weights()}
    assert found["one"] == (False, "altered: its SHA-256 differs")
    assert found["two"] == (False, "missing")
    assert found["three"] == (False, "not recorded in SHA256SUMS")


def test_a_weight_file_describes_itself(folder):
    facts = catalog.describe_prior("one")
    assert (facts["name"], facts["channels"], facts["parameters"], facts["stored_as"]) == ("one", 1, 18, ["F16"])
    assert facts["provenance"] == {"licence": "CC0"} and facts["network"] == {"base": 8}
    assert facts["sha256"] == catalog.file_sha256(folder / "one.safetensors")


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"cannot read weights other\.safetensors"):
        catalog.describe_prior(str(path))
