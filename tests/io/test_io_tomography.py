"""Data Exchange and NXtomo: counts become line integrals, the rotation axis and angles are the file's."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from recon.config.schema import Config
from recon.errors import InputError
from recon.io import tomography
from recon.io.describe import describe
from recon.io.registry import holds_measurement, read_measurement, read_volume, sniff
from recon.operators.registry import build, draw
from recon.runs.reconstruct import RunRequest, reconstruct

VIEWS, ROWS, COLUMNS = 40, 3, 24


def truth() -> np.ndarray:
    """Return an object (rows, y, x) in 1/mm, away from the axis so that a wrong axis or direction shows."""
    y, x = np.meshgrid(*[np.arange(COLUMNS) - (COLUMNS - 1) / 2] * 2, indexing="ij")
    return np.stack([(0.2 + 0.1 * r) * (((y + 3) / 4) ** 2 + ((x - 2) / 5) ** 2 < 1) for r in range(ROWS)])


def counts(offset: float = 0.0, pixel: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return (projections, flats, darks, angles in degrees)."""
    import torch

    angles = np.arange(VIEWS) * 180 / VIEWS
    params = {"detectors": COLUMNS, "detector_offset": offset, "pixel_size": pixel, "allow_truncation": True}
    operator = build(draw("ct", params, (1, COLUMNS, COLUMNS), 0, {"angles": angles}))
    lines = operator.forward(torch.from_numpy(truth()[:, None].astype(np.float32)))[:, 0].numpy()
    rng = np.random.default_rng(0)
    dark = rng.uniform(90, 110, (ROWS, COLUMNS))
    gain = rng.uniform(20000, 30000, (ROWS, COLUMNS))
    data = dark + gain * np.exp(-lines.swapaxes(0, 1))
    flats = dark + gain * (1 + 0.01 * rng.standard_normal((6, ROWS, COLUMNS)))
    return data, flats - (flats.mean(0) - dark - gain), np.stack([dark] * 2), angles


def exchange(path: Path, offset: float = 0.0, **items: Any) -> Path:
    data, flats, darks, angles = counts(offset)
    found = {"data": data.astype(np.float32), "data_white": flats, "data_dark": darks, "theta": angles} | items
    with h5py.File(path, "w") as file:
        for name, value in found.items():
            if value is not None:
                file[f"exchange/{name}"] = value
        file["measurement/instrument/detector/actual_pixel_size_x"] = 0.5
        file["measurement/instrument/detector/actual_pixel_size_x"].attrs["units"] = "mm"
        if offset:
            file["process/rotation_axis"] = (COLUMNS - 1) / 2 - offset
    return path


def nxtomo(path: Path, **items: Any) -> Path:
    data, flats, darks, angles = counts()
    frames = np.concatenate([darks, flats, data, flats[:1]])
    keys = np.array([2] * 2 + [1] * 6 + [0] * VIEWS + [3])
    turns = np.radians(np.concatenate([np.zeros(8), angles, [0]]))
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry0000")
        entry["definition"] = "NXtomo"
        found = {"instrument/detector/data": frames, "instrument/detector/image_key": keys} | {
            "sample/rotation_angle": turns
        }
        for name, value in (found | items).items():
            if value is not None:
                entry[name] = value
        if entry.get("sample/rotation_angle") is not None:
            entry["sample/rotation_angle"].attrs["units"] = "rad"
        entry["instrument/detector/x_pixel_size"] = 5e-4
        entry["instrument/detector/x_pixel_size"].attrs["units"] = "m"
    return path


