"""The battery itself: it passes a sound operator and names the fault of each unsound one."""

from __future__ import annotations

import pytest
import torch
from battery import check_operator
from torch import Tensor

from recon.operators.base import LinearOperator


class Sound(LinearOperator):
    """Masked, weighted Fourier samples of a real image: complex data, a support, a pseudo-inverse."""

    def __init__(self) -> None:
        self.in_shape, self.out_shape = (1, 5, 6), (2, 5, 6)
        self.out_dtype = torch.complex64
        generator = torch.Generator().manual_seed(3)
        self.support = (torch.rand(5, 6, generator=generator) < 0.6).float()
        self.weights = torch.randn(2, 5, 6, generator=generator, dtype=torch.complex64)

    def _forward(self, x: Tensor) -> Tensor:
        return self.support * self.weights * torch.fft.fft2(x, norm="ortho")

    def _adjoint(self, y: Tensor) -> Tensor:
        return torch.fft.ifft2(self.support * self.weights.conj() * y, norm="ortho").sum(1, keepdim=True).real


class Scalar(LinearOperator):
    """y = 2 x with everything that has a closed form."""

    in_shape = out_shape = (1, 3, 4)

    def _forward(self, x: Tensor) -> Tensor:
        return 2 * x

    def _adjoint(self, y: Tensor) -> Tensor:
        return 2 * y

    def pinv(self, y: Tensor) -> Tensor:
        return y / 2

    def prox(self, z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor:
        return (2 * y + rho * z) / (4 + rho)


class NoConjugate(Sound):
    def _adjoint(self, y: Tensor) -> Tensor:
        return torch.fft.ifft2(self.support * self.weights * y, norm="ortho").sum(1, keepdim=True).real


class Affine(Scalar):
    def _forward(self, x: Tensor) -> Tensor:
        return 2 * x + 1e-4


class SumsTheBatch(Scalar):
    def _forward(self, x: Tensor) -> Tensor:
        return 2 * x + x.mean(0, keepdim=True)

    def _adjoint(self, y: Tensor) -> Tensor:
        return 2 * y + y.mean(0, keepdim=True)


class Detached(Scalar):
    def _forward(self, x: Tensor) -> Tensor:
        return x + x.detach()


class OtherNormal(Scalar):
    def normal(self, x: Tensor) -> Tensor:
        return 3.9 * x


class SinglePrecision(Scalar):
    def _forward(self, x: Tensor) -> Tensor:
        return (2 * x).float()


class Aliasing(Scalar):
    in_shape = out_shape = (1, 2, 3)

    def _forward(self, x: Tensor) -> Tensor:
        return x

    def _adjoint(self, y: Tensor) -> Tensor:
        return y

    def pinv(self, y: Tensor) -> Tensor:
        return y

    def prox(self, z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor:
        return (y + rho * z) / (1 + rho)


class Counting(Scalar):
    def __init__(self) -> None:
        self.calls = torch.zeros(1)

    def _forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return 2 * x


class WrongSupport(Scalar):
    def __init__(self) -> None:
        self.support = torch.zeros(3, 4)


class WrongProx(Scalar):
    def prox(self, z: Tensor, rho: float | Tensor, y: Tensor) -> Tensor:
        return (2 * y + rho * z) / (4.02 + rho)


class InfinitePinv(Scalar):
    def pinv(self, y: Tensor) -> Tensor:
        return y / 0


@pytest.mark.parametrize("op", [Sound(), Sound().H, Scalar()], ids=["complex", "its adjoint", "scalar"])
def test_sound_operators_pass(op: LinearOperator) -> None:
    check_operator(op)


@pytest.mark.parametrize(
    ("cls", "fault"),
    [
        (NoConjugate, "adjoint mismatch"),
        (Affine, "not linear|adjoint mismatch"),
        (SumsTheBatch, "batch differs"),
        (Detached, "autograd is not the adjoint"),
        (OtherNormal, "normal is not"),
        (SinglePrecision, "declares"),
        (Aliasing, "shares memory"),
        (Counting, "changed by its calls"),
        (WrongSupport, "outside the support"),
        (WrongProx, "misses its optimum"),
        (InfinitePinv, "pinv is not finite"),
    ],
)
def test_faults_are_named(cls: type[LinearOperator], fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        check_operator(cls())
