"""A scanner's own k-space, from file to image: what is inferred is right, and every inference can be overridden."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from recon.config.schema import Config
from recon.data import Geometry, Measurement, OperatorSpec, Scan
from recon.errors import ConfigError, InputError
from recon.io.mrd_header import Space, header_xml
from recon.io.registry import read_measurement, read_volume, write_measurement
from recon.operators.calibration import fourier
from recon.operators.coils import birdcage_maps
from recon.runs.plan import make_plan
from recon.runs.reconstruct import RunRequest, reconstruct
from recon.runs.resolve_input import resolve_input

SIZE, CROP, SCALE, SIGMA = (96, 44), (48, 40), 3e-6, 0.02


def picture() -> np.ndarray:
    """Return a smooth object inside the field of view that is shown, (Y, X), about 1."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in CROP), indexing="ij")
    inside = 1 / (1 + np.exp(40 * ((y / 0.75) ** 2 + (x / 0.7) ** 2 - 1)))
    return inside * (1 + 0.4 * np.sin(7 * y) * np.cos(6 * x))


def kspace(coils: int, slices: int = 2) -> np.ndarray:
    """Return noisy k-space of the picture in the centre of a readout twice as long, with phase, in tiny units."""
    full = np.zeros(SIZE)
    top, left = (SIZE[0] - CROP[0]) // 2, (SIZE[1] - CROP[1]) // 2
    full[top : top + CROP[0], left : left + CROP[1]] = picture()
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SIZE), indexing="ij")
    phase = np.exp(1j * (2.0 * y + x**2 + 0.5))
    maps = birdcage_maps(coils, SIZE) if coils > 1 else np.ones((1, *SIZE))
    rng = np.random.default_rng(0)
    shape = (slices, coils, *SIZE)
    noise = SIGMA * (rng.normal(size=shape) + 1j * rng.normal(size=shape))
    return np.asarray(SCALE * (fourier(maps * phase * full) + noise), np.complex64)


def lines() -> np.ndarray:
    mask = np.zeros(SIZE[1], np.uint8)
    mask[::2] = mask[22 - 6 : 22 + 6] = 1
    return mask


def scanned(path: Path, coils: int, mask: str = "zeros") -> Path:
    y = kspace(coils)
    y = y if mask == "full" else y * lines()
    encoded, shown = Space((*SIZE, 1), (*map(float, SIZE), 5.0)), Space((*CROP, 1), (*map(float, CROP), 5.0))
    with h5py.File(path, "w") as file:
        file["kspace"] = y if coils > 1 else y[:, 0]
        file["ismrmrd_header"] = header_xml(encoded, shown)
        if mask == "given":
            file["mask"] = lines().astype(bool)
    return path


def config(method: str = "cg", **sections: Any) -> Config:
    content: dict[str, Any] = {"operator": {"kind": "mri", "acceleration": 2.0}, "method": {"name": method}}
    return Config.model_validate({**content, "run": {"device": "cpu", "threads": 1}, **sections})


def run(source: Path, output: Path, **sections: Any) -> tuple[np.ndarray, list[str]]:
    request = RunRequest(source, output, config(**sections), "test", sidecar=False, force=True)
    report = reconstruct(request, lambda plan: None, None)
    return read_volume(output).array, report.notices


def error(found: np.ndarray) -> float:
    """Return the relative error of (x, y, z) images against the picture, in the file's units."""
    target = SCALE * picture().T[:, :, None]
    return float(np.linalg.norm(found - target) / np.linalg.norm(np.broadcast_to(target, found.shape)))


@pytest.mark.parametrize("coils", [1, 4])
@pytest.mark.parametrize("mask", ["full", "given", "zeros"])
def test_the_image_comes_back_in_the_units_and_place_of_the_file(tmp_path, coils, mask):
    found, notices = run(scanned(tmp_path / "a.h5", coils, mask), tmp_path / "a.nii.gz")
    assert found.shape == (*CROP[::-1], 2)
    assert error(found) < (0.12 if mask == "full" or coils > 1 else 0.6)
    assert read_volume(tmp_path / "a.nii.gz").geometry.spacing == (1.0, 1.0, 5.0)
    said = "\n".join(notices)
    count = {
        "full": "all samples",
        "given": f"{lines().sum()} of 44 columns",
        "zeros": f"{lines().sum()} of 44 columns",
    }
    assert count[mask] in said and ("read from the file" in said) == (mask == "given")
    assert "readout oversampling removed: 48 of 96 points" in said and "central 48x40 of 48x44" in said
    assert ("by ESPIRiT" in said) == (coils > 1) and "phase of the image: taken from" in said


def test_the_phase_must_be_absorbed_for_a_real_image(tmp_path):
    path = scanned(tmp_path / "a.h5", 4)
    absorbed, _ = run(path, tmp_path / "a.npz")
    plain, notices = run(path, tmp_path / "b.npz", scan={"phase": "none"})
    both = [error(np.moveaxis(a, 0, -1).swapaxes(0, 1)) for a in (absorbed, plain)]
    assert both[1] > 3 * both[0] and "phase of the image: taken to be zero (scan.phase)" in notices
    whole, _ = run(path, tmp_path / "c.npz", operator={"kind": "mri", "complex_image": True})
    assert np.iscomplexobj(whole)
    assert error(np.abs(np.moveaxis(whole, 0, -1)).swapaxes(0, 1)) < 0.15


def test_noise_and_window_are_those_of_the_data(tmp_path):
    plan = make_plan(config(), read_measurement(scanned(tmp_path / "a.h5", 4)))
    assert plan.input.noise.sigma == pytest.approx(SCALE * SIGMA, rel=0.3)
    assert plan.window.high == pytest.approx(SCALE * np.quantile(picture(), 0.995), rel=0.1)
    chosen = make_plan(config(scan={"sigma": 1e-7}), read_measurement(tmp_path / "a.h5"))
    assert chosen.input.noise.sigma == 1e-7 and not any("noise" in line for line in chosen.notices)
    assert plan.describe()["items"] == 2


