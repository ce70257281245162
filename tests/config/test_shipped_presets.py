"""Every shipped preset resolves, fits its operator and method, and holds the published settings."""

import pytest

from recon.config.presets import load_preset, preset_names
from recon.config.resolve import resolve
from recon.metrics.protocols import PROTOCOLS
from recon.operators.registry import build, draw, family, parse_params
from recon.runs.methods import SAMPLERS, make_method, method_class, missing_needs

RUNNABLE = [name for name in preset_names({}) if not name.startswith("problems/")]
PROBLEMS = [name.removeprefix("problems/") for name in preset_names({}) if name.startswith("problems/")]
EXPECTED = {
    "denoise",
    "inpaint-box",
    "inpaint-random",
    "sr4",
    "deblur-gauss",
    "deblur-motion",
    "mri-x4",
    "mri-x8",
    "ct-30",
    "ct-limited",
}

# problems without an adjoint, and what their presets are of
NONLINEAR = {
    "phase-retrieval": {"dps", "lgd", "mmps", "daps", "reddiff", "diffpir", "pnpdm", "enkg", "dps-gsg", "tds"},
    "hdr": {"dps", "lgd", "mmps", "daps", "reddiff", "diffpir", "enkg", "dps-gsg", "tds"},
}


@pytest.mark.parametrize("problem", NONLINEAR)
def test_non_linear_problems_have_presets_of_methods_that_can(problem):
    assert {f"{problem}-{method}" for method in NONLINEAR[problem]} <= set(RUNNABLE)


def test_every_problem_has_a_preset_of_each_sampler():
    assert set(PROBLEMS) >= EXPECTED
    for problem in EXPECTED:
        for method in ("dds", "dps"):
            assert f"{problem}-{method}" in RUNNABLE


# the methods of the field, and the problems that each has a preset of where the operator offers what it needs
FIELD = "dps mcg dds daps enkg ddrm ddnm pigdm diffpir reddiff pnpdm lgd mmps tds".split()
PAIRED = sorted((EXPECTED - {"denoise"}) | {"phase-retrieval"})
LINEAR_ALONE = {"dds", "mcg", "pigdm", "ddnm", "ddrm"}


@pytest.mark.parametrize("problem", PAIRED)
def test_a_problem_has_a_preset_of_every_method_that_can(problem):
    config = resolve(f"problems/{problem}", method="tv", environ={}).config
    operator = build(draw(config.operator.kind, config.operator.params, (1, 64, 64), seed=0))
    able = {name for name in FIELD if not missing_needs(method_class(name), operator)}
    assert able == {name for name in FIELD if f"{problem}-{name}" in RUNNABLE}
    refused = {"phase-retrieval": LINEAR_ALONE}.get(problem, {"ddrm"} - able)
    assert set(FIELD) - able == refused


@pytest.mark.parametrize("name", [n for n in RUNNABLE if n.endswith(("-enkg", "-tds", "-dps-gsg"))])
def test_presets_of_ensembles_are_for_small_images(name):
    config = resolve(name, environ={}).config
    assert config.prior.name == "fashion32"
    operator = build(draw(config.operator.kind, config.operator.params, (1, 32, 32), seed=0))
    assert tuple(operator.in_shape) == (1, 32, 32)


# blur by a kernel that is not even, with a reflecting border, has no cheap singular values
NO_SVD = {"deblur-motion": {"ddrm"}}


@pytest.mark.parametrize(
    "problem", ["denoise", "inpaint-box", "inpaint-random", "sr4", "deblur-gauss", "deblur-motion"]
)
def test_image_problems_have_presets_of_every_method_that_can(problem):
    methods = {"dds", "ddrm", "ddnm", "diffpir", "daps", "pnpdm", "reddiff", "pigdm", "mmps", "dps"}
    shipped = {name.removeprefix(f"{problem}-") for name in RUNNABLE if name.startswith(f"{problem}-")}
    assert methods - shipped == NO_SVD.get(problem, set())


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_preset_resolves_and_its_parts_can_be_made(name):
    resolved = resolve(name, environ={})
    config = resolved.config
    parse_params(config.operator.kind, config.operator.params)
    method = make_method(config.method.name, config.method.params)
    assert config.metrics.protocol in PROTOCOLS
    assert config.description and config.citation
    if config.method.name in SAMPLERS:
        assert method.network_calls > 0
    preset = resolved.preset
    assert preset is not None
    assert name == f"{preset.problem}-{config.method.name}" and preset.problem in PROBLEMS


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_problem_builds_its_operator_and_every_preset_of_it_fits(problem):
    config = resolve(f"problems/{problem}", method="tv", environ={}).config
    assert config.description
    shape = (1, 8, 72, 64) if family(config.operator.kind).volume else (1, 72, 64)
    shape = (3, 72, 64) if config.operator.kind == "demosaic" else shape
    operator = build(draw(config.operator.kind, config.operator.params, shape, seed=0))
    for name in RUNNABLE:
        if load_preset(name, {}).problem == problem:
            method = resolve(name, environ={}).config.method
            assert missing_needs(type(make_method(method.name, method.params)), operator) == []


@pytest.mark.parametrize("problem", ["sr4", "deblur-gauss", "deblur-motion", "inpaint-box", "inpaint-random"])
def test_image_problems_have_the_published_noise(problem):
    noise = resolve(f"problems/{problem}", method="tv", environ={}).config.noise
    assert noise.sigma == 0.05 / 2, "0.05 on a range of 2"


@pytest.mark.parametrize("name", [n for n in RUNNABLE if n.endswith("-dds")])
def test_dds_presets_follow_the_noise(name):
    config = resolve(name, environ={}).config
    held = {key: config.method.params[key] for key in ("weighting", "eta")}
    assert held == {"weighting": "matched", "eta": 1.0} and config.method.params["grid"].startswith("edm")
    assert 1 <= config.method.params["gamma"] <= 4, "of the weight that the noise levels give"
    assert config.scaling.unit_norm == name.startswith("ct-")


@pytest.mark.parametrize("name", [n for n in RUNNABLE if n.endswith("-dds-3d")])
def test_presets_of_volumes_follow_the_noise(name):
    config = resolve(name, environ={}).config
    held = {key: config.method.params[key] for key in ("weighting", "eta", "rho")}
    assert held == {"weighting": "matched", "eta": 1.0, "rho": 100.0}
    assert config.method.params["grid"].startswith("edm:"), "levels where they count"
    assert 1 <= config.method.params["weight"] <= 40
    assert config.scaling.unit_norm == name.startswith("ct-")
