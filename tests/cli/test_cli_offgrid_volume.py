"""A volume measured along a path in three dimensions: simulated, reconstructed, and what cannot be, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from recon.errors import ConfigError, InputError

SHAPE = (8, 16, 12)
TOML = 'kind = "mri-nufft"\n[params]\ntrajectory = "given"\n{params}\n[arrays]\ntrajectory = "path.npy"\n{arrays}\n'


def spokes(count: int, samples: int) -> np.ndarray:
    """Return spokes through the centre in directions that cover the sphere evenly, (count, samples, 3) in x, y, z."""
    index = np.arange(count)
    z, turn = 1 - 2 * (index + 0.5) / count, np.pi * (1 + 5**0.5) * index
    flat = np.sqrt(1 - z * z)
    directions = np.stack([flat * np.cos(turn), flat * np.sin(turn), z], -1)
    return (np.arange(samples) - samples // 2)[None, :, None] / samples * directions[:, None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    image = np.where(x**2 + y**2 + z**2 < 0.8, 1 + 0.3 * np.cos(3 * x + y) * np.cos(2 * z), 0)
    np.save(tmp_path / "volume.npy", image.astype(np.float32))
    np.save(tmp_path / "path.npy", spokes(260, 16))
    (tmp_path / "path.toml").write_text(TOML.format(params="", arrays=""))
    return tmp_path


def simulate(folder: Path, *more: str, truth: str = "volume.npy", axes: str = "z,y,x") -> tuple[str, ...]:
    files = str(folder / truth), str(folder / "y.h5")
    return "simulate", *files, "--axes", axes, "-p", "mri-radial", "--operator", str(folder / "path.toml"), "-q", *more


def run(folder: Path, *more: str) -> tuple[str, ...]:
    return "run", str(folder / "y.h5"), str(folder / "x.npy"), "-p", "mri-radial-dds", "-q", "--json", *more


@pytest.mark.parametrize("backend", ["gridding", "finufft"])
def test_least_squares_find_the_volume(call: Any, folder: Path, backend: str) -> None:
    if backend == "finufft":
        pytest.importorskip("finufft")
    (folder / "path.toml").write_text(TOML.format(params=f'backend = "{backend}"', arrays=""))
    call(*simulate(folder, "--set", "noise.sigma=0"))
    with h5py.File(folder / "y.h5") as file:
        assert file["y"].shape == (1, 1, 260, 16) and tuple(file["operator/in_shape"]) == (1, *SHAPE)
    call(*run(folder, "--method", "cg", "--set", "method.iterations=30"))
    truth, found = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("volume", "x"))
    assert found.shape == SHAPE
    assert np.linalg.norm(found - truth) < 0.15 * np.linalg.norm(truth)


def test_a_diffusion_method_sees_its_slices(call: Any, folder: Path) -> None:
    call(*simulate(folder))
    facts = json.loads(call(*run(folder, "--set", "method.steps=3", "--set", "run.device=cpu")))
    assert facts["status"] == "ok" and facts["nfe"] == 3 * SHAPE[0]
    assert np.load(folder / "x.npy", allow_pickle=False).shape == SHAPE


def test_coils_of_a_volume_come_with_their_maps(call: Any, folder: Path) -> None:
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    maps = np.stack([1 + 0.5 * x + 0.1j * y, 1 - 0.5 * x + 0.2j * z]).astype(np.complex64)
    np.save(folder / "maps.npy", maps)
    (folder / "path.toml").write_text(TOML.format(params="", arrays='maps = "maps.npy"'))
    call(*simulate(folder))
    with h5py.File(folder / "y.h5") as file:
        assert file["y"].shape == (1, 2, 260, 16)
    call(*run(folder, "--method", "cg"))
    (folder / "path.toml").write_text(TOML.format(params="coils = 2", arrays=""))
    with pytest.raises(ConfigError, match="two-dimensional") as caught:
        call(*simulate(folder, "--force"))
    assert "maps" in str(caught.value.hint)


def test_raw_samples_and_an_operator_file_are_enough(call: Any, folder: Path) -> None:
    call(*simulate(folder))
    with h5py.File(folder / "y.h5") as file:
        np.save(folder / "y.npy", file["y"][()])
    text = (folder / "path.toml").read_text()
    arguments = [str(folder / "y.npy") if a.endswith("y.h5") else a for a in run(folder, "--method", "cg")]
    with pytest.raises(InputError, match="image shape cannot be known"):
        call(*arguments, "--operator", str(folder / "path.toml"))
    (folder / "path.toml").write_text(f"in_shape = {[1, *SHAPE]}\n" + text)
    call(*arguments, "--operator", str(folder / "path.toml"))
    assert np.load(folder / "x.npy", allow_pickle=False).shape == SHAPE


def test_what_is_no_volume_is_refused(call: Any, folder: Path) -> None:
    for more, axes in ((("--index", "2"), "z,y,x"), ((), "n,y,x")):
        with pytest.raises(InputError, match="sees the slices of a volume together") as caught:
            call(*simulate(folder, *more, axes=axes))
        assert "axis z" in str(caught.value.hint)
    np.save(folder / "path.npy", spokes(260, 16)[..., :2] * 3)
    with pytest.raises(InputError, match=r"outside \[-1/2, 1/2\]"):
        call(*simulate(folder))