def test_every_inference_has_its_setting(tmp_path):
    path = scanned(tmp_path / "a.h5", 4)
    measured = read_measurement(path)
    whole = resolve_input(measured, config(scan={"oversampling": False, "crop": False}), None)
    assert whole.operator.in_shape == (1, *SIZE) and whole.image_shape == (2, 1, *SIZE)
    rough = resolve_input(measured, config(scan={"maps": "rough"}), None)
    assert any("low-resolution images of 4 coils" in line for line in rough.notices)
    small = resolve_input(measured, config(scan={"calibration": 8}), None)
    assert any("ESPIRiT from 8x8" in line for line in small.notices)
    laid = resolve_input(read_measurement(scanned(tmp_path / "f.h5", 4, "full")), config(scan={"mask": "preset"}), None)
    mask = laid.spec.arrays["mask"]
    assert 0.3 < mask.mean() < 0.7 and (mask == mask[:1]).all() and any("mask of the preset" in n for n in laid.notices)
    y, operator = laid.item(1)
    assert not y[0, :, mask == 0].any() and operator.support is not None


def test_arrays_of_an_operator_file_go_first(tmp_path):
    measured = read_measurement(scanned(tmp_path / "a.h5", 4, "given"))
    maps = birdcage_maps(4, (48, 44)) * np.complex64(1j)
    mask = np.zeros(44, np.uint8)
    mask[10:30] = 1
    given = OperatorSpec("mri", {}, (), {"maps": maps, "mask": mask})
    found = resolve_input(measured, config(scan={"phase": "none"}), given)
    np.testing.assert_array_equal(found.spec.arrays["maps"], maps)
    np.testing.assert_array_equal(found.spec.arrays["mask"], np.broadcast_to(mask, (48, 44)))
    assert any("coil maps: those given" in line for line in found.notices)
    wrong = OperatorSpec("mri", {}, (), {"maps": maps[:3]})
    with pytest.raises(InputError, match=r"maps have shape \(3, 48, 44\), k-space needs \(4, 48, 44\)"):
        resolve_input(measured, config(), wrong)


def test_maps_differ_from_slice_to_slice(tmp_path):
    y = kspace(4)
    y[1] = y[0, ::-1]
    spec = OperatorSpec("mri", {"mask": "given"}, (1, *SIZE), {})
    found = resolve_input(Measurement(y, spec, scan=Scan()), config(), None)
    first, second = (found.item(i)[1].maps for i in (0, 1))
    assert float((first - second).abs().max()) > 0.3
    np.testing.assert_allclose(np.abs(second.flip(0).numpy()), np.abs(first.numpy()), atol=1e-3)


@pytest.mark.parametrize(
    ("y", "scan", "settings", "message"),
    [
        (np.zeros((1, 2, 16, 16), np.complex64), Scan(), {}, "k-space is zero everywhere"),
        (np.ones((2, 16, 16), np.complex64), Scan(), {}, "expected .slices, coils, Y, X."),
        (np.ones((1, 1, 16, 16), np.complex64), Scan(lines=False), {}, "no Cartesian grid"),
        (kspace(4) * (np.arange(44) % 4 == 1), Scan(), {}, "the centre of k-space is not measured"),
        (kspace(4)[:, :, :7, :7], Scan(), {"maps": "rough", "phase": "none"}, "too few samples"),
    ],
)
def test_scans_that_say_too_little_are_refused(y, scan, settings, message):
    spec = OperatorSpec("mri", {"mask": "given"}, (1, *y.shape[-2:]), {})
    with pytest.raises(InputError, match=message) as caught:
        resolve_input(Measurement(y, spec, scan=scan), config(scan=settings), None)
    assert caught.value.hint and "\n" not in caught.value.message


def test_coils_can_be_compressed(tmp_path):
    path = scanned(tmp_path / "a.h5", 8, "full")
    found, notices = run(path, tmp_path / "a.nii.gz", scan={"coils": 4})
    assert error(found) < 0.12 and "coils: 8 compressed to 4 virtual ones (scan.coils)" in notices
    resolved = resolve_input(read_measurement(path), config(scan={"coils": 4}), None)
    y, operator = resolved.item(1)
    assert y.shape[1] == operator.out_shape[0] == 4
    given = OperatorSpec("mri", {}, (), {"maps": birdcage_maps(8, (48, 44))})
    assert resolve_input(read_measurement(path), config(scan={"coils": 3}), given).item(0)[1].out_shape[0] == 3


def test_settings_that_do_not_fit_are_refused(tmp_path):
    measured = read_measurement(scanned(tmp_path / "a.h5", 4))
    with pytest.raises(ConfigError, match="k-space has 4 coils"):
        resolve_input(measured, config(scan={"maps": "none"}), None)
    with pytest.raises(ConfigError, match="needs a preset of operator 'mri'"):
        resolve_input(measured, config(operator={"kind": "denoise"}, scan={"mask": "preset"}), None)


def test_a_scan_survives_our_own_measurement_file(tmp_path):
    measured = read_measurement(scanned(tmp_path / "a.h5", 4, "given"))
    for name in ("b.npz", "b.h5"):
        write_measurement(tmp_path / name, measured)
        found = read_measurement(tmp_path / name)
        assert found.scan == measured.scan
        np.testing.assert_array_equal(found.y, measured.y)
        assert isinstance(found.geometry, Geometry)
        assert run(tmp_path / name, tmp_path / "o.nii")[0].shape == (*CROP[::-1], 2)
