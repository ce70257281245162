"""Geometries that cannot be meant, through the command line: each is named, with its exit code and a hint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from recon.cli.exits import finish
from recon.cli.lazy import lazy_app
from recon.cli.main import COMMANDS, EPILOG, root
from recon.cli.options import Session
from recon.errors import ReconError
from recon.operators.calibration import explained, fourier
from recon.operators.coils import birdcage_maps

SIDE = 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    image = np.where(x**2 + y**2 < 0.7, 1 + 0.5 * np.cos(3 * x) * np.sin(4 * y), 0).astype(np.float32)
    np.save(tmp_path / "truth.npy", image)
    np.save(tmp_path / "volume.npy", np.stack([image[:16, :16]] * 4))
    return tmp_path


def operator(folder: Path, kind: str, params: str = "", **arrays: np.ndarray) -> tuple[str, ...]:
    """Write an operator file and return the option that names it."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    listed = "\n".join(f'{name} = "{name}.npy"' for name in arrays)
    (folder / "operator.toml").write_text(f'kind = "{kind}"\n[params]\n{params}\n[arrays]\n{listed}\n')
    return "--operator", str(folder / "operator.toml")


def ended(call: Any, capsys: Any, *arguments: str) -> tuple[int, str]:
    """Return the exit code and what a failed command says."""
    with pytest.raises(ReconError) as caught:
        call(*arguments)
    capsys.readouterr()
    code = finish(caught.value, debug=False)
    err = capsys.readouterr().err
    assert err.startswith("recon: error: ") and len(err.strip().splitlines()) <= 2, err
    return code, err


def said(capsys: Any, *arguments: str) -> str:
    """Return what a command that succeeds prints to stderr."""
    capsys.readouterr()
    command = lazy_app(root, COMMANDS, EPILOG)
    with command.make_context("recon", list(arguments), obj=Session()) as context:
        command.invoke(context)
    return str(capsys.readouterr().err)


def simulate(folder: Path, *more: str, preset: str = "ct-30", truth: str = "truth.npy") -> tuple[str, ...]:
    axes = ("--axes", "z,y,x") if truth == "volume.npy" else ()
    return "simulate", str(folder / truth), str(folder / "y.h5"), "-p", preset, "-q", *axes, *more


@pytest.mark.parametrize("kind", ["ct", "ct-fan", "ct-cone"])
@pytest.mark.parametrize("views", [30, 5])
def test_angles_in_radians(call: Any, capsys: Any, folder: Path, kind: str, views: int) -> None:
    named = operator(folder, kind, angles=np.linspace(0, np.pi, views, endpoint=False))
    truth = "volume.npy" if kind == "ct-cone" else "truth.npy"
    code, err = ended(call, capsys, *simulate(folder, *named, truth=truth))
    assert code == 4 and f"{views} angles lie within" in err and "as radians do" in err and "numpy.degrees" in err


def test_an_arc_in_radians(call: Any, capsys: Any, folder: Path) -> None:
    code, err = ended(call, capsys, *simulate(folder, "--set", "operator.arc=3.14159"))
    assert code == 4 and "as radians do" in err


@pytest.mark.parametrize(
    ("kind", "params"),
    [("ct", "detectors = 20"), ("ct-fan", "detectors = 20"), ("ct-cone", "detector_rows = 2\nangles = 8")],
)
def test_a_detector_that_misses_a_part(call: Any, capsys: Any, folder: Path, kind: str, params: str) -> None:
    truth = "volume.npy" if kind == "ct-cone" else "truth.npy"
    code, err = ended(call, capsys, *simulate(folder, *operator(folder, kind, params), truth=truth))
    assert code == 4 and "miss up to" in err and "allow_truncation" in err
    call(*simulate(folder, *operator(folder, kind, params + "\nallow_truncation = true"), truth=truth))
    assert (folder / "y.h5").exists()


