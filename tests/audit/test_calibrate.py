"""The factor for the spread: known answers, held-out coverage, files, and what `recon run` does with it."""

import json
from dataclasses import replace

import numpy as np
import pytest

from recon.config.resolve import resolve
from recon.data import Geometry, Volume
from recon.errors import ConfigError, InputError, OutputExistsError, UsageError
from recon.io.registry import read_volume, write_volume
from recon.runs import calibrate as module
from recon.runs.calibrate import (
    FOREGROUND,
    Calibration,
    _coverages,
    _Tried,
    calibrate,
    fitted_factor,
    read_calibration,
    split_images,
)


def _tried(spread, samples=8, seed=0, size=120):
    """Truth and samples of one Gaussian, the samples too narrow or wide by `spread`."""
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal((1, size, size, 1))
    truth = centre + rng.standard_normal(centre.shape)
    drawn = centre + spread * rng.standard_normal((samples, *centre.shape))
    # the mean of the samples is what the error is measured from
    drawn = drawn + (1 - spread) * (rng.standard_normal(centre.shape) / samples**0.5)
    return _Tried(drawn, truth, np.ones(truth.shape, bool))


@pytest.mark.parametrize("samples", [2, 4, 16])
def test_samples_that_are_right_keep_their_spread(samples):
    tried = [_tried(1.0, samples, seed) for seed in (0, 1)]
    assert fitted_factor(tried, samples) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("spread", [0.25, 0.5, 2.0])
def test_wrong_spreads_are_undone_on_other_images(spread):
    fit, held = _tried(spread, seed=0), _tried(spread, seed=1)
    factor = fitted_factor([fit], 8)
    assert (factor > 1.2) if spread < 1 else (factor < 0.8)
    before, after = _coverages([held], 1.0), _coverages([held], factor)
    assert abs(before["90"] - 0.9) > 0.04 and after["90"] == pytest.approx(0.9, abs=0.015)
    assert abs(after["50"] - 0.5) < abs(before["50"] - 0.5)


def test_samples_that_do_not_differ_have_no_factor():
    one = _tried(1.0)
    same = _Tried(np.broadcast_to(one.samples[:1], one.samples.shape), one.truth, one.mask)
    with pytest.raises(ConfigError, match="do not differ"):
        fitted_factor([same], 8)


def test_the_background_does_not_count():
    one = _tried(0.5)
    half = np.zeros(one.truth.shape, bool)
    half[:, :60] = True
    wild = one.samples.copy()
    wild[:, :, 60:] += 100 * np.random.default_rng(3).standard_normal(wild[:, :, 60:].shape)
    factor = fitted_factor([_Tried(wild, one.truth, half)], 8)
    assert factor == pytest.approx(fitted_factor([one], 8), rel=0.1)


def _image(seed, slices=1):
    rng = np.random.default_rng(seed)
    rows = np.linspace(-1, 1, 16)
    disc = (rows[:, None] ** 2 + rows**2 < 0.5) * (0.6 + 0.3 * rng.random((slices, 16, 16)))
    return Volume(disc.astype(np.float32), Geometry(("n", "y", "x"), value_range=(0.0, 1.0)))


def test_images_are_split_into_items():
    assert len(split_images([_image(0, 3), _image(1, 2)])) == 5
    chosen = split_images([_image(0, 9)], 3)
    whole = split_images([_image(0, 9)])
    assert [next(i for i, w in enumerate(whole) if np.array_equal(w.array, c.array)) for c in chosen] == [0, 4, 8]
    with pytest.raises(InputError, match="two or more images"):
        split_images([_image(0)])


def _config(samples=3):
    sets = ["method.steps=3"]
    return resolve("denoise-dds", sets=sets, flags={"run.samples": samples, "run.threads": 1}).config


