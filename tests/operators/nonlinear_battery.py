"""The battery that every non-linear operator goes through: `from nonlinear_battery import check_nonlinear`."""

from __future__ import annotations

import pytest
import torch
from battery import norm
from torch import Tensor

from recon.errors import ConfigError
from recon.operators.base import LinearOperator, Operator


def check_nonlinear(op: Operator, low: float, high: float, device: str = "cpu") -> None:
    """Assert the contract of a non-linear operator on images with values in [low, high], in float32 and float64.

    Shapes, types, batch, purity, refusal of other shapes, agreement of the precisions and of devices, and in float64
    that autograd gives the slope that central differences see.
    """
    assert not isinstance(op, LinearOperator)
    for real in (torch.float32, torch.float64):
        each = op.to(device, real)
        x = images(op, 3, low, high).to(device, real)
        y = each.forward(x)
        assert (each.in_dtype, each.out_dtype) == (real, real)
        assert tuple(y.shape) == (3, *op.out_shape) and y.dtype == real and y.device.type == torch.device(device).type
        assert bool(torch.isfinite(y).all())
        parts = torch.cat([each.forward(item) for item in x.split(1)])
        tol = 1e-6 if real == torch.float32 else 1e-14
        assert norm(parts - y) <= tol * norm(y), "a batch differs from its items"
        kept = x.clone()
        first = each.forward(x)
        assert torch.equal(first, y), "the same call gives other bits"
        first.zero_()
        assert torch.equal(x, kept) and torch.equal(each.forward(x), y), "the result shares memory with the argument"
        for wrong in ((1, *op.in_shape[:-1], op.in_shape[-1] + 1), tuple(op.in_shape)):
            with pytest.raises(ConfigError, match="expects a"):
                each.forward(torch.zeros(wrong, dtype=real, device=device))
    exact, x = op.to("cpu", torch.float64), images(op, 2, low, high)
    coarse = op.to(device, torch.float32).forward(x.to(device, torch.float32)).cpu().double()
    assert norm(coarse - exact.forward(x)) <= 1e-5 * norm(coarse), "precisions or devices disagree"
    check_slope(exact, x)


def check_slope(op: Operator, x: Tensor, step: float = 1e-6) -> None:
    """Assert Re<v, A'(x) u> of autograd and of (A(x + h u) - A(x - h u))/(2 h), float64."""
    g = torch.Generator().manual_seed(4)
    u = torch.randn(x.shape, generator=g, dtype=x.dtype)
    v = torch.randn(x.shape[0], *op.out_shape, generator=g, dtype=x.dtype)
    leaf = x.clone().requires_grad_()
    (pulled,) = torch.autograd.grad(op.forward(leaf), leaf, v)
    scale = step * float(x.abs().max())
    seen = (op.forward(x + scale * u) - op.forward(x - scale * u)) / (2 * scale)
    assert norm(pulled) > 0
    assert abs(float((v * seen).sum() - (pulled * u).sum())) <= 1e-6 * norm(v) * norm(seen)


def images(op: Operator, batch: int, low: float, high: float) -> Tensor:
    """Return images uniform in [low, high], (batch, *in_shape), float64."""
    g = torch.Generator().manual_seed(3)
    return low + (high - low) * torch.rand(batch, *op.in_shape, generator=g, dtype=torch.float64)
