"""Hamiltonian chains: the damped form's stationary law, the exact form's exactness and order."""

import pytest
import torch
from chain_doubles import double_well, gaussian, normal, well_moments

from recon.solvers.hmc import damped_hmc, hmc
from recon.solvers.langevin import langevin

COUNT = 20000


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_damped_chain_has_its_biased_variance(momentum):
    v, h = 0.3, 0.2
    x = damped_hmc(lambda u: -u / v, torch.zeros(COUNT, 2, dtype=torch.float64), h, momentum, 150, normal(0))
    expected = v / (1 - h / (2 * (1 + momentum) * v))
    assert abs(float(x.var()) / expected - 1) < 5 * (2 / x.numel()) ** 0.5
    assert expected > 1.1 * v


def test_damped_steps_are_the_published_ones_and_no_momentum_is_langevin():
    x = start = torch.randn(3, 4, dtype=torch.float64)
    found = damped_hmc(lambda u: -u, start, 0.1, 0.7, 3, normal(1))
    noise = normal(1)
    v = noise(x.shape, x.dtype)
    for _ in range(3):
        v = 0.7 * v + 0.1**0.5 * (-x) + (2 * 0.3) ** 0.5 * noise(x.shape, x.dtype)
        x = x + 0.1**0.5 * v
    assert torch.allclose(found, x, rtol=1e-13)

    noise = normal(1)
    noise(start.shape, start.dtype)
    assert torch.allclose(
        damped_hmc(lambda u: -u, start, 0.1, 0.0, 5, normal(1)), langevin(lambda u: -u, start, 0.1, 5, noise)
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_exact_chain_has_the_exact_variance_at_a_coarse_step(dtype):
    v = 0.3
    chain = hmc(gaussian(v), torch.zeros(COUNT, 2, dtype=dtype), 0.7, 3, 12, normal(0))
    parts = torch.view_as_real(chain.x) if dtype.is_complex else chain.x
    assert abs(float(parts.var()) / v - 1) < 5 * (2 / parts.numel()) ** 0.5
    assert 0.3 < float(chain.accepted.mean()) < 0.95


def test_exact_chain_samples_a_double_well():
    start = torch.ones(COUNT, 1, dtype=torch.float64)
    start[::2] = -1
    x = hmc(double_well, start, 0.2, 5, 25, normal(2)).x
    second, fourth = well_moments()
    assert abs(float((x**2).mean()) - second) < 5 * ((fourth - second**2) / COUNT) ** 0.5


def test_leapfrog_is_the_textbook_one():
    """With every trajectory accepted, x' is the leapfrog end; energy errors fall with the square of the step."""
    x = torch.full((1, 1), 0.4, dtype=torch.float64)
    start_v = normal(5)((1, 1), torch.float64)
    errors = []
    for leapfrog in (10, 20):
        e = 1.0 / leapfrog
        place, v = x.clone(), start_v.clone()
        for _ in range(leapfrog):
            v = v - e / 2 * place
            place = place + e * v
            v = v - e / 2 * place
        errors.append(abs(float((place**2 + v**2 - x**2 - start_v**2).sum())))
        assert torch.allclose(hmc(gaussian(1.0), x, e, leapfrog, 1, normal(5)).x, place, rtol=1e-12)
    assert errors[1] < 0.3 * errors[0]


def test_energy_that_is_not_finite_is_refused():
    def target(x):
        return torch.where(x.flatten(1).sum(1) > 0.5, float("nan"), 0.0).to(x.dtype), torch.zeros_like(x)

    chain = hmc(target, torch.full((500, 1), 0.4, dtype=torch.float64), 1.0, 1, 3, normal(0))
    assert bool((chain.x <= 0.5).all()) and float(chain.accepted.mean()) < 0.9
