"""A scanner's k-space along a trajectory: what is inferred is right, and every inference can be overridden."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from recon.config.schema import Config
from recon.data import Measurement, NoiseSpec, OperatorSpec, Scan
from recon.errors import ConfigError, InputError
from recon.io.registry import read_volume, write_measurement
from recon.operators.calibration import cropped, fourier
from recon.operators.coils import birdcage_maps
from recon.operators.registry import build, draw
from recon.operators.trajectories import radial
from recon.runs.offgrid import central_kspace, central_region
from recon.runs.reconstruct import RunRequest, reconstruct
from recon.runs.resolve_input import resolve_input

SIZE, SCALE, SIGMA = (40, 36), 3e-6, 0.005
PATH = radial(48, 80).astype(np.float32)


def picture() -> np.ndarray:
    """Return a smooth object, (Y, X), about 1."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SIZE), indexing="ij")
    inside = 1 / (1 + np.exp(25 * ((y / 0.75) ** 2 + (x / 0.7) ** 2 - 1)))
    return inside * (1 + 0.4 * np.sin(5 * y) * np.cos(4 * x))


def phase() -> np.ndarray:
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SIZE), indexing="ij")
    return np.exp(1j * (2.0 * y + x**2 + 0.5))


def maps(coils: int) -> np.ndarray:
    return birdcage_maps(coils, SIZE) if coils > 1 else np.ones((1, *SIZE), np.complex64)


def samples(coils: int, slices: int = 2) -> np.ndarray:
    """Return noisy samples of the picture with phase, in tiny units."""
    arrays = {"trajectory": PATH, "maps": maps(coils) * phase()}
    operator = build(draw("mri-nufft", {"trajectory": "given", "width": 10}, (1, *SIZE), 0, arrays))
    clean = operator.forward(torch.from_numpy(picture()).float()[None, None]).numpy()
    rng = np.random.default_rng(0)
    shape = (slices, *clean.shape[1:])
    return np.asarray(SCALE * (clean + SIGMA * (rng.normal(size=shape) + 1j * rng.normal(size=shape))), np.complex64)


def measured(coils: int, **fields: Any) -> Measurement:
    spec = OperatorSpec("mri-nufft", {"trajectory": "given"}, (1, *SIZE), {"trajectory": PATH})
    return Measurement(samples(coils), spec, scan=Scan(lines=False, notes=("a radial scan",)), **fields)


def config(**sections: Any) -> Config:
    content: dict[str, Any] = {"operator": {"kind": "mri"}, "method": {"name": "cg"}}
    return Config.model_validate({**content, "run": {"device": "cpu", "threads": 1}, **sections})


@pytest.mark.parametrize("coils", [1, 4])
def test_the_image_comes_back_in_the_units_of_the_file(tmp_path, coils):
    write_measurement(tmp_path / "a.h5", measured(coils))
    request = RunRequest(tmp_path / "a.h5", tmp_path / "b.npz", config(), "test", sidecar=False, force=True)
    report = reconstruct(request, lambda plan: None, None)
    found = read_volume(tmp_path / "b.npz").array
    assert found.shape == (2, *SIZE)
    for image in found:
        assert np.linalg.norm(image - SCALE * picture()) < 0.1 * SCALE * np.linalg.norm(picture())
    said = "\n".join(report.notices)
    assert "a radial scan" in said and "trajectory: 48x80 samples" in said and "an upper bound" in said
    assert ("by ESPIRiT" in said) == (coils > 1) and "phase of the image: taken from" in said


def test_the_centre_of_k_space_is_that_of_a_cartesian_scan():
    y = samples(3, 1)[0]
    region = central_region(PATH, SIZE, 24)
    assert region == (24, 24)
    expected = cropped(fourier(SCALE * maps(3) * phase() * picture()), region)
    found = central_kspace(y, PATH, SIZE, region)
    disc = np.hypot(*np.mgrid[-12:12, -12:12]) < 10
    assert np.linalg.norm((found - expected)[:, disc]) < 0.02 * np.linalg.norm(expected[:, disc])


@pytest.mark.parametrize(("shots", "least", "most"), [(1, 0, 0), (4, 4, 8), (8, 6, 12), (64, 30, 36)])
def test_the_region_is_where_spokes_are_dense_enough(shots, least, most):
    """Spokes are one cell apart at radius shots/pi."""
    side = central_region(radial(shots, 80), SIZE, 36)[0]
    assert least <= side <= most


