"""Langevin chains against their closed-form stationary laws."""

import pytest
import torch
from chain_doubles import double_well, gaussian, normal, well_moments

from recon.solvers.langevin import adjusted_langevin, langevin

COUNT = 20000


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_unadjusted_chain_has_its_biased_variance(dtype):
    v, h = 0.3, 0.15
    x = torch.zeros(COUNT, 2, dtype=dtype)
    found = langevin(lambda u: -u / v, x, h, 40, normal(0))
    parts = torch.view_as_real(found) if dtype.is_complex else found
    expected = v / (1 - h / (2 * v))
    assert abs(float(parts.var()) / expected - 1) < 5 * (2 / parts.numel()) ** 0.5
    assert expected > 1.3 * v
    assert torch.equal(x, torch.zeros_like(x))


def test_steps_are_the_published_ones():
    x = torch.randn(3, 4, dtype=torch.float64)
    found = langevin(lambda u: -u, x, 0.1, 3, normal(1))
    noise = normal(1)
    for _ in range(3):
        x = x + 0.1 * (-x) + (2 * 0.1) ** 0.5 * noise(x.shape, x.dtype)
    assert torch.allclose(found, x, rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_adjusted_chain_has_the_exact_variance_at_a_coarse_step(dtype):
    v, h = 0.3, 0.25
    chain = adjusted_langevin(gaussian(v), torch.zeros(COUNT, 2, dtype=dtype), h, 60, normal(0))
    parts = torch.view_as_real(chain.x) if dtype.is_complex else chain.x
    assert abs(float(parts.var()) / v - 1) < 5 * (2 / parts.numel()) ** 0.5
    assert 0.3 < float(chain.accepted.mean()) < 0.95
    biased = langevin(lambda u: -u / v, torch.zeros(COUNT, 2, dtype=dtype), h, 60, normal(0))
    assert float(biased.abs().square().mean()) > 1.5 * float(chain.x.abs().square().mean())


def test_adjusted_chain_samples_a_double_well():
    start = torch.ones(COUNT, 1, dtype=torch.float64)
    start[::2] = -1
    x = adjusted_langevin(double_well, start, 0.05, 150, normal(2)).x
    second, fourth = well_moments()
    assert abs(float((x**2).mean()) - second) < 5 * ((fourth - second**2) / COUNT) ** 0.5
    assert abs(float((x**4).mean()) / fourth - 1) < 0.05


def test_items_accept_by_themselves():
    def target(x):
        density, score = gaussian(1.0)(x)
        density = torch.where(x.flatten(1).abs().amax(1) > 2.9, float("nan"), density)
        return density, score

    x = torch.tensor([[0.1], [2.89]], dtype=torch.float64)
    together = adjusted_langevin(target, x, 0.5, 20, lambda s, d: normal(3)(s, d) * 0 + 0.5)
    alone = adjusted_langevin(target, x[:1], 0.5, 20, lambda s, d: normal(3)(s, d) * 0 + 0.5)
    assert torch.equal(together.x[:1], alone.x)
    assert bool(torch.isfinite(together.x).all())