@pytest.mark.parametrize(("make", "offset"), [(exchange, 0.0), (exchange, 1.5), (nxtomo, 0.0)])
def test_counts_become_line_integrals_of_the_object(tmp_path, make, offset):
    path = make(tmp_path / "a.h5", **({"offset": offset} if offset else {}))
    found = read_measurement(path)
    assert sniff(path) == "tomography" and holds_measurement(path)
    assert found.y.shape == (ROWS, 1, VIEWS, COLUMNS) and found.geometry.spacing == (0.5, 0.5, 0.5)
    operator = build(found.operator)
    import torch

    expected = operator.forward(torch.from_numpy(truth()[:, None].astype(np.float32))).numpy()
    np.testing.assert_allclose(found.y, expected, atol=2e-4)
    assert found.noise.sigma == pytest.approx(0.01, rel=0.15)
    assert found.operator.params.get("detector_offset", 0.0) == pytest.approx(offset)
    assert describe(path)["kind"] == "measurement"


@pytest.mark.parametrize("block", [1, 2**26])
def test_rows_are_normalised_in_blocks_of_any_size(tmp_path, monkeypatch, block):
    whole = read_measurement(exchange(tmp_path / "a.h5")).y
    monkeypatch.setattr(tomography, "BLOCK_BYTES", block)
    np.testing.assert_array_equal(read_measurement(tmp_path / "a.h5").y, whole)


def test_a_run_gives_the_object_in_its_units(tmp_path):
    content = {"operator": {"kind": "ct"}, "method": {"name": "cg", "iterations": 30}, "run": {"device": "cpu"}}
    config = Config.model_validate(content)
    request = RunRequest(exchange(tmp_path / "a.h5", 1.5), tmp_path / "o.npz", config, "test", sidecar=False)
    report = reconstruct(request, lambda plan: None, None)
    found = read_volume(tmp_path / "o.npz")
    error = np.linalg.norm(found.array - truth()) / np.linalg.norm(truth())
    assert error < 0.3 and found.geometry.spacing == (0.5, 0.5, 0.5) and found.geometry.units == "mm"
    said = "\n".join(report.notices)
    assert "normalised by 6 flat and 2 dark frames" in said and "rotation axis at column 10" in said


def test_data_without_flats_are_line_integrals_already(tmp_path):
    lines = np.random.default_rng(0).uniform(size=(VIEWS, ROWS, COLUMNS)).astype(np.float32)
    found = read_measurement(exchange(tmp_path / "a.h5", data=lines, data_white=None, data_dark=None))
    np.testing.assert_array_equal(found.y[:, 0], lines.swapaxes(0, 1))
    assert found.noise is None and any("line integrals already" in note for note in found.scan.notes)


def test_blocked_rays_are_counted(tmp_path):
    data = counts()[0].astype(np.float32)
    data[0, 0, :5] = 0
    found = read_measurement(exchange(tmp_path / "a.h5", data=data))
    assert np.isfinite(found.y).all() and any(note.startswith("5 of") for note in found.scan.notes)


@pytest.mark.parametrize(
    ("make", "items", "message"),
    [
        (exchange, {"theta": None}, "no exchange/theta: the angles of its 40 projections are not known"),
        (exchange, {"theta": np.arange(39.0)}, "39 angles for 40 projections"),
        (exchange, {"theta": np.full(40, np.nan)}, "not a finite number"),
        (exchange, {"data_white": None}, "dark frames without flat ones"),
        (exchange, {"data_white": np.ones((2, 3, 5))}, "expected frames of .3, 24."),
        (exchange, {"data_white": np.zeros((2, ROWS, COLUMNS))}, "not brighter than dark"),
        (nxtomo, {"sample/rotation_angle": None}, "no sample/rotation_angle"),
        (nxtomo, {"instrument/detector/image_key": np.zeros(5)}, "5 image keys"),
        (nxtomo, {"instrument/detector/image_key": np.full(VIEWS + 9, 1)}, "no projection"),
    ],
)
def test_what_is_missing_is_named_and_never_invented(tmp_path, make, items, message):
    with pytest.raises(InputError, match=message) as caught:
        read_measurement(make(tmp_path / "a.h5", **items))
    assert caught.value.hint and "\n" not in caught.value.message
    with pytest.raises(InputError, match="projections, expected an image"):
        read_volume(tmp_path / "a.h5")