def test_noise_is_known_given_or_estimated():
    y = samples(2)
    y[:] = np.random.default_rng(1).normal(size=(*y.shape, 2)) @ np.array([3.0, 3.0j])
    spec = measured(2).operator
    pure = Measurement(y, spec, scan=Scan(lines=False))
    assert resolve_input(pure, config(), None).noise.sigma == pytest.approx(3.0, rel=0.05)
    known = Measurement(y, spec, NoiseSpec("gaussian", 0.25), scan=Scan(lines=False))
    assert resolve_input(known, config(), None).noise.sigma == 0.25
    assert resolve_input(known, config(scan={"sigma": 0.5}), None).noise.sigma == 0.5


def test_given_maps_are_used_and_slices_have_maps_of_their_own():
    truth = maps(4) * phase()
    given = OperatorSpec("mri-nufft", {"toeplitz": False}, (), {"maps": truth.astype(np.complex64)})
    found = resolve_input(measured(4), config(scan={"phase": "none"}), given)
    torch.testing.assert_close(found.operator.maps, torch.from_numpy(truth.astype(np.complex64)))
    assert found.operator.gram is None and "coil maps: those given (scan.maps)" in found.notices
    assert resolve_input(measured(4), config(), None).operator.gram is not None
    data = measured(4)
    data.y[1] = data.y[0, ::-1]
    both = resolve_input(data, config(), None)
    first, second = (both.item(i)[1].maps for i in (0, 1))
    np.testing.assert_allclose(np.abs(second.flip(0).numpy()), np.abs(first.numpy()), atol=1e-3)


def test_coils_can_be_compressed():
    found = resolve_input(measured(6), config(scan={"coils": 3}), None)
    y, operator = found.item(1)
    assert y.shape[1] == operator.out_shape[0] == 3
    assert "coils: 6 compressed to 3 virtual ones (scan.coils)" in found.notices


def test_a_complex_image_keeps_its_phase():
    found = resolve_input(measured(1), config(operator={"kind": "mri", "complex_image": True}), None)
    assert found.operator.in_dtype.is_complex and found.operator.kept_maps is None


@pytest.mark.parametrize(
    ("change", "settings", "error", "message"),
    [
        ({"y": np.zeros((1, 2, 48, 80), np.complex64)}, {}, InputError, "zero everywhere"),
        ({"y": np.ones((1, 2, 48, 79), np.complex64)}, {}, InputError, r"its trajectory gives"),
        ({"arrays": {}}, {}, InputError, "without its trajectory"),
        ({"in_shape": (1, 4, 40, 36)}, {}, InputError, "of a volume"),
        ({"arrays": {"trajectory": radial(1, 80)}, "y": np.ones((1, 2, 1, 80), complex)}, {}, InputError, "centre"),
        ({}, {"mask": "infer"}, ConfigError, "Cartesian"),
        ({}, {"maps": "none"}, ConfigError, "2 coils"),
    ],
)
def test_scans_that_cannot_be_meant_are_refused(change, settings, error, message):
    base = measured(2)
    arrays, shape = change.get("arrays", base.operator.arrays), change.get("in_shape", base.operator.in_shape)
    spec = OperatorSpec("mri-nufft", {"trajectory": "given"}, shape, arrays)
    with pytest.raises(error, match=message) as caught:
        resolve_input(Measurement(change.get("y", base.y), spec, scan=base.scan), config(scan=settings), None)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("wrong", "shape", "cause"),
    [
        (maps(3), "(3, 40, 36)", "another number of coils"),
        (maps(2).swapaxes(1, 2), "(2, 36, 40)", "transposed"),
    ],
)
def test_maps_that_do_not_fit_are_refused_with_their_likely_cause(wrong, shape, cause):
    given = OperatorSpec("mri-nufft", {}, (), {"maps": wrong})
    with pytest.raises(InputError, match=re.escape(f"maps have shape {shape}, k-space needs (2, 40, 36)")) as caught:
        resolve_input(measured(2), config(), given)
    assert cause in caught.value.hint


def test_an_unknown_trajectory_is_refused():
    with pytest.raises(InputError, match="no Cartesian grid"):
        resolve_input(Measurement(samples(1), None, scan=Scan(lines=False)), config(), None)
