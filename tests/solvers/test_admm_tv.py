"""ADMM for total variation across slices: differences, one sweep, and the minimum that sweeps converge to."""

from __future__ import annotations

import math

import pytest
import torch

from recon.kernels.fused import soft_threshold
from recon.solvers.admm_tv import Duals, SliceDifference, admm_sweep


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("boundary", ["circular", "neumann"])
@pytest.mark.parametrize("slices", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_differences_and_their_adjoint(boundary, slices, dtype):
    difference = SliceDifference(boundary)
    x = torch.randn(2, 1, slices, 3, 4, generator=generator(0), dtype=dtype)
    q = torch.randn(2, 1, slices, 3, 4, generator=generator(1), dtype=dtype)
    before = x.clone()
    found = difference.forward(x)
    for z in range(slices):
        wraps = z == slices - 1
        there = x[:, :, (z + 1) % slices] - x[:, :, z]
        assert torch.equal(found[:, :, z], torch.zeros_like(there) if wraps and boundary == "neumann" else there)
    assert math.isclose(float((found.conj() * q).sum().real), float((x.conj() * difference.adjoint(q)).sum().real))
    assert torch.equal(x, before)


def test_an_image_has_no_neighbours():
    x = torch.randn(2, 1, 3, 4)
    difference = SliceDifference("circular")
    assert not difference.forward(x).any() and not difference.adjoint(x).any()
    moved, duals = admm_sweep(x, Duals.zero(x), lambda v: 2 * v, torch.ones_like(x), difference, 10.0, 0.1, 3)
    assert torch.allclose(moved, x + 0.5) and not duals.split.any()


def test_soft_threshold():
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0])
    assert soft_threshold(x, 1.0).tolist() == [-1, 0, 0, 0, 1]
    z = torch.tensor([3 + 4j, 0.3 + 0.4j, 0])
    assert torch.allclose(soft_threshold(z, 1.0), torch.tensor([2.4 + 3.2j, 0, 0]))


def converge(data, b, x, difference, rho, weight, sweeps, iterations=30, scale=1.0):
    duals = Duals.zero(x)
    for _ in range(sweeps):
        x, duals = admm_sweep(x, duals, data, b - data(x), difference, rho, weight / rho, iterations, scale)
    return x


@pytest.mark.parametrize("weight", [0.3, 5.0])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_two_slices_have_a_closed_form(weight, scale):
    b = torch.tensor([[-1.0, 3.0, 0.2], [1.0, -2.0, 0.3]], dtype=torch.float64).reshape(1, 1, 2, 1, 3)
    difference = SliceDifference("neumann")
    found = converge(lambda v: v, b, torch.zeros_like(b), difference, 1.0, weight, 400, scale=scale)
    mean, half = b.mean(2, keepdim=True), (b - b.mean(2, keepdim=True))
    # each of the two moves by the weight towards the other, as far as their mean
    assert torch.allclose(found, mean + soft_threshold(half, scale * weight), atol=1e-8)


@pytest.mark.parametrize("boundary", ["circular", "neumann"])
@pytest.mark.parametrize("rho", [0.5, 4.0])
def test_sweeps_converge_to_the_minimum_that_a_primal_dual_method_finds(boundary, rho):
    shape, weight = (1, 1, 4, 2, 3), 0.4
    matrix = torch.randn(30, 24, generator=generator(2), dtype=torch.float64) / 5
    normal = matrix.T @ matrix
    b = (matrix.T @ torch.randn(30, generator=generator(3), dtype=torch.float64)).reshape(shape)
    difference = SliceDifference(boundary)

    def data(v):
        return (normal @ v.flatten()).reshape(shape)

    found = converge(data, b, torch.zeros(shape, dtype=torch.float64), difference, rho, weight, 600)

    # Chambolle and Pock: x = prox of the quadratic part, q in [-weight, weight]
    x, q, step = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64), 0.45
    solve = torch.linalg.inv(torch.eye(24, dtype=torch.float64) + step * normal)
    for _ in range(8000):
        target = x - step * difference.adjoint(q) + step * b
        new = (solve @ target.flatten()).reshape(shape)
        q = (q + step * difference.forward(2 * new - x)).clamp(-weight, weight)
        x = new
    assert torch.allclose(found, x, atol=1e-6)
    apart = torch.linalg.solve(normal, b.flatten()).reshape(shape)
    assert float((found - apart).norm() / apart.norm()) > 0.05, "total variation changes the answer"


def test_no_argument_is_changed_and_rho_zero_couples_nothing():
    x = torch.randn(1, 1, 3, 2, 2, generator=generator(0))
    duals = Duals(torch.randn_like(x), torch.randn_like(x))
    misfit = torch.randn_like(x)
    kept = [t.clone() for t in (x, duals.split, duals.dual, misfit)]
    difference = SliceDifference()
    admm_sweep(x, duals, lambda v: 3 * v, misfit, difference, 2.0, 0.1, 3)
    assert all(torch.equal(a, b) for a, b in zip((x, duals.split, duals.dual, misfit), kept, strict=True))
    found, same = admm_sweep(x, duals, lambda v: 3 * v, misfit, difference, 0.0, 0.1, 3)
    assert torch.allclose(found, x + misfit / 3) and same is duals
