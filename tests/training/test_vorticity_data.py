"""Vorticity data: generation that resumes, symmetries that map solutions to solutions, spectra, the baseline."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.errors import ConfigError, InputError
from recon.priors.gaussian import GaussianPrior
from recon.runs.training import TrainRequest, export_prior, report_on_test, run_training
from recon.training.config import TrainConfig
from recon.training.navier_stokes import Flow, NavierStokes, gaussian_field
from recon.training.sources import crop_source, held_out_images, training_fields
from recon.training.spectra import (
    compare_spectra,
    largest_deviation,
    linear_oracle,
    shell_spectrum,
    stationary_gaussian,
)
from recon.training.vorticity import SETTINGS, UNIT, Simulation, open_fields, random_field, simulate_chunk, transformed

SMALL = Simulation(size=24, chunks=2, per_chunk=2, snapshots=2, spin_up=0.2, span=0.2, flow=Flow(wavenumber=4))
TRAINING = {
    "name": "tiny-flow",
    "description": "for tests",
    "crop": 16,
    "batch": 2,
    "steps": 2,
    "log_every": 1,
    "value_range": [-3.0, 3.0],
    "network": {
        "channels": [8, 16], "blocks": [1, 1], "embedding": 16, "groups": 4, "padding": "circular",
    },
    "data": {"kind": "vorticity", "chunks": 1, "test_chunks": 1, "per_chunk": 1, "snapshots": 2},
}  # fmt: skip


def test_a_chunk_depends_on_settings_and_index_alone():
    first, again = simulate_chunk(SMALL, 1), simulate_chunk(SMALL, 1)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (2, 2, 24, 24) and first.dtype == np.float32 and np.isfinite(first).all()
    assert not np.array_equal(first, simulate_chunk(SMALL, 0))
    assert not np.array_equal(first, simulate_chunk(replace(SMALL, seed=1), 1))
    # zero mean, trajectories apart, snapshots apart but of one trajectory
    assert np.abs(first.mean((-2, -1))).max() < 1e-4
    flat = first.reshape(4, -1)
    related = np.corrcoef(flat)
    assert related[0, 1] > 0.5 > abs(related[0, 2]) and related[0, 1] < 0.9999


def test_generation_goes_on_where_it_stopped_and_refuses_other_settings(tmp_path):
    done: list[tuple[int, int]] = []
    whole = open_fields(tmp_path, SMALL, lambda k, n: done.append((k, n)))
    assert done == [(1, 2), (2, 2)]
    kept = [np.array(chunk) for chunk in whole]
    (tmp_path / "0001.npy").unlink()
    again = open_fields(tmp_path, SMALL, lambda k, n: done.append((k, n)))
    assert done[2:] == [(2, 2)]
    for a, b in zip(kept, again, strict=True):
        np.testing.assert_array_equal(a, b)
    more = open_fields(tmp_path, replace(SMALL, chunks=3))
    assert len(more) == 3 and sorted(p.name for p in tmp_path.iterdir()) == [
        "0000.npy", "0001.npy", "0002.npy", SETTINGS,
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="span"):
        open_fields(tmp_path, replace(SMALL, span=0.3))


def test_damaged_files_are_named(tmp_path):
    open_fields(tmp_path, SMALL)
    np.save(tmp_path / "0000.npy", np.zeros((2, 2, 24, 8), dtype=np.float32))
    with pytest.raises(InputError, match=r"0000\.npy"):
        open_fields(tmp_path, SMALL)
    (tmp_path / "0000.npy").write_bytes(b"not an array")
    with pytest.raises(InputError, match="damaged"):
        open_fields(tmp_path, SMALL)
    (tmp_path / SETTINGS).write_text("{")
    with pytest.raises(InputError, match=SETTINGS):
        open_fields(tmp_path, SMALL)


def test_an_interrupted_chunk_leaves_nothing(tmp_path, monkeypatch):
    def broken(*args: object) -> np.ndarray:
        raise KeyboardInterrupt

    monkeypatch.setattr("recon.training.vorticity.simulate_chunk", broken)
    with pytest.raises(KeyboardInterrupt):
        open_fields(tmp_path, SMALL)
    assert [p.name for p in tmp_path.iterdir()] == [SETTINGS]


@pytest.mark.parametrize(
    ("shift", "half_periods", "turned"), [(5, 0, False), (0, 1, False), (3, 2, True), (7, 3, True)]
)
def test_symmetries_map_solutions_to_solutions(shift, half_periods, turned):
    # transform, then advance, is advance, then transform
    solver = NavierStokes(Flow(), 48, torch.float64)
    state = solver.transform(gaussian_field(1, 48, torch.Generator().manual_seed(2)))

    def moved(w: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(transformed(w[0].numpy(), 4, shift, half_periods, turned).copy())[None]

    before = solver.field(solver.advance(solver.transform(moved(solver.field(state))), 0.2, dt=0.01))
    after = moved(solver.field(solver.advance(state, 0.2, dt=0.01)))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-9)
    assert float((after - solver.field(state)).abs().max()) > 1


def test_a_wrong_shift_is_no_symmetry():
    # the same check, for half of a half period: the test above can fail
    solver = NavierStokes(Flow(), 48, torch.float64)
    w = solver.field(solver.transform(gaussian_field(1, 48, torch.Generator().manual_seed(2))))
    shifted = solver.field(solver.advance(solver.transform(w.roll(3, 1)), 0.2, dt=0.01))
    assert (
        float((shifted - solver.field(solver.advance(solver.transform(w), 0.2, dt=0.01)).roll(3, 1)).abs().max()) > 0.1
    )


def test_random_fields_keep_amplitude_and_use_every_symmetry():
    w = np.random.default_rng(0).standard_normal((1, 1, 16, 16)).astype(np.float32)
    rng = np.random.default_rng(1)
    seen = [random_field([w], 4, rng) for _ in range(50)]
    for field in seen:
        assert field.shape == (1, 16, 16) and field.dtype == np.float32
        np.testing.assert_allclose(np.sort(np.abs(field.ravel())), np.sort(np.abs(w.ravel() / UNIT)), rtol=1e-6)
    assert len({field.tobytes() for field in seen}) > 40
    a, b = (random_field([w], 4, np.random.default_rng(9)) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_spectrum_of_a_wave_is_its_power_over_its_shell():
    # |w_k|^2 of 6 cos(3x + 4y) is 9 at two modes of the shell 5
    n = 32
    y, x = np.meshgrid(*[np.arange(n) * 2 * np.pi / n] * 2, indexing="ij")
    spectrum = shell_spectrum((6 * np.cos(3 * x + 4 * y))[None])
    k = np.fft.fftfreq(n, 1 / n)
    members = np.count_nonzero(np.rint(np.hypot(k[:, None], k[None])) == 5)
    assert spectrum.shape == (15,)
    assert spectrum[4] == pytest.approx(18 / members) and np.delete(spectrum, 4).max() < 1e-20
    with pytest.raises(ConfigError, match="square"):
        shell_spectrum(np.zeros((3, 8, 4)))


def test_white_noise_has_a_flat_spectrum():
    noise = np.random.default_rng(0).standard_normal((200, 32, 32)) * 3
    np.testing.assert_allclose(shell_spectrum(noise), 9 / 32**2, rtol=0.12)


def test_comparison_counts_shells_above_the_floor_only():
    rng = np.random.default_rng(0)
    base = np.fft.fft2(rng.standard_normal((300, 32, 32)))
    k = np.fft.fftfreq(32, 1 / 32)
    size = np.hypot(k[:, None], k[None])
    data = np.fft.ifft2(base * np.exp(-size)).real
    samples = np.fft.ifft2(base * np.exp(-size) * np.where(size > 8.5, 3.0, np.where(size > 2.5, 1.1, 1.0))).real
    shells = compare_spectra(samples, data)
    assert [shell.counted for shell in shells[:5]] == [True] * 5 and not shells[9].counted
    assert shells[1].deviation == pytest.approx(0, abs=1e-6) and shells[9].deviation > 4
    assert largest_deviation(shells) == pytest.approx(0.21, abs=0.01)


def test_gaussian_of_the_spectrum_is_the_best_denoiser_of_gaussian_fields():
    spectrum = torch.linspace(4, 0.01, 16)[None, :, None] * torch.ones(1, 16, 16)
    spectrum = (spectrum + spectrum.flip(1).roll(1, 1)) / 2
    truth = GaussianPrior(spectrum, 0.5)
    fields = truth.sample(4000, torch.Generator().manual_seed(0))[:, 0].numpy()
    found = stationary_gaussian(fields, (-1.0, 1.0))
    torch.testing.assert_close(found.spectrum, truth.spectrum, rtol=0.12, atol=1e-3)
    torch.testing.assert_close(found.mean.mean(), torch.tensor(0.5, dtype=torch.float64), rtol=0, atol=0.02)
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    (estimate,) = linear_oracle(found)(x[0].numpy(), 0.5)
    torch.testing.assert_close(torch.from_numpy(estimate), truth(x, 0.5).x0[0], rtol=0, atol=0.08)


def test_training_on_held_out_free_fields_runs_to_a_report(tmp_path):
    config = TrainConfig.model_validate(TRAINING)
    request = TrainRequest(config, tmp_path, tmp_path / "state")
    run_training(request, lambda row: None)
    provenance = export_prior(request, tmp_path / "p.safetensors", 0, torch.float32, force=False)
    assert provenance["data"] == [] and "vorticity" in provenance["scaling"]
    assert json.loads((tmp_path / "vorticity" / SETTINGS).read_text())["size"] == 16
    held_out = held_out_images(config, tmp_path)
    stored = np.load(tmp_path / "vorticity" / "0000.npy") / UNIT
    np.testing.assert_allclose(np.stack(held_out)[:, 0], stored[0], rtol=1e-6)
    rows = report_on_test(request, 0, (0.2,))
    assert len(rows) == 2 and all(row.baselines["gaussian"] > row.noisy for row in rows)
    fields = training_fields(config, tmp_path, 16)
    assert fields.shape == (16, 16, 16)
    train = np.load(tmp_path / "vorticity" / "0001.npy") / UNIT
    assert np.abs(fields).max() == pytest.approx(np.abs(train).max(), rel=1e-6)


def test_crops_must_carry_the_symmetry(tmp_path):
    config = TrainConfig.model_validate(TRAINING | {"crop": 20})
    with pytest.raises(ConfigError, match="half a period"):
        crop_source(config, tmp_path)
