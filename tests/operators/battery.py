"""The battery that every linear operator goes through: `from battery import check_operator`.

Inner products are Re<., .> accumulated in float64. Each check runs in float32 and, through `op.to`, in float64.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.operators.base import LinearOperator, Operator

RHOS = (1e-2, 1.0, 1e2)
TINY = 1e-300


def check_operator(
    op: LinearOperator, *, tol32: float = 1e-6, tol64: float = 1e-12, device: str = "cpu", seed: int = 0
) -> None:
    """Assert that `op` keeps the contract of a linear operator in float32 and in float64.

    tol32, tol64: bounds on |<A x, y> - <x, A^H y>| / (||A x|| ||y||).  All other identities (linearity, batch,
    autograd, normal) hold to ten times that, relative to the norm of what is compared.  seed: of the test vectors.
    """
    single = op.to(device, torch.float32)
    double = op.to(device, torch.float64)
    assert isinstance(single, LinearOperator) and isinstance(double, LinearOperator)
    for each, real, tol in ((single, torch.float32, tol32), (double, torch.float64, tol64)):
        generator = torch.Generator().manual_seed(seed)
        before = _tensors(each)
        _check_declarations(each, real, device, generator)
        _check_adjoint(each, tol, device, generator)
        _check_linear(each, 10 * tol, device, generator)
        _check_batch(each, 10 * tol, device, generator)
        _check_normal(each, 10 * tol, device, generator)
        _check_autograd(each, 10 * tol, device, generator)
        _check_support(each, device, generator)
        _check_prox(each, 1e-4 if real == torch.float32 else 1e-9, device, generator)
        _check_pinv(each, device, generator)
        _check_wrong_shapes(each, device)
        _check_pure(each, device, generator)
        _assert_same(before, _tensors(each), f"{op!r} was changed by its calls")
    _check_precisions_agree(single, double, device, seed)


def inner(a: Tensor, b: Tensor) -> float:
    """Return Re<a, b>, accumulated in float64."""
    a, b = _flat64(a), _flat64(b)
    return float(torch.dot(a, b))


def norm(a: Tensor) -> float:
    """Return the Euclidean norm of the whole tensor, accumulated in float64."""
    return float(torch.linalg.vector_norm(_flat64(a)))


def random_input(op: Operator, batch: int, device: str, generator: torch.Generator) -> Tensor:
    """Return standard normal x (batch, *in_shape) of the operator's input type."""
    return _normal((batch, *op.in_shape), op.in_dtype, device, generator)


def random_output(op: Operator, batch: int, device: str, generator: torch.Generator) -> Tensor:
    """Return standard normal y (batch, *out_shape) of the operator's output type."""
    return _normal((batch, *op.out_shape), op.out_dtype, device, generator)


def _check_declarations(op: LinearOperator, real: torch.dtype, device: str, generator: torch.Generator) -> None:
    x, y = random_input(op, 2, device, generator), random_output(op, 2, device, generator)
    ax, ahy = op.forward(x), op.adjoint(y)
    assert ax.shape == y.shape, f"{op!r}: forward gives {tuple(ax.shape)}"
    assert ahy.shape == x.shape, f"{op!r}: adjoint gives {tuple(ahy.shape)}"
    assert op.in_dtype.to_real() == real and op.out_dtype.to_real() == real, f"{op!r}: declares {op.in_dtype}"
    assert ax.dtype == op.out_dtype, f"{op!r}: forward gives {ax.dtype}, declares {op.out_dtype}"
    assert ahy.dtype == op.in_dtype, f"{op!r}: adjoint gives {ahy.dtype}, declares {op.in_dtype}"
    assert ax.device.type == torch.device(device).type and ahy.device == ax.device
    assert bool(torch.isfinite(ax).all()) and bool(torch.isfinite(ahy).all())


def _check_adjoint(op: LinearOperator, tol: float, device: str, generator: torch.Generator) -> None:
    x = random_input(op, 2, device, generator)
    ax = op.forward(x)
    assert norm(ax) > 0, f"{op!r}: A x = 0 for a random x"
    for name, y in (("A x", ax), ("random", random_output(op, 2, device, generator))):
        error = abs(inner(ax, y) - inner(x, op.adjoint(y))) / (norm(ax) * norm(y))
        assert error <= tol, f"{op!r}: adjoint mismatch {error:.2e} > {tol:.0e} with y = {name}, {op.out_dtype}"


def _check_linear(op: LinearOperator, tol: float, device: str, generator: torch.Generator) -> None:
    for name, call, draw in (("forward", op.forward, random_input), ("adjoint", op.adjoint, random_output)):
        u, v = draw(op, 1, device, generator), draw(op, 1, device, generator)
        _assert_close(call(0.7 * u - 1.9 * v), 0.7 * call(u) - 1.9 * call(v), tol, f"{op!r}: {name} is not linear")


def _check_batch(op: LinearOperator, tol: float, device: str, generator: torch.Generator) -> None:
    for name, call, draw in (("forward", op.forward, random_input), ("adjoint", op.adjoint, random_output)):
        batch = draw(op, 3, device, generator)
        each = torch.cat([call(item) for item in batch.split(1)])
        _assert_close(call(batch), each, tol, f"{op!r}: {name} of a batch differs from its items")


def _check_normal(op: LinearOperator, tol: float, device: str, generator: torch.Generator) -> None:
    x = random_input(op, 2, device, generator)
    _assert_close(op.normal(x), op.adjoint(op.forward(x)), tol, f"{op!r}: normal is not adjoint(forward)")


