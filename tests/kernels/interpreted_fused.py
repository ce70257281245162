"""The fused vector updates on a GPU, in Triton's interpreter, against the reference in torch.

Triton reads TRITON_INTERPRET when it is first imported, so `test_triton_fused.py` runs this file in another process.
"""

import os

assert os.environ.get("TRITON_INTERPRET") == "1", "run test_triton_fused.py"

import pytest  # noqa: E402
import torch  # noqa: E402

from recon.kernels import fused  # noqa: E402
from recon.operators.cartesian import CartesianMRI  # noqa: E402
from recon.solvers.cg import conjugate_gradients  # noqa: E402

KINDS = [torch.float32, torch.float64, torch.complex64, torch.complex128]


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def compare(monkeypatch, act, dtype):
    monkeypatch.setenv("RECON_KERNELS", "triton")
    assert fused._kernels(normal(2, 2)).__name__ == "recon.kernels.triton.fused"
    found = act()
    monkeypatch.setenv("RECON_KERNELS", "reference")
    single = dtype in (torch.float32, torch.complex64)
    for a, b in zip(found, act(), strict=True):
        scale = max(float(b.abs().max()), 1e-30)
        torch.testing.assert_close(a.to(b.dtype), b, rtol=0, atol=(2e-6 if single else 1e-13) * scale)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 3, 41, 37)])
def test_vector_updates(monkeypatch, dtype, shape):
    shift, weight = (torch.linspace(*ends, shape[0], dtype=torch.float64) for ends in ((0.5, 1.0), (2.0, 1.5)))
    given = [normal(*shape, dtype=dtype, seed=k) for k in range(5)]

    def act():
        x, r, p, q, z = (v.clone() for v in given)
        q = q + 3 * p
        square = fused.square(r)
        limit = torch.zeros_like(square)
        limit[-1] = 0 if shape[0] == 1 else 2 * square[-1]
        reduced = fused.conjugate_step(x, r, p, q, square, limit, shift.to(square), weight.to(square))
        sums = [fused.combine(given[:n], [1.0, -0.3, 2.5, 0.1][:n]) for n in (2, 3, 4)]
        moves = [fused.guide(*given[:3], d, n, 0.7, 0.4) for d in (None, q) for n in (None, z)]
        return [x, r, p, square, reduced, *sums, *(v for move in moves for v in move)]

    compare(monkeypatch, act, dtype)


@pytest.mark.parametrize("dtype", KINDS[:2])
@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 2, 3), (2, 1, 5, 11, 13)])
def test_shrinkage(monkeypatch, dtype, around, shape):
    x, dual = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1)
    compare(monkeypatch, lambda: fused.shrink(x, dual, 0.8, around), dtype)


@pytest.mark.parametrize("dtype", KINDS[2:])
@pytest.mark.parametrize("batch, coils, shape", [(1, 2, (5, 7)), (3, 5, (11, 6))])
def test_maps(monkeypatch, dtype, batch, coils, shape):
    x, images = normal(batch, 1, *shape, dtype=dtype), normal(batch, coils, *shape, dtype=dtype, seed=1)
    maps = normal(coils, *shape, dtype=dtype, seed=2)
    compare(monkeypatch, lambda: [fused.spread(x, maps), fused.gather(images.clone(), maps.conj())], dtype)


def test_an_operator_and_conjugate_gradients(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    mask, maps = (torch.rand(9, 10, generator=generator) < 0.5).float(), normal(3, 9, 10, dtype=torch.complex64)
    x = normal(2, 1, 9, 10, dtype=torch.complex64)

    def act():
        operator = CartesianMRI(mask, maps, True)
        assert operator.kernel is None
        y = operator.forward(x)
        pull = operator.adjoint(y)
        found = conjugate_gradients(operator.normal, pull, iterations=3, shift=1.0, weight=0.5)
        return [y, pull, found.x, found.residual]

    compare(monkeypatch, act, torch.complex64)