def test_a_calibration_of_a_preset(tmp_path):
    seen = []
    found = calibrate(_config(), "denoise-dds", split_images([_image(0, 3)]), lambda p: seen.append((p.done, p.total)))
    assert (found.fitted, found.held_out, found.samples, found.method) == (2, 1, 3, "dds") and found.factor > 0
    assert found.before.keys() == found.after.keys() == {
        "50",
        "90",
        "95",
    } and found.spread_ratio_after == pytest.approx(found.factor * found.spread_ratio_before, rel=1e-3)
    assert seen[-1][0] == seen[-1][1] and seen == sorted(seen)
    path = tmp_path / "c.json"
    path.write_bytes(found.encode())
    assert read_calibration(path) == found
    assert found.conflicts(_config()) == []
    other = resolve("sr4-dps", flags={"prior.name": "photo"}).config
    assert found.conflicts(other) == [
        "the calibration is for method 'dds', not 'dps'",
        "the calibration is for operator 'denoise', not 'downsample'",
    ]


def test_a_calibration_needs_samples_that_can_differ():
    with pytest.raises(ConfigError, match="two or more samples"):
        calibrate(_config(1), "denoise-dds", split_images([_image(0, 2)]))
    flat = resolve("denoise-dds", method="tikhonov", flags={"run.samples": 4}).config
    with pytest.raises(ConfigError, match="deterministic"):
        calibrate(flat, "denoise-dds", split_images([_image(0, 2)]))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"factor": 2}'])
def test_files_that_are_no_calibration_are_refused(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(InputError, match="no calibration"):
        read_calibration(path)
    with pytest.raises(InputError, match="cannot read"):
        read_calibration(tmp_path / "missing.json")


def _written(path, factor):
    names = {"preset": "denoise-dds", "method": "dds", "prior": "brain-mri", "operator": "denoise"}
    whole = Calibration(factor, 0.9, samples=3, fitted=1, held_out=1, before={}, after={}, spread_ratio_before=1.0,
                        spread_ratio_after=1.0, **names)  # fmt: skip
    path.write_bytes(whole.encode())
    return whole


def test_a_factor_must_be_positive(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(replace(_written(path, 1.0), factor=-1.0).encode())
    with pytest.raises(InputError, match="no calibration"):
        read_calibration(path)


def test_the_command_fits_and_a_run_applies(call, tmp_path):
    for name, volume in (("a.npy", _image(0)), ("b.npy", _image(1))):
        write_volume(tmp_path / name, Volume(volume.array[0], Geometry(("y", "x"))))
    out = tmp_path / "cal.json"
    truths = [word for name in "ab" for word in ("--truth", str(tmp_path / f"{name}.npy"))]
    fit = ("--samples", "3", "-s", "method.steps=2", "--output", str(out), "-q")
    arguments = ("audit", "--calibrate", "denoise-dds", *truths, *fit)
    found = json.loads(call(*arguments, "--json"))
    assert found["factor"] == read_calibration(out).factor and found["status"] == "ok"
    with pytest.raises(OutputExistsError):
        call(*arguments)
    with pytest.raises(UsageError, match="needs images"):
        call("audit", "--calibrate", "denoise-dds", "-q")
    measured = tmp_path / "m.h5"
    call("simulate", str(tmp_path / "a.npy"), str(measured), "-p", "denoise-dds", "-q")
    run = ("run", str(measured), "-p", "denoise-dds", "--samples", "3", "-s", "method.steps=2", "-q")
    call(*run[:2], str(tmp_path / "plain.npy"), *run[2:])
    call(*run[:2], str(tmp_path / "scaled.npy"), *run[2:], "--calibration", str(out))
    plain, scaled = (read_volume(tmp_path / f"{name}_std.npy").array for name in ("plain", "scaled"))
    assert np.allclose(scaled, found["factor"] * plain, rtol=1e-5)
    mean = [read_volume(tmp_path / f"{name}.npy").array for name in ("plain", "scaled")]
    assert np.array_equal(*mean)
    sidecar = json.loads((tmp_path / "scaled.npy.json").read_text())
    assert sidecar["Recon"]["Config"]["run"]["std_factor"] == found["factor"]
    call("rerun", str(tmp_path / "scaled.npy.json"), str(tmp_path / "again.npy"), "-q")
    assert np.array_equal(read_volume(tmp_path / "again_std.npy").array, scaled)


def test_the_foreground_is_stated():
    assert 0 < FOREGROUND < 0.1 and "2 %" in (module.__doc__ or "")
