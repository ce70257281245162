"""The Navier-Stokes solver against closed forms, its order of convergence, budgets and symmetries."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from recon.errors import ConfigError, NumericalError
from recon.training.navier_stokes import LENGTH, Flow, NavierStokes, gaussian_field, resample

FREE = Flow(reynolds=20.0, amplitude=0.0)


def grid(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (y, x), float64."""
    t = torch.arange(n, dtype=torch.float64) * (LENGTH / n)
    return torch.meshgrid(t, t, indexing="ij")


def start(solver: NavierStokes, count: int = 1, rms: float = 4.0, seed: int = 0) -> torch.Tensor:
    return solver.transform(gaussian_field(count, solver.n, torch.Generator().manual_seed(seed), rms).to(solver.dtype))


def test_taylor_green_vortices_decay_at_the_viscous_rate_and_do_not_move():
    # w = 2 k cos(kx) cos(ky) advects nothing, so w(t) = w(0) exp(-2 k^2 t / Re)
    solver = NavierStokes(FREE, 32, torch.float64)
    y, x = grid(32)
    w = 2 * 3 * torch.cos(3 * x) * torch.cos(3 * y)
    found = solver.field(solver.advance(solver.transform(w), 0.7, dt=0.0025))
    torch.testing.assert_close(found, w * math.exp(-2 * 9 * 0.7 / 20), rtol=0, atol=1e-6)


def test_velocity_is_that_of_the_stream_function():
    solver = NavierStokes(FREE, 32, torch.float64)
    y, x = grid(32)
    psi = torch.sin(2 * x) * torch.cos(3 * y)
    u, v = solver.velocity(solver.transform(13 * psi))
    torch.testing.assert_close(u, -3 * torch.sin(2 * x) * torch.sin(3 * y), rtol=0, atol=1e-12)
    torch.testing.assert_close(v, -2 * torch.cos(2 * x) * torch.cos(3 * y), rtol=0, atol=1e-12)


def test_tendency_is_advection_by_the_velocity():
    # two single modes: u . grad w is a product of sines, written out by hand
    solver = NavierStokes(FREE, 48, torch.float64)
    y, x = grid(48)
    w = torch.cos(2 * x) + torch.cos(3 * y)
    # psi = cos(2x)/4 + cos(3y)/9, u = -sin(3y)/3, v = sin(2x)/2
    expected = -(-torch.sin(3 * y) / 3 * -2 * torch.sin(2 * x) + torch.sin(2 * x) / 2 * -3 * torch.sin(3 * y))
    tendency, speed = solver.tendency(solver.transform(w))
    torch.testing.assert_close(solver.field(tendency), expected, rtol=0, atol=1e-12)
    assert float(speed) == pytest.approx(1 / 3 + 1 / 2, abs=0.01)


def test_laminar_flow_is_the_forcing_over_the_viscosity():
    # w = -(Re A/m^2) cos(my) balances the forcing exactly; a tiny Reynolds number makes it stable
    flow = Flow(reynolds=2.0, amplitude=4.0, wavenumber=4)
    solver = NavierStokes(flow, 32, torch.float64)
    y, _ = grid(32)
    found = solver.field(solver.advance(solver.transform(torch.zeros(32, 32, dtype=torch.float64)), 3.0))
    torch.testing.assert_close(found, -2 * 4 / 16 * torch.cos(4 * y), rtol=0, atol=1e-9)


