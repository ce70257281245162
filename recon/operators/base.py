"""The operator contracts and their algebra.

    Operator        y = A(x), batched: (B, *in_shape) -> (B, *out_shape)
    LinearOperator  adds the adjoint A^H y, the normal A^H A x, the singular values, pseudo-inverse and proximal map
                    where they are cheap, and the algebra A @ B, a * A, A + B, stack, A.H

Operators are immutable: no call changes state or remembers an argument. The adjoint of a real-input operator takes the
real part, so that <A x, y> = <x, A^H y> holds in the real inner product Re<., .>.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.operators.spectral import Spectrum, after, before, rescaled

Shape = tuple[int, ...]


class Operator(ABC):
    """A forward model. Subclasses write `_forward` and set the declared fields in their constructor.

    in_shape: (C, [Z,] Y, X).  out_shape: without the batch axis.  in_dtype, out_dtype: torch dtypes.
    differentiable: whether autograd goes through `forward` (False: a black box).
    support: tensor broadcastable to out_shape, 1 where something is measured; None if everything is.
    value_range: image values of black and white that a non-linear model is made for; None where units do not matter.
    """

    in_shape: Shape
    out_shape: Shape
    in_dtype: torch.dtype = torch.float32
    out_dtype: torch.dtype = torch.float32
    differentiable: bool = True
    support: Tensor | None = None
    value_range: tuple[float, float] | None = None

    @final
    def forward(self, x: Tensor) -> Tensor:
        """Return A(x): (B, *in_shape) -> (B, *out_shape). Raises ConfigError on another shape."""
        _check(type(self).__name__, "input", x, self.in_shape)
        return self._forward(x)

    @abstractmethod
    def _forward(self, x: Tensor) -> Tensor: ...

    def measured(self) -> int:
        """Return the number of real numbers that are measured (a complex sample counts twice)."""
        total = 1
        for n in self.out_shape:
            total *= n
        if self.support is not None:
            total = int(self.support.broadcast_to(self.out_shape).count_nonzero())
        return total * (2 if self.out_dtype.is_complex else 1)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Operator:
        """Return a copy on another device and/or with another real dtype (float32 or float64)."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                moved.__dict__[name] = value.to(device=device, dtype=_match(value.dtype, dtype))
            elif isinstance(value, Operator):
                moved.__dict__[name] = value.to(device, dtype)
            elif isinstance(value, tuple) and value and all(isinstance(v, Operator) for v in value):
                moved.__dict__[name] = tuple(v.to(device, dtype) for v in value)
        if dtype is not None:
            moved.in_dtype, moved.out_dtype = _match(self.in_dtype, dtype), _match(self.out_dtype, dtype)
        return moved

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_shape} -> {self.out_shape})"


