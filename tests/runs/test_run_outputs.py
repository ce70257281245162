"""Files of a run: their names, all or none of them, what the sidecar tells, and plans that are refused before work."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recon.config.schema import Config
from recon.data import Geometry, Measurement, NoiseSpec, Volume, to_stack
from recon.errors import ConfigError, InputError, ResourceError, ThresholdError, UsageError
from recon.io.registry import read_volume, write_measurement
from recon.operators.base import LinearOperator, Operator
from recon.operators.registry import build, draw
from recon.priors.base import PriorInfo
from recon.priors.catalog import file_sha256
from recon.priors.networks.unet import UNet, UNetConfig
from recon.priors.store import save_prior
from recon.runs.device import choose_chunk, choose_device, choose_threads
from recon.runs.evaluate import check_conditions, parse_condition
from recon.runs.methods import METHODS, make_method, method_class, missing_needs
from recon.runs.outputs import (
    all_or_nothing,
    check_images,
    image_geometry,
    output_names,
    split_extension,
    write_images,
    write_sidecar,
)
from recon.runs.plan import check_pairing, make_plan
from recon.runs.provenance import portable_command, portable_path
from recon.runs.reconstruct import RunRequest, plan_request, reconstruct
from recon.runs.rerun import read_rerun
from recon.runs.simulate import simulate

FEW = settings(max_examples=60, deadline=None)
TINY = UNetConfig(channels=(8, 16), blocks=(1, 1), embedding=16, groups=4)


def config(kind: str = "denoise", method: str = "cg", params: dict[str, Any] | None = None, **sections: Any) -> Config:
    run = {"device": "cpu", "threads": 1, **sections.pop("run", {})}
    content = {"operator": {"kind": kind, **(params or {})}, "method": {"name": method}, "noise": {"sigma": 0.01}}
    return Config.model_validate({**content, "run": run, **sections})


def image(rows: int = 12, columns: int = 8) -> np.ndarray:
    return np.random.default_rng(0).uniform(10, 100, (rows, columns)).astype(np.float32)


def measured(cfg: Config, array: np.ndarray | None = None, axes: tuple[str, ...] = ("y", "x")) -> Measurement:
    return simulate(Volume(image() if array is None else array, Geometry(axes)), cfg)


@pytest.fixture
def prior(tmp_path: Path) -> Path:
    """A weight file of an untrained network."""
    path = tmp_path / "tiny.safetensors"
    info = PriorInfo("tiny", 1, multiple=TINY.multiple)
    save_prior(path, UNet(TINY).state_dict(), TINY, 0.5, info, torch.float32)
    return path


# --- names


@pytest.mark.parametrize(
    ("output", "std", "samples"),
    [
        ("a.nii.gz", "a_std.nii.gz", "a_samples.nii.gz"),
        ("a.b.nii", "a.b_std.nii", "a.b_samples.nii"),
        ("A.NII.GZ", "A_std.NII.GZ", "A_samples.NII.GZ"),
        ("a.npy", "a_std.npy", "a_samples.npy"),
        ("a.png", "a_std.tiff", "a_samples.tiff"),
        ("a.PNG", "a_std.tiff", "a_samples.tiff"),
        ("a.h5", "a_std.h5", "a_samples.h5"),
        ("noending", "noending_std", "noending_samples"),
    ],
)
def test_names(output, std, samples):
    folder = Path("some") / "where.gz"
    several = output_names(folder / output, 2)
    assert several.image == folder / output and several.sidecar == folder / f"{output}.json"
    assert (several.std, several.samples) == (folder / std, folder / samples)
    assert several.all() == [folder / n for n in (output, std, samples, f"{output}.json")]
    single = output_names(folder / output, 1)
    assert single.all() == [folder / output, folder / f"{output}.json"]
    assert "".join(split_extension(folder / output)) == output


def test_plain_axes_for_a_stack_without_geometry():
    assert image_geometry(None, (1, 1, 4, 5)).axes == ("y", "x")
    assert image_geometry(None, (3, 1, 4, 5)).axes == ("n", "y", "x")
    assert image_geometry(None, (3, 2, 4, 5)).axes == ("n", "c", "y", "x")
    given = Geometry(("z", "y", "x"))
    assert image_geometry(given, (3, 1, 4, 5)) is given


# --- what the formats can hold, before any work


@pytest.mark.parametrize(
    ("name", "samples", "shape", "kind", "geometry", "error", "words"),
    [
        ("a.npy", 3, (2, 1, 4, 5), False, None, ConfigError, "samples of several items"),
        ("a.npy", 3, (2, 1, 4, 5), False, Geometry(("n", "y", "x")), ConfigError, "samples of several items"),
        ("a.png", 1, (1, 1, 4, 5), False, None, InputError, "no declared range"),
        ("a.png", 1, (1, 1, 4, 5), False, Geometry(("y", "x")), InputError, "no declared range"),
        ("a.png", 1, (1, 1, 4, 5), True, Geometry(("y", "x"), value_range=(0, 1)), InputError, "complex"),
        ("a.png", 1, (1, 3, 4, 5), False, Geometry(("y", "x"), value_range=(0, 1)), InputError, "3 channels"),
        ("a.tiff", 1, (1, 1, 4, 5), True, None, InputError, "omplex"),
        ("a.jpeg", 1, (1, 1, 4, 5), False, None, UsageError, "jpeg"),
    ],
)
def test_outputs_that_cannot_be_written_are_refused_early(name, samples, shape, kind, geometry, error, words):
    with pytest.raises(error, match=words):
        check_images(output_names(Path(name), samples), samples, shape, kind, geometry)


@pytest.mark.parametrize(
    ("name", "axes", "shape", "stored"),
    [
        ("a.npy", ("y", "x"), (1, 1, 4, 5), "n,y,x"),
        ("a.nii.gz", ("x", "y", "z"), (3, 1, 4, 5), "x,y,z,n"),
        ("a.tiff", ("z", "y", "x"), (3, 1, 4, 5), None),
        ("a.png", ("y", "x"), (1, 1, 4, 5), None),
        ("a.npz", ("n", "c", "y", "x"), (1, 1, 4, 5), None),
    ],
)
def test_what_passes_early_can_be_written_and_has_the_samples(tmp_path, name, axes, shape, stored):
    geometry = Geometry(axes, value_range=(0.0, 50.0))
    names = output_names(tmp_path / name, 3)
    check_images(names, 3, shape, False, geometry)
    samples = np.random.default_rng(0).uniform(0, 50, (3, *shape))
    write_images(names, samples.mean(0), samples.std(0), samples, geometry, False)
    assert names.samples is not None and names.std is not None
    for path, values in ((names.image, samples.mean(0)), (names.std, samples.std(0))):
        if path.suffix != ".png":  # which rounds
            found = read_volume(path, axes=stored.replace("n", "").strip(",") if stored else None)
            np.testing.assert_allclose(to_stack(found), values, rtol=1e-6)
    found = read_volume(names.samples, axes=stored)
    assert found.array.shape[found.geometry.axes.index("n")] == 3
    for i, sample in enumerate(np.moveaxis(found.array, found.geometry.axes.index("n"), 0)):
        kept = tuple(a for a in found.geometry.axes if a != "n")
        np.testing.assert_allclose(to_stack(Volume(sample, Geometry(kept))), samples[i], rtol=1e-6)


# --- all files or none


class Stop(BaseException):
    """Stands for an interrupt."""


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, Stop])
def test_a_failure_removes_the_new_files_and_no_other(tmp_path, error):
    names = output_names(tmp_path / "a.npy", 2)
    assert names.std is not None and names.samples is not None
    names.std.write_text("before")
    (tmp_path / "other.npy").write_text("other")
    with pytest.raises(error), all_or_nothing(names):
        for path in (names.image, names.std, names.sidecar, tmp_path / "other.npy"):
            path.write_text("new")
        raise error
    assert {p.name for p in tmp_path.iterdir()} == {"a_std.npy", "other.npy"}


def test_success_keeps_every_file(tmp_path):
    names = output_names(tmp_path / "a.npy", 2)
    with all_or_nothing(names):
        for path in names.all():
            path.write_text("new")
    assert {p.name for p in tmp_path.iterdir()} == {"a.npy", "a_std.npy", "a_samples.npy", "a.npy.json"}


def test_a_sidecar_holds_no_nan(tmp_path):
    with pytest.raises(ValueError):
        write_sidecar(tmp_path / "a.json", {"psnr": float("nan")}, False)
    assert not any(tmp_path.iterdir())


# --- paths that tell nothing about users and machines

SECRET = "alice"
PART = st.text("abcxyz019_-", min_size=1, max_size=5)
HOMES = st.sampled_from([("home", SECRET), ("Users", SECRET), (SECRET,)])
FOLDERS = st.lists(PART, max_size=6).map(lambda parts: Path("/", *parts)) | st.sampled_from(
    [Path("/home"), Path("/Users"), Path("/home/bob"), Path("/home/bob/out"), Path("/Users/bob")]
)


def leaks(text: str) -> bool:
    return SECRET in text or text.startswith("/") or "=/" in text or re.match(r"-\w/", text) is not None


@st.composite
def secret_paths(draw: st.DrawFn) -> Path:
    """A file in a user's folder, an absolute path."""
    return Path("/", *draw(HOMES), *draw(st.lists(PART, max_size=4)), draw(PART) + ".h5")