def test_steps_converge_with_order_two():
    solver = NavierStokes(Flow(), 32, torch.float64)
    state = solver.advance(start(solver), 1.0)
    exact = solver.advance(state, 0.32, dt=0.00125)
    errors = [float((solver.advance(state, 0.32, dt=d) - exact).abs().max()) for d in (0.02, 0.01, 0.005)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(1.85 < order < 2.3 for order in orders), orders


def test_energy_and_enstrophy_change_by_forcing_and_dissipation_alone():
    # d/dt <|u|^2>/2 = <psi f> - <w^2>/Re,   d/dt <w^2>/2 = <w f> - <|grad w|^2>/Re, advection cancels
    solver = NavierStokes(Flow(), 48, torch.float64)
    state = solver.advance(start(solver), 2.0)
    y, _ = grid(48)
    f = -4 * torch.cos(4 * y)
    k = torch.fft.fftfreq(48, 1 / 48, dtype=torch.float64)
    square = k[:, None] ** 2 + k[None, :25] ** 2

    def budget(coefficients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        w = solver.field(coefficients)[0]
        psi = solver.field(coefficients / square.clamp_min(1))[0]
        u, v = solver.velocity(coefficients)
        slope = solver.field(coefficients * square)[0]
        content = torch.stack([(u**2 + v**2).mean() / 2, (w**2).mean() / 2])
        rate = torch.stack([(psi * f).mean() - (w**2).mean() / 200, (w * f).mean() - (w * slope).mean() / 200])
        return content, rate

    dt = 1e-3
    (before, _), (_, rate), (after, _) = (
        budget(s) for s in (state, solver.advance(state, dt, dt=dt), solver.advance(state, 2 * dt, dt=dt))
    )
    torch.testing.assert_close((after - before) / (2 * dt), rate, rtol=1e-4, atol=1e-5)


def test_products_do_not_alias_into_kept_modes():
    # the tendency of a field with all kept modes full is the same on a grid twice as fine, where nothing can fold
    coarse, fine = NavierStokes(FREE, 24, torch.float64), NavierStokes(FREE, 48, torch.float64)
    w = torch.randn(24, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    state = coarse.transform(w)
    on_fine = fine.transform(resample(state, 24, 48))
    here = coarse.tendency(state)[0]
    there = resample(fine.tendency(on_fine)[0], 48, 24)
    torch.testing.assert_close(here, coarse.transform(there), rtol=0, atol=1e-12 * float(here.abs().max()))


@pytest.mark.parametrize("n", [48, 96, 192])
@pytest.mark.parametrize("reynolds", [50.0, 200.0])
@pytest.mark.parametrize("speed", [2.0, 10.0])
def test_chosen_step_amplifies_no_wave(n, reynolds, speed):
    # one wave in a uniform stream: N = i k U; the step is written out; a Courant number of 0.5 amplifies it
    solver = NavierStokes(Flow(reynolds), n)

    def growth(k: np.ndarray, dt: float) -> np.ndarray:
        advect, damp = 1j * k * speed * dt, k**2 * dt / (2 * reynolds)
        predicted = (1 - damp + advect) / (1 + damp)
        return np.abs((1 - damp + advect * (1 + predicted) / 2) / (1 + damp))

    k = np.arange(1, n // 3)
    assert growth(k, solver.stable_dt(speed)).max() <= 1
    if (reynolds, speed) == (200.0, 10.0):
        assert growth(k, 0.5 * LENGTH / n / speed).max() > 1.01


def test_chosen_steps_follow_the_exact_solution():
    solver = NavierStokes(Flow(), 48, torch.float64)
    state = solver.advance(start(solver, rms=4.0), 1.0)
    exact = solver.field(solver.advance(state, 1.0, dt=0.0005))
    error = solver.field(solver.advance(state, 1.0)) - exact
    assert float(error.norm() / exact.norm()) < 0.01


def test_solution_does_not_depend_on_the_grid_that_resolves_it():
    coarse, fine = NavierStokes(Flow(reynolds=20.0), 48, torch.float64), NavierStokes(Flow(20.0), 72, torch.float64)
    state = start(coarse, rms=1.5)
    lifted = fine.transform(resample(state, 48, 72))
    a = coarse.field(coarse.advance(state, 1.0, dt=0.005))
    b = resample(fine.advance(lifted, 1.0, dt=0.005), 72, 48)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-3 * float(a.abs().max()))


def test_single_precision_follows_double():
    states = []
    for dtype in (torch.float32, torch.float64):
        solver = NavierStokes(Flow(), 48, dtype)
        states.append(solver.field(solver.advance(start(solver), 1.0, dt=0.005)).double())
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=1e-4 * float(states[1].abs().max()))


def test_batch_members_do_not_mix_and_gradients_flow():
    solver = NavierStokes(Flow(), 24, torch.float64)
    both = start(solver, count=2)
    alone = solver.advance(both[1:], 0.05, dt=0.01)
    torch.testing.assert_close(solver.advance(both, 0.05, dt=0.01)[1:], alone, rtol=1e-12, atol=1e-9)
    w = solver.field(both).requires_grad_()
    solver.field(solver.advance(solver.transform(w), 0.02, dt=0.01))[0].square().sum().backward()
    assert w.grad is not None and float(w.grad[0].abs().max()) > 0 and float(w.grad[1].abs().max()) == 0


def test_random_start_has_its_amplitude_and_spectrum():
    fields = gaussian_field(400, 32, torch.Generator().manual_seed(3), rms=4.0)
    assert float(fields.square().mean().sqrt()) == pytest.approx(4.0, rel=0.03)
    assert float(fields.mean((-2, -1)).abs().max()) < 1e-12
    power = torch.fft.fft2(fields).abs().square().mean(0)
    # k = (0, 1) against (0, 4): ((16 + 9)/(1 + 9))^4
    assert float(power[0, 1] / power[0, 4]) == pytest.approx(2.5**4, rel=0.25)


def test_resampling_keeps_waves():
    y, x = grid(24)
    fine_y, fine_x = grid(36)
    wave = torch.cos(3 * x - 5 * y) + torch.sin(7 * y)
    found = resample(torch.fft.rfft2(wave), 24, 36)
    torch.testing.assert_close(found, torch.cos(3 * fine_x - 5 * fine_y) + torch.sin(7 * fine_y), rtol=0, atol=1e-12)
    torch.testing.assert_close(resample(torch.fft.rfft2(found), 36, 24), wave, rtol=0, atol=1e-12)


def test_divergence_and_wrong_grids_end_with_one_line():
    solver = NavierStokes(Flow(), 24)
    with pytest.raises(NumericalError, match="finite"):
        solver.advance(start(solver, rms=1e4), 10.0, dt=1.0)
    with pytest.raises(ConfigError, match="12"):
        NavierStokes(Flow(), 12)
    with pytest.raises(ConfigError, match="reynolds"):
        Flow(reynolds=-1.0)
    assert np.isfinite(solver.stable_dt(0.0))
