"""Vorticity fields of forced two-dimensional turbulence, as training data: simulated once, kept in a folder.

A trajectory starts from a Gaussian random field, runs for `spin_up` and is then kept at `snapshots` random times, one
in each equal part of `span`. It is solved on a grid 3/2 as fine as the fields, where 2/3 dealiasing keeps just the
modes that the fields can carry, so that nothing of the solution is lost or folded. Trajectories are made and stored in
chunks NNNN.npy, float32 (trajectory, snapshot, Y, X), in 1/time; a broken generation goes on at the first missing one.

Augmentation: the symmetries of the forcing -A cos(m y), which map solutions to solutions:
    w(x, y) -> w(x + a, y),    w(x, y) -> w(-x, -y),    w(x, y) -> -w(-x, y + pi/m)
(the third, twice, is the shift by the period 2 pi/m of the forcing).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import final

import numpy as np
import torch

from recon.errors import ConfigError, InputError
from recon.training.navier_stokes import Flow, NavierStokes, gaussian_field, resample

UNIT = 10.0
SETTINGS = "settings.json"


@final
@dataclass(frozen=True)
class Simulation:
    """What determines a set of fields.

    size: side of the fields, in pixels.  chunks: how many, of `per_chunk` trajectories each.  start_rms: of the initial
    field.  spin_up, span: time before the first snapshot may be taken, and over which they are taken.
    """

    size: int = 64
    chunks: int = 42
    per_chunk: int = 16
    snapshots: int = 16
    start_rms: float = 4.0
    spin_up: float = 5.0
    span: float = 10.0
    seed: int = 0
    flow: Flow = field(default_factory=Flow)

    def __post_init__(self) -> None:
        if self.size % 4 or self.size % (2 * self.flow.wavenumber):
            raise ConfigError(
                f"vorticity fields of {self.size} pixels cannot be shifted by half a period of the forcing",
                f"take a multiple of 4 and of {2 * self.flow.wavenumber}",
            )
        if min(self.chunks, self.per_chunk, self.snapshots) < 1 or min(self.spin_up, self.span) <= 0:
            raise ConfigError("a simulation needs positive numbers of chunks, trajectories and snapshots, and times")


def simulate_chunk(simulation: Simulation, index: int) -> np.ndarray:
    """Return chunk `index`, (per_chunk, snapshots, size, size) float32; it depends on the settings and index alone."""
    rng = np.random.default_rng([simulation.seed, index])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    fine = simulation.size * 3 // 2
    solver = NavierStokes(simulation.flow, fine)
    start = gaussian_field(simulation.per_chunk, fine, generator, simulation.start_rms)
    state = solver.transform(start.float())
    parts = (np.arange(simulation.snapshots) + rng.random(simulation.snapshots)) / simulation.snapshots
    now, fields = 0.0, []
    with torch.inference_mode():
        for time in simulation.spin_up + simulation.span * parts:
            state = solver.advance(state, float(time) - now)
            now = float(time)
            fields.append(resample(state, fine, simulation.size))
    return torch.stack(fields, dim=1).numpy()


def open_fields(
    folder: Path, simulation: Simulation, on_chunk: Callable[[int, int], None] = lambda done, total: None
) -> list[np.ndarray]:
    """Return all chunks, memory-mapped, after simulating those that `folder` does not hold yet.

    on_chunk(done, total) is called after each new one. Raises ConfigError if the folder holds fields of other settings,
    InputError for a damaged chunk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_settings(folder / SETTINGS, simulation)
    for index in range(simulation.chunks):
        path = _chunk_path(folder, index)
        if not path.is_file():
            temporary = path.with_name(f"{path.stem}.tmp-{os.getpid()}.npy")
            try:
                np.save(temporary, simulate_chunk(simulation, index), allow_pickle=False)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            on_chunk(index + 1, simulation.chunks)
    return [_open_chunk(_chunk_path(folder, index), simulation) for index in range(simulation.chunks)]


def _chunk_path(folder: Path, index: int) -> Path:
    return folder / f"{index:04d}.npy"


def _check_settings(path: Path, simulation: Simulation) -> None:
    ours = asdict(simulation)
    if not path.is_file():
        temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
        temporary.write_text(json.dumps(ours, indent=1))
        os.replace(temporary, path)
        return
    try:
        theirs = dict(json.loads(path.read_text()))
    except ValueError as err:
        raise InputError(f"{path.name} of the vorticity fields is damaged", "remove the folder") from err
    # more chunks of the same fields may be asked for later
    changed = sorted(key for key in ours if key != "chunks" and ours[key] != theirs.get(key))
    if changed:
        raise ConfigError(
            f"the folder {path.parent.name} holds vorticity fields of another {', '.join(changed)}",
            "choose another folder, or remove that one",
        )


def _open_chunk(path: Path, simulation: Simulation) -> np.ndarray:
    expected = (simulation.per_chunk, simulation.snapshots, simulation.size, simulation.size)
    try:
        chunk = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as err:
        raise InputError(f"vorticity chunk {path.name} is damaged", "remove it; it will be simulated again") from err
    if chunk.shape != expected or chunk.dtype != np.float32:
        raise InputError(
            f"vorticity chunk {path.name} is {chunk.shape} {chunk.dtype}, expected {expected} float32",
            "remove it; it will be simulated again",
        )
    return chunk


def random_field(chunks: list[np.ndarray], wavenumber: int, rng: np.random.Generator) -> np.ndarray:
    """Return one stored field under a random symmetry of the flow: (1, Y, X) float32, vorticity over `UNIT`."""
    chunk = chunks[rng.integers(len(chunks))]
    w = chunk[rng.integers(chunk.shape[0]), rng.integers(chunk.shape[1])]
    return transformed(
        w, wavenumber, int(rng.integers(w.shape[1])), int(rng.integers(2 * wavenumber)), bool(rng.integers(2))
    )[None] / np.float32(UNIT)


def transformed(w: np.ndarray, wavenumber: int, shift: int, half_periods: int, turned: bool) -> np.ndarray:
    """Return a field (Y, X) under a symmetry of the flow: see the head of this file.

    shift: in x, pixels.  half_periods: how often w -> -w(-x, y + pi/m) is applied.  turned: by 180 degrees.
    """
    step = w.shape[0] // (2 * wavenumber)
    moved = np.roll(w, (-half_periods * step, -shift), axis=(0, 1))
    if half_periods % 2:
        moved = -_mirror(moved, 1)
    if turned:
        moved = _mirror(_mirror(moved, 0), 1)
    return moved


def _mirror(w: np.ndarray, axis: int) -> np.ndarray:
    """Return w at the negative coordinate along `axis` of a periodic grid that starts at 0."""
    return np.roll(np.flip(w, axis), 1, axis)