@FEW
@given(secret_paths(), FOLDERS)
def test_a_file_of_another_user_is_named_without_its_folders(path, folder):
    assert portable_path(path, folder) == path.name


@FEW
@given(secret_paths(), st.sampled_from(["{}", "--prior={}", "prior.name={}", "-o{}", "{}::group/y", "-s=a.b={}"]))
def test_no_form_of_argument_leaks_a_path(path, form):
    folder = Path("/tmp/some/out")
    (found,) = portable_command([form.format(path)], folder)
    assert not leaks(found) and path.name in found
    (climbing,) = portable_command([form.format("../" * 30 + str(path)[1:])], folder)
    assert not leaks(climbing) and path.name in climbing


@FEW
@given(secret_paths(), secret_paths())
def test_no_list_of_paths_leaks(first, second):
    (found,) = portable_command([f"operator.files=['{first}', \"{second}\"]"], Path("/tmp/some/out"))
    assert not leaks(found) and found == f"operator.files=['{first.name}', \"{second.name}\"]"


@FEW
@given(st.lists(PART, min_size=3, max_size=5), st.lists(PART, max_size=2), st.lists(PART, max_size=2), PART)
def test_a_near_file_is_found_again_from_the_folder(base, up, down, name):
    """Up to two folders up: this is what rerun needs."""
    root = Path("/", "srv", *base)
    folder, path = root.joinpath(*up), root.joinpath(*down, name)
    found = portable_path(path, folder)
    assert not Path(found).is_absolute() and (folder / found).resolve() == path.resolve()


