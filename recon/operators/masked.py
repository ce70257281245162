"""Part of an operator's data: the rest is not measured."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from recon.errors import ConfigError, InputError
from recon.operators.base import LinearOperator


@final
class Masked(LinearOperator):
    """y = m A x with a mask m of zeros and ones, which is the `support`, with that of A where A has one.

    base: A.  mask: real, broadcastable to A's out_shape.
    Raises ConfigError where the mask does not fit, InputError where it has other values or leaves nothing.
    """

    def __init__(self, base: LinearOperator, mask: Tensor) -> None:
        try:
            whole = torch.broadcast_shapes(mask.shape, base.out_shape)
        except RuntimeError:
            whole = torch.Size()
        if tuple(whole) != tuple(base.out_shape):
            raise ConfigError(f"a mask of shape {tuple(mask.shape)} does not fit the data of {base!r}")
        if not bool(((mask == 0) | (mask == 1)).all()) or not bool(mask.any()):
            raise InputError(f"a mask of shape {tuple(mask.shape)} needs the values 0 (missing) and 1 (measured)")
        self.base = base
        mask = mask.to(base.out_dtype.to_real())
        self.mask = self.support = mask if base.support is None else mask * base.support
        self.in_shape, self.out_shape = base.in_shape, base.out_shape
        self.in_dtype, self.out_dtype = base.in_dtype, base.out_dtype
        self.differentiable = base.differentiable

    def _forward(self, x: Tensor) -> Tensor:
        return self.mask * self.base.forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.base.adjoint(self.mask * y)