class LinearOperator(Operator):
    """A linear forward model. Subclasses write `_forward` and `_adjoint`."""

    @final
    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^H y: (B, *out_shape) -> (B, *in_shape); its real part where the input is real."""
        _check(type(self).__name__, "measurement", y, self.out_shape)
        return self._adjoint(y)

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor: ...

    def normal(self, x: Tensor) -> Tensor:
        """Return A^H A x."""
        return self.adjoint(self.forward(x))

    def svd(self) -> Spectrum | None:
        """Return the singular value decomposition, or None where it is not cheap.

        Operators that factorise their matrices for it keep at most the last answer, so loops ask once.
        """
        return None

    def has_svd(self) -> bool:
        """Return whether `svd` gives one; operators that factorise for it say so without that work."""
        return self.svd() is not None

    def pinv(self, y: Tensor) -> Tensor | None:
        """Return a cheap (regularised or exact) pseudo-inverse applied to y, or None; by default from `svd`."""
        spectrum = self.svd()
        return None if spectrum is None else spectrum.pinv(y)

    def has_pinv(self) -> bool:
        """Return whether `pinv` gives one, without computing it; operators whose own may be None say when."""
        return type(self).pinv is not LinearOperator.pinv or self.has_svd()

    def prox(self, z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor | None:
        """Return argmin_x ||A x - y||^2 + rho ||x - z||^2 in closed form, or None; by default from `svd`.

        `recon.solvers.prox` has one for every linear operator.
        """
        spectrum = self.svd()
        return None if spectrum is None else spectrum.prox(z, rho, y)

    @property
    def H(self) -> LinearOperator:
        """The adjoint as an operator."""
        return AdjointOperator(self)

    def __matmul__(self, other: LinearOperator) -> LinearOperator:
        return Composed(self, other)

    def __mul__(self, scale: float) -> LinearOperator:
        return Scaled(self, float(scale))

    __rmul__ = __mul__

    def __add__(self, other: LinearOperator) -> LinearOperator:
        return Sum(self, other)


@final
class AdjointOperator(LinearOperator):
    """A^H as an operator of its own."""

    def __init__(self, base: LinearOperator) -> None:
        self.base = base
        self.in_shape, self.out_shape = base.out_shape, base.in_shape
        self.in_dtype, self.out_dtype = base.out_dtype, base.in_dtype
        self.differentiable = base.differentiable

    def _forward(self, x: Tensor) -> Tensor:
        return self.base.adjoint(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.base.forward(y)

    @property
    def H(self) -> LinearOperator:
        return self.base


@final
class Composed(LinearOperator):
    """(A B) x = A(B x)."""

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        if (outer.in_shape, outer.in_dtype) != (inner.out_shape, inner.out_dtype):
            raise ConfigError(
                f"cannot compose: {outer!r} of {outer.in_dtype} after {inner!r} that gives {inner.out_dtype}"
            )
        self.outer, self.inner = outer, inner
        self.in_shape, self.out_shape = inner.in_shape, outer.out_shape
        self.in_dtype, self.out_dtype = inner.in_dtype, outer.out_dtype
        self.differentiable = outer.differentiable and inner.differentiable
        self.support = outer.support

    def _forward(self, x: Tensor) -> Tensor:
        return self.outer.forward(self.inner.forward(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))

    def normal(self, x: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.normal(self.inner.forward(x)))

    def svd(self) -> Spectrum | None:
        """Return the spectrum where one of the two is a multiple of a unitary operator."""
        outer, inner = self.outer.svd(), self.inner.svd()
        if outer is None or inner is None:
            return None
        found = before(inner, outer) if _is_square(self.inner) else None
        return after(outer, inner) if found is None and _is_square(self.outer) else found


@final
class Scaled(LinearOperator):
    """(s A) x for a real number s other than 0."""

    def __init__(self, base: LinearOperator, scale: float) -> None:
        if not 0 < abs(scale) < float("inf"):
            raise ConfigError(f"cannot scale {base!r} by {scale}", "give a finite number other than 0")
        self.base, self.scale = base, scale
        self.in_shape, self.out_shape = base.in_shape, base.out_shape
        self.in_dtype, self.out_dtype = base.in_dtype, base.out_dtype
        self.differentiable, self.support = base.differentiable, base.support

    def _forward(self, x: Tensor) -> Tensor:
        return self.scale * self.base.forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.scale * self.base.adjoint(y)

    def normal(self, x: Tensor) -> Tensor:
        return self.scale**2 * self.base.normal(x)

    def svd(self) -> Spectrum | None:
        spectrum = self.base.svd()
        return None if spectrum is None else rescaled(spectrum, self.scale)

    def has_svd(self) -> bool:
        return self.base.has_svd()

    def pinv(self, y: Tensor) -> Tensor | None:
        return self.base.pinv(y / self.scale)

    def has_pinv(self) -> bool:
        return self.base.has_pinv()

    def prox(self, z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor | None:
        return self.base.prox(z, rho / self.scale**2, y / self.scale)


@final
class Sum(LinearOperator):
    """(A + B) x; its support is the union of both."""

    def __init__(self, first: LinearOperator, second: LinearOperator) -> None:
        kinds = [(p.in_shape, p.out_shape, p.in_dtype, p.out_dtype) for p in (first, second)]
        if kinds[0] != kinds[1]:
            raise ConfigError(f"cannot add operators of different shapes or types: {first!r} and {second!r}")
        self.first, self.second = first, second
        self.in_shape, self.out_shape = first.in_shape, first.out_shape
        self.in_dtype, self.out_dtype = first.in_dtype, first.out_dtype
        self.differentiable = first.differentiable and second.differentiable
        if first.support is not None and second.support is not None:
            self.support = torch.maximum(first.support, second.support)

    def _forward(self, x: Tensor) -> Tensor:
        return self.first.forward(x) + self.second.forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.first.adjoint(y) + self.second.adjoint(y)


@final
class Stacked(LinearOperator):
    """[A; B; ...] x: outputs flattened and joined, (B, sum of sizes)."""

    def __init__(self, parts: Sequence[LinearOperator]) -> None:
        shapes = {p.in_shape for p in parts}
        if len(shapes) != 1 or len({(p.in_dtype, p.out_dtype) for p in parts}) != 1:
            raise ConfigError(f"cannot stack operators of input shapes {sorted(shapes)}, or of mixed types")
        self.parts = tuple(parts)
        self.in_shape, self.in_dtype, self.out_dtype = parts[0].in_shape, parts[0].in_dtype, parts[0].out_dtype
        self.sizes = tuple(int(torch.Size(p.out_shape).numel()) for p in parts)
        self.out_shape = (sum(self.sizes),)
        self.differentiable = all(p.differentiable for p in parts)
        known = next((p.support for p in parts if p.support is not None), None)
        if known is not None:
            full = known.new_ones(())
            whole = [(full if p.support is None else p.support).broadcast_to(p.out_shape) for p in parts]
            self.support = torch.cat([s.flatten() for s in whole])

    def _forward(self, x: Tensor) -> Tensor:
        return torch.cat([p.forward(x).flatten(1) for p in self.parts], dim=1)

    def _adjoint(self, y: Tensor) -> Tensor:
        pieces = y.split(self.sizes, dim=1)
        images = [p.adjoint(v.reshape(-1, *p.out_shape)) for p, v in zip(self.parts, pieces, strict=True)]
        return torch.stack(images).sum(0)

    def normal(self, x: Tensor) -> Tensor:
        return torch.stack([p.normal(x) for p in self.parts]).sum(0)


def stack(*parts: LinearOperator) -> LinearOperator:
    """Return the operator [A; B; ...] with flattened, joined outputs."""
    return Stacked(parts)


def _is_square(operator: Operator) -> bool:
    """Return whether images and measurements have as many real numbers."""
    sizes = [
        torch.Size(shape).numel() * (2 if dtype.is_complex else 1)
        for shape, dtype in ((operator.in_shape, operator.in_dtype), (operator.out_shape, operator.out_dtype))
    ]
    return sizes[0] == sizes[1]


def _check(name: str, what: str, value: Tensor, shape: Shape) -> None:
    if tuple(value.shape[1:]) != tuple(shape):
        expected = ", ".join(["B", *map(str, shape)])
        raise ConfigError(f"{name} expects a {what} of shape ({expected}), got {tuple(value.shape)}")


def _match(kind: torch.dtype, real: torch.dtype | None) -> torch.dtype:
    """Return `real`, or its complex partner if `kind` is complex; integer and boolean kinds stay."""
    if real is None or not (kind.is_floating_point or kind.is_complex):
        return kind
    if kind.is_complex:
        return torch.complex128 if real == torch.float64 else torch.complex64
    return real