@FEW
@given(st.lists(PART, min_size=1, max_size=3), st.lists(PART, max_size=2), PART)
def test_a_file_three_folders_up_is_named_alone(up, down, name):
    assert portable_path(Path("/srv/job", *down, name), Path("/srv/job/folder", *up, "results")) == name


@pytest.mark.parametrize(
    "argument",
    ["run", "--samples", "method.zeta=0.5", "k.h5", "sub/k.h5", "psnr<30", "--set", "-q", "1/3", "a=1/3"],
)
def test_other_arguments_stay(argument):
    assert portable_command(["recon", argument], Path("/tmp/some/out"))[1] == argument


# --- thresholds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("psnr<30", ("psnr", "<", 30.0)),
        (" SSIM >= .95 ", ("ssim", ">=", 0.95)),
        ("nmse>1e-3", ("nmse", ">", 1e-3)),
        ("psnr_masked<=-2", ("psnr_masked", "<=", -2.0)),
    ],
)
def test_conditions(text, expected):
    assert parse_condition(text) == expected


@pytest.mark.parametrize("text", ["psnr", "psnr=30", "psnr<", "<30", "psnr<low", "psnr<1e", "psnr<3 0", "a b<3", ""])
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(UsageError, match="--fail-if"):
        parse_condition(text)