@pytest.mark.parametrize("kind", ["ct-fan", "ct-cone"])
def test_a_source_inside_the_image(call: Any, capsys: Any, folder: Path, kind: str) -> None:
    truth = "volume.npy" if kind == "ct-cone" else "truth.npy"
    near = operator(folder, kind, "source_distance = 9.0")
    code, err = ended(call, capsys, *simulate(folder, *near, truth=truth))
    assert code == 4 and "source_distance 9 mm is inside the image" in err
    behind = operator(folder, kind, "source_distance = 60.0\ndetector_distance = 50.0")
    code, err = ended(call, capsys, *simulate(folder, *behind, truth=truth))
    assert code == 4 and "not beyond the axis" in err


def mri(folder: Path, maps: np.ndarray) -> tuple[str, ...]:
    mask = np.zeros(SIDE, np.uint8)
    mask[::2], mask[10:22] = 1, 1
    named = operator(folder, "mri", 'mask = "given"\nmaps = "given"', maps=maps, mask=mask)
    text = (folder / "operator.toml").read_text()
    (folder / "operator.toml").write_text(f"in_shape = [1, {SIDE}, {SIDE}]\n" + text)
    return named


def test_maps_of_another_size_or_number_of_coils(call: Any, capsys: Any, folder: Path) -> None:
    narrow = mri(folder, birdcage_maps(4, (SIDE, SIDE - 2)))
    code, err = ended(call, capsys, *simulate(folder, *narrow, preset="mri-x4"))
    assert code == 3 and "maps have shape (4, 32, 30), expected (coils, 32, 32)" in err
    call(*simulate(folder, *mri(folder, birdcage_maps(4, (SIDE, SIDE))), preset="mri-x4"))
    three = mri(folder, birdcage_maps(3, (SIDE, SIDE)))
    run = "run", str(folder / "y.h5"), str(folder / "x.npy"), "-p", "mri-x4-dds", "--method", "cg", "-q"
    code, err = ended(call, capsys, *run, *three)
    assert (
        code == 3
        and "the k-space has 4 coils, but the array 'maps' has 3: shape (3, 32, 32), expected (4, 32, 32)" in err
    )
    assert "another number of coils" in err and not (folder / "x.npy").exists()


@pytest.mark.parametrize(
    ("maps", "cause"),
    [
        (birdcage_maps(4, (SIDE - 2, SIDE)), "rows and columns look transposed: give maps as (coils, Y, X)"),
        (birdcage_maps(4, (SIDE, SIDE - 2)).transpose(1, 2, 0), "the coils look to be the last axis"),
        (birdcage_maps(4, (SIDE, SIDE - 2)).T, "the axes look reversed"),
        (birdcage_maps(4, (SIDE, SIDE)), "of another grid"),
        (np.ones((SIDE, SIDE - 2)), "the axes (coils, Y, X), one map for each coil"),
    ],
)
@pytest.mark.parametrize("kind", ["mri", "mri-nufft"])
def test_the_likely_cause_of_maps_that_do_not_fit(
    call: Any, capsys: Any, folder: Path, kind: str, maps: np.ndarray, cause: str
) -> None:
    np.save(folder / "y.npy", np.ones((4, SIDE, SIDE - 2) if kind == "mri" else (4, 5, 9), np.complex64))
    mask, path = np.ones(SIDE - 2, np.uint8), np.random.default_rng(0).uniform(-0.5, 0.5, (5, 9, 2))
    named = operator(folder, kind, maps=maps, **({"mask": mask} if kind == "mri" else {"trajectory": path}))
    text = (folder / "operator.toml").read_text()
    (folder / "operator.toml").write_text(f"in_shape = [1, {SIDE}, {SIDE - 2}]\n" + text)
    run = "run", str(folder / "y.npy"), str(folder / "x.npy"), "-p", "mri-x4-dds", "--method", "cg", "-q"
    code, err = ended(call, capsys, *run, *named)
    assert code == 3 and f"maps have shape {maps.shape}, expected (coils, 32, 30)" in err and cause in err
    assert not (folder / "x.npy").exists()