def _check_autograd(op: LinearOperator, tol: float, device: str, generator: torch.Generator) -> None:
    if not op.differentiable:
        return
    x = random_input(op, 2, device, generator).requires_grad_()
    y = random_output(op, 2, device, generator)
    (gradient,) = torch.autograd.grad(op.forward(x), x, y)
    _assert_close(gradient, op.adjoint(y), tol, f"{op!r}: autograd is not the adjoint")


def _check_support(op: LinearOperator, device: str, generator: torch.Generator) -> None:
    if op.support is None:
        return
    support = op.support.broadcast_to(op.out_shape)
    assert bool(((support == 0) | (support == 1)).all()), f"{op!r}: support has values other than 0 and 1"
    outside = op.forward(random_input(op, 2, device, generator)) * (support == 0)
    assert not bool(outside.any()), f"{op!r}: forward is not zero outside the support"


def _check_prox(op: LinearOperator, tol: float, device: str, generator: torch.Generator) -> None:
    z, y = random_input(op, 2, device, generator), random_output(op, 1, device, generator)
    for rho in RHOS:
        x = op.prox(z, rho, y)
        if x is None:
            return
        assert x.shape == z.shape and x.dtype == z.dtype, f"{op!r}: prox gives {tuple(x.shape)}, {x.dtype}"
        ahy = op.adjoint(y)
        gradient = op.normal(x) - ahy + rho * (x - z)
        error = norm(gradient) / (norm(ahy.expand_as(z)) + rho * norm(z))
        assert error <= tol, f"{op!r}: prox with rho = {rho} misses its optimum by {error:.2e} > {tol:.0e}"
        again = op.prox(z, torch.tensor(rho, dtype=z.real.dtype, device=z.device), y)
        assert again is not None
        _assert_close(again, x, tol, f"{op!r}: prox differs for a float and a tensor rho")


def _check_pinv(op: LinearOperator, device: str, generator: torch.Generator) -> None:
    x = op.pinv(random_output(op, 2, device, generator))
    if x is not None:
        assert tuple(x.shape[1:]) == tuple(op.in_shape) and x.shape[0] == 2, f"{op!r}: pinv gives {tuple(x.shape)}"
        assert x.dtype == op.in_dtype, f"{op!r}: pinv gives {x.dtype}"
        assert bool(torch.isfinite(x).all()), f"{op!r}: pinv is not finite"


def _check_wrong_shapes(op: LinearOperator, device: str) -> None:
    for call, shape, dtype in (
        (op.forward, op.in_shape, op.in_dtype),
        (op.adjoint, op.out_shape, op.out_dtype),
    ):
        for wrong in ((1, *shape[:-1], shape[-1] + 1), (1, 1, *shape), tuple(shape)):
            with pytest.raises(ConfigError, match="expects a"):
                call(torch.zeros(wrong, dtype=dtype, device=device))


def _check_pure(op: LinearOperator, device: str, generator: torch.Generator) -> None:
    """The same call gives the same bits, leaves its argument alone, and returns memory of its own."""
    for name, call, draw in (("forward", op.forward, random_input), ("adjoint", op.adjoint, random_output)):
        argument = draw(op, 1, device, generator)
        kept = argument.clone()
        first = call(argument)
        result = first.clone()
        call(draw(op, 1, device, generator))
        assert torch.equal(argument, kept), f"{op!r}: {name} changes its argument"
        assert torch.equal(first, result), f"{op!r}: a later {name} changes an earlier result"
        first.zero_()
        assert torch.equal(argument, kept), f"{op!r}: the result of {name} shares memory with its argument"
        assert torch.equal(call(argument), result), f"{op!r}: {name} is not repeatable"


def _check_precisions_agree(single: LinearOperator, double: LinearOperator, device: str, seed: int) -> None:
    x = random_input(double, 1, device, torch.Generator().manual_seed(seed))
    coarse = single.forward(x.to(single.in_dtype)).to(double.out_dtype)
    _assert_close(coarse, double.forward(x), 1e-5, f"{single!r}: float32 and float64 disagree")


def _assert_close(a: Tensor, b: Tensor, tol: float, message: str) -> None:
    error = norm(a - b) / max(norm(b), TINY)
    assert error <= tol, f"{message}: {error:.2e} > {tol:.0e}, {b.dtype}"


def _assert_same(before: list[Tensor], after: list[Tensor], message: str) -> None:
    assert len(before) == len(after), message
    for a, b in zip(before, after, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b), message


def _tensors(op: Operator) -> list[Tensor]:
    """Return copies of all tensors that the operator holds, its parts' included; sparse ones as dense."""
    found: list[Tensor] = []
    for value in vars(op).values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, Tensor):
                found.append(part.detach().to_dense().clone() if part.layout != torch.strided else part.clone())
            elif isinstance(part, Operator):
                found.extend(_tensors(part))
    return found


def _flat64(a: Tensor) -> Tensor:
    a = a.detach()
    return (torch.view_as_real(a.resolve_conj()) if a.is_complex() else a).double().flatten()


def _normal(shape: tuple[int, ...], dtype: torch.dtype, device: str, generator: torch.Generator) -> Tensor:
    real = dtype.to_real()
    if dtype.is_complex:
        return torch.view_as_complex(torch.randn(*shape, 2, generator=generator, dtype=real)).to(device)
    return torch.randn(shape, generator=generator, dtype=real).to(device)