SCORES = {"psnr": 30.0, "ssim": None, "psnr_masked": None, "nmse": 0.5, "data_range": [0, 1], "note": "text"}


@pytest.mark.parametrize("conditions", [["psnr<30"], ["psnr>30"], ["nmse>=0.6"], ["psnr_masked<999"]])
def test_conditions_that_do_not_hold_pass(conditions):
    check_conditions(SCORES, [parse_condition(c) for c in conditions])


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (["psnr<=30"], "psnr = 30 is <= 30"),
        (["psnr<31", "nmse<0.1", "nmse>0.4"], "psnr = 30 is < 31; nmse = 0.5 is > 0.4"),
        (["psnr_masked>1"], "psnr_masked = inf is > 1"),
        (["ssim<0.1"], "ssim is undefined"),
        (["ssim>0.1"], "ssim is undefined"),
    ],
)
def test_every_condition_that_holds_is_named(conditions, message):
    with pytest.raises(ThresholdError) as caught:
        check_conditions(SCORES, [parse_condition(c) for c in conditions])
    assert caught.value.message == message


@pytest.mark.parametrize("name", ["psnrr", "data_range", "note"])
def test_a_condition_on_no_metric_is_refused(name):
    with pytest.raises(UsageError, match=f"no metric '{name}'") as caught:
        check_conditions(SCORES, [(name, "<", 1.0)])
    assert "nmse" in str(caught.value.hint) and "data_range" not in str(caught.value.hint)


# --- device, threads, chunks


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == expected
    for name in ("quantum", "cuda:99"):
        with pytest.raises(ResourceError, match=f"'{name}' cannot be used") as caught:
            choose_device(name)
        assert "\n" not in caught.value.message and "--device cpu" in str(caught.value.hint)


def test_threads():
    before = torch.get_num_threads()
    try:
        assert choose_threads(3) == 3 == torch.get_num_threads()
        assert choose_threads(0) == torch.get_num_threads() >= 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("wanted", "samples", "device", "chunk"),
    [(0, 8, "cpu", 1), (3, 8, "cpu", 3), (30, 8, "cpu", 8), (0, 8, "cuda", 8), (0, 80, "cuda", 16), (5, 80, "cuda", 5)],
)
def test_chunks(wanted, samples, device, chunk):
    assert choose_chunk(wanted, samples, torch.device(device)) == chunk


# --- methods and operators that fit


class BlackBox(Operator):
    """A forward map and nothing else."""

    in_shape = out_shape = (1, 4, 4)
    differentiable = False

    def _forward(self, x: Tensor) -> Tensor:
        return x.abs()


class Smooth(BlackBox):
    differentiable = True


class NoInverse(LinearOperator):
    in_shape = out_shape = (1, 4, 4)

    def _forward(self, x: Tensor) -> Tensor:
        return 2 * x

    def _adjoint(self, y: Tensor) -> Tensor:
        return 2 * y


@pytest.mark.parametrize(
    ("method", "operator", "missing"),
    [
        ("dds", BlackBox(), ["adjoint", "linear"]),
        ("dds", Smooth(), ["adjoint", "linear"]),
        ("dds", NoInverse(), []),
        ("dps", BlackBox(), ["gradient"]),
        ("dps", Smooth(), []),
        ("fbp", NoInverse(), ["pinv"]),
        ("fbp", build(draw("denoise", {}, (1, 4, 4), 0)), []),
        ("tv", BlackBox(), ["adjoint", "linear"]),
    ],
)
def test_pairings(method, operator, missing):
    assert missing_needs(method_class(method), operator) == missing
    if not missing:
        check_pairing(method, make_method(method, {}), operator, "custom")
        return
    with pytest.raises(ConfigError, match=f"'{method}' needs {', '.join(missing)}, which operator 'custom'") as caught:
        check_pairing(method, make_method(method, {}), operator, "custom")
    assert "recon methods list" in str(caught.value.hint)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_asks_only_for_what_operators_can_declare(name):
    missing_needs(method_class(name), BlackBox())