@pytest.mark.parametrize(
    ("mask", "cause"),
    [
        (np.ones((SIDE - 2, SIDE), np.uint8), "rows and columns look transposed"),
        (np.ones((SIDE - 2, 1), np.uint8), "rows and columns look transposed"),
        (np.ones(SIDE, np.uint8), "set the operator's axis"),
    ],
)
def test_the_likely_cause_of_a_mask_that_does_not_fit(
    call: Any, capsys: Any, folder: Path, mask: np.ndarray, cause: str
) -> None:
    np.save(folder / "y.npy", np.ones((1, SIDE, SIDE - 2), np.complex64))
    named = operator(folder, "mri", mask=mask)
    run = "run", str(folder / "y.npy"), str(folder / "x.npy"), "-p", "mri-x4-dds", "--method", "cg", "-q"
    code, err = ended(call, capsys, *run, *named)
    assert code == 3 and f"mask has shape {mask.shape}, expected (30,) of lines along x, or (32, 30)" in err
    assert cause in err and not (folder / "x.npy").exists()


def test_maps_of_another_number_of_coils_off_the_grid(call: Any, capsys: Any, folder: Path) -> None:
    maps = {count: birdcage_maps(count, (SIDE, SIDE)) for count in (3, 4)}
    call(*simulate(folder, *operator(folder, "mri-nufft", "shots = 20", maps=maps[4]), preset="mri-radial"))
    run = "run", str(folder / "y.h5"), str(folder / "x.npy"), "-p", "mri-radial-dds", "--method", "cg", "-q"
    code, err = ended(call, capsys, *run, *operator(folder, "mri-nufft", "shots = 20", maps=maps[3]))
    assert code == 3 and "the k-space has 4 coils, but the array 'maps' has 3" in err


def test_maps_that_do_not_explain_the_data_are_doubted(call: Any, capsys: Any, folder: Path) -> None:
    maps = birdcage_maps(4, (SIDE, SIDE))
    call(*simulate(folder, *mri(folder, maps), preset="mri-x4"))
    run = "run", str(folder / "y.h5"), str(folder / "x.npy"), "-p", "mri-x4-dds", "--method", "cg", "--force"
    for wrong in (maps[:, ::-1], maps.conj(), np.roll(maps, (16, 16), (1, 2)), maps[::-1]):
        assert "the coil maps explain" in said(capsys, *run, *mri(folder, wrong))
    for right in (maps, maps * np.exp(1j)):
        assert "the coil maps explain" not in said(capsys, *run, *mri(folder, right))


def test_noise_is_not_held_against_maps() -> None:
    rng, maps = np.random.default_rng(0), birdcage_maps(8, (SIDE, SIDE))
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    kspace = fourier(maps * np.where(x**2 + y**2 < 0.7, 1.0, 0))
    noisy = kspace + 0.5 * (rng.standard_normal(kspace.shape) + 1j * rng.standard_normal(kspace.shape))
    assert explained(kspace, maps, (12, 12)) > 0.98
    assert explained(noisy, maps, (12, 12)) < 0.93
    assert 0.95 < explained(noisy, maps, (12, 12), 0.5) < 1.05
    assert explained(noisy, rng.standard_normal(maps.shape) + 0j, (12, 12), 0.5) < 0.25


def test_dead_detectors_are_left_out(call: Any, capsys: Any, folder: Path) -> None:
    mask = np.ones(46, np.uint8)
    mask[[7, 30]] = 0
    call(*simulate(folder, *operator(folder, "ct", "angles = 30", mask=mask)))
    with h5py.File(folder / "y.h5", "r+") as file:
        assert not file["y"][..., 7].any() and file["y"][..., 8].any()
        for dead in (7, 30):
            file["y"][..., dead] = 1e6
    run = "run", str(folder / "y.h5"), str(folder / "x.npy"), "-p", "ct-30-dds", "--method", "cg"
    err = said(capsys, *run)
    assert "60 values of the measurement lie where the operator measures nothing: set to zero" in err
    truth, found = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("truth", "x"))
    assert np.linalg.norm(found - truth) < 0.35 * np.linalg.norm(truth)
