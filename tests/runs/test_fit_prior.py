"""The prior section of a configuration, from the plan to the files that a run writes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from prior_jobs import config, planned, weights

from recon.config.resolve import resolve
from recon.config.schema import PriorSection
from recon.errors import ConfigError
from recon.priors.channels import ComplexPairs, GreyInColour, PerChannel, RealParts
from recon.priors.guided import Guided
from recon.priors.preconditioned import PreconditionedDenoiser
from recon.priors.symmetric import Symmetric
from recon.priors.tiled import Tiled
from recon.runs.check import check
from recon.runs.execute import execute


def test_the_defaults_leave_a_prior_as_it_is(tmp_path):
    plan = planned(config(weights(tmp_path)))
    assert isinstance(plan.prior, PreconditionedDenoiser) and plan.notices == []
    assert PriorSection(name="a").model_dump() == {
        "name": "a",
        "tile": 0,
        "overlap": 32,
        "symmetry": "own",
        "symmetry_calls": "one",
        "label": None,
        "null_label": None,
        "guidance": None,
        "guidance_mode": "cfg",
        "split": False,
        "auxiliary": None,
    }


def test_tiles(tmp_path):
    plan = planned(config(weights(tmp_path), tile=10, overlap=4), side=24)
    assert isinstance(plan.prior, Tiled) and (plan.prior.size, plan.prior.overlap) == (12, 4)
    assert "prior 'tiny' sees tiles of 12 pixels that overlap by 4" in plan.notices
    json.dumps(plan.describe(), allow_nan=False)
    assert planned(config(weights(tmp_path), tile=64, overlap=4)).notices == []
    with pytest.raises(ConfigError, match="tiles of 8 pixels cannot overlap by 32"):
        planned(config(weights(tmp_path), tile=8))


def test_the_symmetry_is_the_priors_own_or_the_configurations(tmp_path):
    path, symmetric = weights(tmp_path), weights(tmp_path, symmetry="mirror")
    assert isinstance(planned(config(path)).prior, PreconditionedDenoiser)
    assert isinstance(planned(config(symmetric, symmetry="none")).prior, PreconditionedDenoiser)
    own = planned(config(symmetric)).prior
    assert isinstance(own, Symmetric) and (own.group, own.calls) == ("mirror", "one")
    asked = planned(config(path, symmetry="dihedral", symmetry_calls="all", tile=8, overlap=4)).prior
    assert isinstance(asked, Tiled) and isinstance(asked.inner, Symmetric)
    assert (asked.inner.group, asked.inner.calls) == ("dihedral", "all")
    plain, turned = (execute(planned(config(path, symmetry=name))).mean for name in ("none", "dihedral"))
    assert not (plain == turned).all()


def test_a_prior_of_one_size_takes_larger_images_by_tiles(tmp_path):
    path = weights(tmp_path, sizes=(8, 8))
    with pytest.raises(ConfigError, match=r"expects sizes \(8, 8\), got \(12, 12\)"):
        planned(config(path))
    plan = planned(config(path, tile=8, overlap=4))
    assert np.isfinite(execute(plan).mean).all()


def test_one_channel_for_three_only_when_it_is_asked_for(tmp_path):
    path = weights(tmp_path)
    with pytest.raises(ConfigError, match=r"expects 1 channel\(s\), got 3") as caught:
        planned(config(path), channels=3)
    assert "prior.split = true" in str(caught.value.hint) and "--channel grey" in str(caught.value.hint)
    plan = planned(config(path, split=True), channels=3)
    assert isinstance(plan.prior, PerChannel) and "one by one" in plan.notices[-1]
    assert execute(plan).mean.shape == (1, 3, 12, 12)


def test_grey_images_of_a_colour_prior(tmp_path):
    plan = planned(config(weights(tmp_path, 3)))
    assert isinstance(plan.prior, GreyInColour) and "three equal ones" in plan.notices[-1]
    assert execute(plan).mean.shape == (1, 1, 12, 12)
    with pytest.raises(ConfigError, match=r"expects 3 channel\(s\), got 2"):
        planned(config(weights(tmp_path, 3)), channels=2)


MRI = {"complex_image": True, "acceleration": 2.0}


@pytest.mark.parametrize("method", ["dds", "dps", "pigdm", "mmps"])
def test_complex_images_of_a_prior_of_pairs(method, tmp_path):
    path = weights(tmp_path, 2, complex_channels=True, value_range=(0.0, 1.0))
    plan = planned(config(path, "mri", method, MRI))
    assert isinstance(plan.prior, ComplexPairs) and plan.notices == []
    found = execute(plan).mean
    assert np.iscomplexobj(found) and np.isfinite(found).all() and np.abs(found.imag).max() > 0


def test_complex_images_of_a_real_prior_only_when_it_is_asked_for(tmp_path):
    path = weights(tmp_path, value_range=(0.0, 1.0))
    with pytest.raises(ConfigError, match="for real images, but the operator's images are complex") as caught:
        planned(config(path, "mri", params=MRI))
    assert "prior.split = true" in str(caught.value.hint)
    plan = planned(config(path, "mri", params=MRI, split=True))
    assert isinstance(plan.prior, RealParts) and "real and imaginary parts" in plan.notices[-1]
    assert np.iscomplexobj(execute(plan).mean)


def test_a_prior_of_pairs_is_not_for_real_images(tmp_path):
    path = weights(tmp_path, 2, complex_channels=True)
    with pytest.raises(ConfigError, match="for complex images, but the operator's images are real") as caught:
        planned(config(path))
    assert "complex_image = true" in str(caught.value.hint)


def test_classes_and_guidance(tmp_path):
    path = weights(tmp_path, classes="free")
    assert not isinstance(planned(config(path)).prior, Guided)
    plan = planned(config(path, label=2, guidance=3.0, tile=8, overlap=4))
    assert isinstance(plan.prior, Tiled) and isinstance(plan.prior.inner, Guided)
    assert (plan.prior.inner.label, plan.prior.inner.weight, plan.prior.inner.mode) == (2, 3.0, "cfg")
    plus = planned(config(path, label=2, guidance=0.5, guidance_mode="cfg++")).prior
    assert isinstance(plus, Guided) and plus.mode == "cfg++"
    means = [
        execute(planned(config(path, **section))).mean
        for section in ({}, {"label": 1}, {"label": 1, "guidance": 4.0}, {"label": 2})
    ]
    assert all(not np.allclose(means[i], means[j], rtol=1e-6) for i in range(4) for j in range(i))


@pytest.mark.parametrize(
    ("classes", "method", "section", "message"),
    [
        ("always", "dds", {}, "needs one of its classes, 0 to 2"),
        ("always", "dds", {"label": 3}, "has classes 0 to 2"),
        ("always", "dds", {"label": 1, "guidance": 2.0}, "always takes a class"),
        ("free", "dds", {"guidance": 2.0}, "need a class"),
        ("free", "dds", {"null_label": 2}, "need a class"),
        ("free", "dds", {"guidance_mode": "cfg++"}, "need a class"),
        ("free", "dps", {"label": 1, "guidance": 0.5, "guidance_mode": "cfg++"}, r"no CFG\+\+ form"),
        (None, "dds", {"label": 1}, "takes no classes"),
    ],
)
def test_classes_that_are_missing_or_not_taken_are_told_at_planning(classes, method, section, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        planned(config(weights(tmp_path, classes=classes), method=method, **section))
    assert "\n" not in caught.value.message


def test_a_class_that_stands_for_none(tmp_path):
    plan = planned(config(weights(tmp_path, classes="always"), label=1, guidance=2.0, null_label=0))
    assert isinstance(plan.prior, Guided) and plan.prior.null_label == 0
    assert np.isfinite(execute(plan).mean).all()


def test_check_reports_the_fit_and_times_what_will_run(tmp_path):
    path = weights(tmp_path, 2, complex_channels=True)
    findings, estimate = check(config(path, "mri", params=MRI), None)
    assert all(f.ok for f in findings), findings
    assert estimate["network_evaluations"] == 2
    findings, _ = check(config(weights(tmp_path), "mri", params=MRI), None)
    assert [f.name for f in findings if not f.ok] == ["prior fits operator"]
    findings, estimate = check(config(weights(tmp_path), tile=64, overlap=16), None)
    fitted = next(f for f in findings if f.name == "prior fits operator")
    assert fitted.ok and "tiles of 64 pixels" in fitted.detail and estimate["network_seconds"] >= 0


def test_unknown_values_name_their_key():
    resolved = resolve("denoise-dds", sets=("prior.tile=64", "prior.guidance=2"), environ={})
    assert resolved.config.prior.tile == 64 and resolved.origins["prior.tile"] == "--set"
    for text, key in (("prior.tile=-1", "prior.tile"), ("prior.guidance_mode=best", "prior.guidance_mode")):
        with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
            resolve("denoise-dds", sets=(text,), environ={})
    with pytest.raises(ConfigError, match=r"unknown key 'prior\.tiles'"):
        resolve("denoise-dds", sets=("prior.tiles=3",), environ={})


def test_tiles_and_classes_from_the_command_line_and_again(tmp_path, recon, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prior = weights(tmp_path, classes="free").rpartition("/")[2]
    np.save("truth.npy", np.random.default_rng(0).random((1, 16, 12)).astype(np.float32))
    assert recon("simulate", "truth.npy", "y.h5", "--preset", "denoise-dds", "-q")[0] == 0
    sets = ("prior.tile=8", "prior.overlap=4", "prior.label=2", "prior.guidance=0.5", "prior.guidance_mode=cfg++")
    arguments = ["--preset", "denoise-dds", "--prior", prior, "--set", "method.steps=2"]
    for text in sets:
        arguments += ["--set", text]
    code, out, err = recon("run", "y.h5", "out.npy", *arguments, "--json")
    assert code == 0, err
    assert "sees tiles of 8 pixels that overlap by 4" in err and json.loads(out)["status"] == "ok"
    facts = json.loads((tmp_path / "out.npy.json").read_text())["Recon"]
    assert facts["Config"]["prior"]["label"] == 2 and facts["Config"]["prior"]["tile"] == 8
    assert recon("rerun", "out.npy.json", "again.npy", "-q")[0] == 0
    assert np.array_equal(np.load("out.npy"), np.load("again.npy"))
    code, out, _ = recon("config", "show", "--preset", "denoise-dds", "--set", "prior.tile=64", "--json")
    assert code == 0 and "prior.tile" in out
    code, _, err = recon("run", "y.h5", "other.npy", *arguments, "--set", "prior.label=9", "-q")
    assert code == 4 and "has classes 0 to 2" in err and len(err.splitlines()) <= 2