def test_unknown_methods_and_settings_name_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'dps'"):
        make_method("dpps", {})
    with pytest.raises(ConfigError, match="no setting 'zetta'") as caught:
        make_method("dps", {"zetta": 1.0})
    assert "'zeta'" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="setting zeta"):
        make_method("dps", {"zeta": "big"})


# --- the plan


def test_a_plan_tells_what_will_run(prior):
    cfg = config(method="dds", prior={"name": str(prior)}, run={"samples": 5})
    cfg = cfg.model_copy(update={"method": cfg.method.model_copy(update={"steps": 7})})
    data = measured(cfg, np.stack([image()] * 2), ("z", "y", "x"))
    plan = make_plan(cfg, data)
    described = plan.describe()
    assert described["items"] == 2 and described["samples"] == 5 and described["prior"] == "tiny"
    assert described["network_evaluations"] == 7 * 5 * 2 and described["measured_numbers"] == 96
    assert plan.value_range == (-1.0, 1.0) and plan.notices == []
    json.dumps(described, allow_nan=False)


def test_a_deterministic_method_gives_one_sample_and_says_so():
    cfg = config(run={"samples": 4})
    plan = make_plan(cfg, measured(cfg))
    assert plan.samples == 1 and plan.prior is None and plan.value_range == (0.0, 1.0)
    assert "method 'cg' is deterministic: one sample instead of 4" in plan.notices
    single = config()
    assert make_plan(single, measured(single)).notices == []


def test_a_prior_for_other_channels_is_refused(prior):
    cfg = config(method="dds", prior={"name": str(prior)})
    data = measured(cfg, np.stack([image()] * 3), ("c", "y", "x"))
    with pytest.raises(ConfigError, match=r"expects 1 channel\(s\), got 3") as caught:
        make_plan(cfg, data)
    assert "recon priors list" in str(caught.value.hint)


def test_a_real_prior_for_complex_images_is_refused(prior):
    cfg = config("mri", "dds", {"complex_image": True}, prior={"name": str(prior)})
    with pytest.raises(ConfigError, match="for real images, but the operator's images are complex") as caught:
        make_plan(cfg, measured(cfg))
    assert "complex_image = false" in str(caught.value.hint) and "--method tv" in str(caught.value.hint)
    classical = config("mri", "cg", {"complex_image": True})
    assert make_plan(classical, measured(classical)).operator.in_dtype == torch.complex64


def test_the_method_is_checked_before_the_prior_is_loaded():
    with pytest.raises(ConfigError, match="needs pinv"):
        make_plan(replace_method(config("blur", params={"size": 3, "boundary": "reflect", "kernel": "motion"})), data())


def replace_method(cfg: Config) -> Config:
    return cfg.model_copy(update={"method": cfg.method.model_copy(update={"name": "fbp"})})


def data() -> Measurement:
    cfg = config("blur", params={"size": 3, "boundary": "reflect", "kernel": "motion"})
    return measured(cfg)


def test_a_unit_norm_is_planned_when_asked_for():
    cfg = config("ct", params={"angles": 5}, scaling={"unit_norm": True})
    plan = make_plan(cfg, measured(cfg))
    assert plan.norm is not None and plan.norm > 2
    assert make_plan(config("ct", params={"angles": 5}), measured(cfg)).norm is None


# --- sidecar and rerun


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Config]:
    """A finished run: k.npz -> out.npy, out.npy.json."""
    cfg = config("mri", params={"acceleration": 1.5})
    write_measurement(tmp_path / "k.npz", measured(cfg))
    request = RunRequest(tmp_path / "k.npz", tmp_path / "out.npy", cfg, "test", command=("recon", "run"))
    assert reconstruct(request, lambda plan: None, None).status == "ok"
    return tmp_path, cfg


def again(folder: Path, name: str = "out.npy.json", source: Path | None = None) -> RunRequest:
    return read_rerun(folder / name, folder / "again.npy", source, False, ("recon", "rerun")).request


def tampered(folder: Path, change: Any) -> str:
    content = json.loads((folder / "out.npy.json").read_text())
    changed = change(content)
    (folder / "bad.json").write_text(json.dumps(content if changed is None else changed))
    return "bad.json"


