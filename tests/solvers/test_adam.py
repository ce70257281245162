"""Adam's update against torch's own, and on a quadratic."""

import pytest
import torch

from recon.solvers.adam import Adam


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.float32])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9), (0.0, 0.99)])
def test_steps_are_those_of_torch(dtype, betas):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, dtype=dtype, generator=g)
    theirs = x.clone().requires_grad_()
    optimiser = torch.optim.Adam([theirs], lr=0.07, betas=betas)
    ours = Adam(0.07, betas)
    for _ in range(30):
        gradient = torch.randn(2, 3, dtype=dtype, generator=g)
        theirs.grad = gradient.clone()
        kept = gradient.clone()
        optimiser.step()
        ours.step(x, gradient)
        torch.testing.assert_close(x, theirs.detach(), rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-6)
        assert torch.equal(gradient, kept)


def test_decay_is_that_of_torch():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(5, dtype=torch.float64, generator=g)
    theirs = x.clone().requires_grad_()
    optimiser, ours = torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.3), Adam(0.1, decay=0.3)
    for _ in range(10):
        gradient = torch.randn(5, dtype=torch.float64, generator=g)
        theirs.grad = gradient.clone()
        optimiser.step()
        ours.step(x, gradient)
    torch.testing.assert_close(x, theirs.detach(), rtol=1e-12, atol=1e-12)


def test_a_quadratic_is_minimised():
    target = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    x, adam = torch.zeros(3, dtype=torch.float64), Adam(0.05)
    for _ in range(2000):
        adam.step(x, 2 * (x - target) * torch.tensor([1.0, 30.0, 0.1]))
    assert float((x - target).abs().max()) < 1e-4