def test_a_rerun_is_the_same_run(run):
    folder, cfg = run
    request = again(folder)
    assert request.config == cfg.model_copy(update={"run": request.config.run})
    assert (request.config.run.device, request.config.run.threads, request.config.run.chunk) == ("cpu", 1, 1)
    reconstruct(request, lambda plan: None, None)
    assert (folder / "again.npy").read_bytes() == (folder / "out.npy").read_bytes()
    moved = folder / "elsewhere.npz"
    (folder / "k.npz").rename(moved)
    assert again(folder, source=moved).source == moved


def test_a_missing_or_changed_input_is_refused(run):
    folder, _ = run
    original = (folder / "k.npz").read_bytes()
    (folder / "k.npz").write_bytes(original + b"x")
    with pytest.raises(InputError, match="SHA-256 differs"):
        again(folder)
    (folder / "k.npz").unlink()
    with pytest.raises(ResourceError, match=r"input .* is missing") as caught:
        again(folder)
    assert "--input" in str(caught.value.hint)


def test_files_that_are_no_sidecar_are_refused(run):
    folder, _ = run
    with pytest.raises(InputError, match="no such file"):
        again(folder, "none.json")
    for name, text, words in (
        ("a.json", "{", "as JSON"),
        ("b.json", "[]", "not the sidecar"),
        ("c.json", '{"Recon": {}}', "not the sidecar"),
        ("d.json", '{"Recon": [], "Sources": {"input": {}}}', "not the sidecar"),
        ("e.json", '{"Recon": {}, "Sources": null}', "not the sidecar"),
        ("f.json", '{"Recon": {"SidecarVersion": 99}, "Sources": {"input": {}}}', "version 99, expected 1"),
    ):
        (folder / name).write_text(text)
        with pytest.raises(InputError, match=words):
            again(folder, name)


def paths(value: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (*above, key)
        yield from paths(inner, (*above, key))


def test_a_sidecar_that_lost_or_mangled_anything_is_whole_or_refused(run):
    """Each entry in turn is removed, and replaced by other types: an InputError, or a request, but no other error."""
    folder, _ = run
    content = json.loads((folder / "out.npy.json").read_text())
    refused = set()
    unread = ("Plan", "Metrics", "Protocol", "Residual", "Outputs", "Citations", "Command")
    kept = {k: v for k, v in content["Recon"].items() if k not in unread}
    for path in paths({"Recon": kept, "Sources": content["Sources"]}):
        for replacement in (None, [], "text", -1, "remove"):
            copy = json.loads(json.dumps(content))
            at = copy
            for key in path[:-1]:
                at = at[key]
            if replacement == "remove":
                del at[path[-1]]
            else:
                at[path[-1]] = replacement
            (folder / "bad.json").write_text(json.dumps(copy))
            try:
                again(folder, "bad.json")
            except (InputError, ResourceError) as err:
                assert err.message.count("\n") == 0
                refused.add(path)
    assert {("Recon",), ("Recon", "Config"), ("Recon", "Threads"), ("Sources", "input", "sha256")} <= refused


def test_input_of_a_pipe_must_be_given(run):
    folder, _ = run
    name = tampered(folder, lambda c: c["Sources"]["input"].update(file="-"))
    with pytest.raises(InputError, match="came from a pipe"):
        again(folder, name)
    assert again(folder, name, source=folder / "k.npz").source == folder / "k.npz"


def test_other_versions_are_told(run):
    folder, _ = run
    name = tampered(folder, lambda c: c["Recon"]["Versions"].update(torch="0.0"))
    (notice,) = read_rerun(folder / name, folder / "x.npy", None, False, ()).notices
    assert "torch 0.0 then" in notice
    assert read_rerun(folder / "out.npy.json", folder / "x.npy", None, False, ()).notices == []


def test_axes_and_an_array_named_in_the_file_come_back(tmp_path):
    """A volume without axes of its own, in an archive of several arrays."""
    np.savez(tmp_path / "v.npz", a=np.stack([image(), 2 * image()]), b=np.zeros(3))
    source = tmp_path / "v.npz::a"
    request = RunRequest(source, tmp_path / "out.nii.gz", config(), "test", axes="z,y,x")
    reconstruct(request, lambda plan: None, None)
    entry = json.loads((tmp_path / "out.nii.gz.json").read_text())["Sources"]["input"]
    assert entry == {"file": "v.npz::a", "sha256": file_sha256(tmp_path / "v.npz"), "axes": "z,y,x"}
    found = read_rerun(tmp_path / "out.nii.gz.json", tmp_path / "again.nii.gz", None, False, ()).request
    assert found.axes == "z,y,x" and str(found.source) == str(source)
    reconstruct(found, lambda plan: None, None)
    assert (tmp_path / "again.nii.gz").read_bytes() == (tmp_path / "out.nii.gz").read_bytes()


def test_a_prior_from_a_file_is_recorded_without_its_folders_and_found_again(tmp_path, prior, monkeypatch):
    cfg = config(method="dds", prior={"name": str(prior)})
    cfg = cfg.model_copy(update={"method": cfg.method.model_copy(update={"steps": 1})})
    (tmp_path / "results").mkdir()
    write_measurement(tmp_path / "k.npz", measured(cfg))
    command = ("recon", "run", str(tmp_path / "k.npz"), f"--prior={prior}", "--set", f"prior.name={prior}")
    request = RunRequest(tmp_path / "k.npz", tmp_path / "results" / "out.npy", cfg, "test", command=command)
    reconstruct(request, lambda plan: None, None)
    sidecar = tmp_path / "results" / "out.npy.json"
    text = sidecar.read_text()
    assert str(tmp_path) not in text
    facts = json.loads(text)["Recon"]
    assert facts["Config"]["prior"]["name"] == "../tiny.safetensors"
    assert facts["Command"][2:] == [
        "../k.npz",
        "--prior=../tiny.safetensors",
        "--set",
        "prior.name=../tiny.safetensors",
    ]
    monkeypatch.chdir("/")
    found = read_rerun(sidecar, tmp_path / "again.npy", None, False, ()).request
    assert Path(found.config.prior.name).resolve() == prior.resolve()
    prior.write_bytes(prior.read_bytes() + b" ")
    with pytest.raises(InputError, match="weights of prior"):
        read_rerun(sidecar, tmp_path / "again.npy", None, False, ())


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    cfg = config()
    write_measurement(tmp_path / "k.npz", measured(cfg))
    before = set(tmp_path.iterdir())

    def fail(*args: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr("recon.runs.reconstruct.write_sidecar", fail)
    with pytest.raises(OSError):
        reconstruct(RunRequest(tmp_path / "k.npz", tmp_path / "o.npy", cfg, "test"), lambda plan: None, None)
    assert set(tmp_path.iterdir()) == before


def test_samples_of_several_items_are_refused_before_any_network_call(tmp_path, prior):
    cfg = config(method="dds", prior={"name": str(prior)}, run={"samples": 2})
    many = measured(cfg, np.stack([image()] * 2), ("n", "y", "x"))
    write_measurement(tmp_path / "k.npz", many)
    with pytest.raises(ConfigError, match="samples of several items"):
        plan_request(RunRequest(tmp_path / "k.npz", tmp_path / "o.npy", cfg, "test"))
    np.save(tmp_path / "bare.npy", many.y)
    with pytest.raises(ConfigError, match="samples of several items"):
        plan_request(RunRequest(tmp_path / "bare.npy", tmp_path / "o.npy", cfg, "test"))
    assert not (tmp_path / "o.npy").exists()


def test_a_truth_of_another_shape_is_refused(tmp_path):
    cfg = config()
    write_measurement(tmp_path / "k.npz", replace(measured(cfg), noise=NoiseSpec("none")))
    np.save(tmp_path / "truth.npy", image(8, 8))
    request = RunRequest(tmp_path / "k.npz", tmp_path / "o.npy", cfg, "test", truth=tmp_path / "truth.npy")
    with pytest.raises(InputError, match=r"\(1, 1, 8, 8\).*\(1, 1, 12, 8\)"):
        plan_request(request)
