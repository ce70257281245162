"""The compiled kernel of SENSE against sums of exponentials, its own transforms, and the torch path of the operator."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.errors import ConfigError
from recon.kernels import compiled
from recon.kernels.sense import CompiledGram, CompiledSense, fits, radices
from recon.operators import registry
from recon.operators.cartesian import CartesianMRI

pytestmark = pytest.mark.skipif(compiled.library().handle is None, reason=compiled.library().reason)


def normal(*shape, dtype=torch.complex128, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def masks(shape, seed):
    """A mask of columns, of rows, of points, and of everything."""
    rng = np.random.default_rng(seed)
    found = [np.broadcast_to(rng.random(s) < 0.4, shape).copy() for s in ((1, shape[1]), (shape[0], 1), shape)]
    for each in found:
        each[shape[0] // 2, shape[1] // 2] = True
    return [torch.from_numpy(m).double() for m in (*found, np.ones(shape, bool))]


def worst(found, expected):
    return float((found - expected).norm() / expected.norm().clamp_min(1e-300))


def test_lengths_with_small_factors_alone():
    assert radices(320) == [4, 4, 4, 5] and radices(1) == [] and radices(2 * 3 * 7 * 11 * 13) == [2, 3, 7, 11, 13]
    assert radices(17) is None and radices(34) is None
    assert fits(8, (320, 320), torch.float32) and not fits(8, (320, 34), torch.float32)
    assert not fits(3, (4, 4), torch.float32) and fits(4, (4, 4), torch.float32) and fits(2, (4, 4), torch.float64)
    assert not fits(8, (4, 4), torch.float16)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 25, 26, 49, 60, 143, 320])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_the_transforms_are_those_of_the_definition(n, dtype):
    maps, one = normal(4, 3, n, dtype=dtype), torch.ones(3, n, dtype=dtype)
    kernel = CompiledSense(maps, one, one, one.real.contiguous(), True)
    x = normal(1, 1, 3, n, dtype=dtype)
    turns = [np.outer(np.arange(k), np.arange(k)) % k / k for k in (3, n)]
    waves = [torch.from_numpy(np.exp(-2j * np.pi * t)) for t in turns]
    expected = waves[0] @ (x * maps).to(torch.complex128) @ waves[1]
    assert worst(kernel.forward(x).to(torch.complex128), expected) < (5e-7 if dtype == torch.complex64 else 1e-14)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.sampled_from([1, 4, 6, 7, 10, 13]), st.sampled_from([1, 3, 5, 8, 12])),
    coils=st.sampled_from([2, 3, 4, 5, 9]),
    batch=st.integers(1, 3),
    complex_image=st.booleans(),
    which=st.integers(0, 3),
    single=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_the_torch_path(shape, coils, batch, complex_image, which, single, seed):
    mask, maps = masks(shape, seed)[which], normal(coils, *shape, seed=seed)
    if single:
        mask, maps = mask.float(), maps.to(torch.complex64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECON_KERNELS", "reference")
        plain = CartesianMRI(mask, maps, complex_image)
    operator = CartesianMRI(mask, maps, complex_image)
    kernel = operator._compiled(maps)
    assert plain.kernel is None
    if kernel is None:
        assert not fits(coils, shape, mask.dtype)
        return
    x, y = normal(batch, 1, *shape, dtype=plain.in_dtype), normal(batch, coils, *shape, dtype=maps.dtype, seed=1)
    limit = 1e-6 if single else 1e-14
    ax, aty = kernel.forward(x), kernel.adjoint(y)
    assert worst(ax, plain.forward(x)) < limit and worst(aty, plain.adjoint(y)) < limit
    assert worst(kernel.normal(x), plain.normal(x)) < limit
    assert ax.dtype == plain.out_dtype and aty.dtype == plain.in_dtype and kernel.normal(x).dtype == plain.in_dtype
    assert not bool((ax * (mask == 0)).any())
    products = [float(torch.vdot(a.flatten(), b.flatten()).real) for a, b in ((y, ax), (aty, x))]
    assert abs(products[0] - products[1]) <= limit * float(y.norm() * ax.norm() + aty.norm() * x.norm())


def test_adjoint_ignores_what_is_not_measured_and_arguments_may_be_views():
    mask, maps = masks((6, 10), 3)[0], normal(4, 6, 10)
    operator = CartesianMRI(mask, maps, True)
    y = normal(2, 4, 6, 10)
    assert torch.equal(operator.adjoint(y), operator.adjoint(y * mask))
    wide = normal(2, 1, 12, 10)
    assert torch.equal(operator.forward(wide[:, :, ::2]), operator.forward(wide[:, :, ::2].contiguous()))
    conjugate = wide[:, :, ::2].conj()
    assert torch.equal(operator.forward(conjugate), operator.forward(conjugate.resolve_conj()))


def test_gradients_are_the_adjoint():
    operator = CartesianMRI(masks((6, 10), 4)[2], normal(4, 6, 10))
    x, y = normal(1, 1, 6, 10, dtype=torch.float64).requires_grad_(), normal(1, 4, 6, 10)
    (gradient,) = torch.autograd.grad((operator.forward(x) - y).abs().square().sum(), x)
    torch.testing.assert_close(gradient, 2 * operator.adjoint(operator.forward(x.detach()) - y))
    assert torch.autograd.gradcheck(operator.normal, x)


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_results_do_not_depend_on_threads(monkeypatch, threads, which):
    mask, maps = masks((96, 90), 5)[which].float(), normal(9, 96, 90, dtype=torch.complex64)
    operator = CartesianMRI(mask, maps, True)
    x, y = normal(2, 1, 96, 90, dtype=torch.complex64), normal(2, 9, 96, 90, dtype=torch.complex64)
    found = []
    for count in (1, threads):
        monkeypatch.setattr(compiled.torch, "get_num_threads", lambda count=count: count)
        found.append([operator.forward(x), operator.adjoint(y), operator.normal(x)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_copies_pickles_and_other_types_serve_alike():
    mask, maps = masks((6, 10), 6)[0], normal(4, 6, 10)
    operator = CartesianMRI(mask, maps, True)
    x = normal(1, 1, 6, 10)
    for other in (pickle.loads(pickle.dumps(operator)), copy.deepcopy(operator), operator.to("cpu")):
        assert torch.equal(other.forward(x), operator.forward(x))
    single = operator.to(dtype=torch.float32)
    assert single.kernel is not None and single.forward(x.to(torch.complex64)).dtype == torch.complex64
    assert worst(single.forward(x.to(torch.complex64)).to(x.dtype), operator.forward(x)) < 1e-6
    assert operator.forward(x.to(torch.complex64)).dtype == torch.complex128


def test_wrong_numbers_are_refused():
    operator = CartesianMRI(masks((6, 10), 6)[0], normal(4, 6, 10))
    with pytest.raises(ConfigError, match="complex128"):
        operator.forward(normal(1, 1, 6, 10))


def test_values_that_are_not_finite_stay_in_their_item():
    operator = CartesianMRI(masks((6, 10), 6)[0], normal(4, 6, 10), True)
    x = normal(2, 1, 6, 10)
    x[0, 0, 2, 3] = math.nan
    found = operator.normal(x)
    assert bool(found[0].isnan().any()) and bool(found[1].isfinite().all())


@pytest.mark.parametrize("complex_image", [False, True])
@pytest.mark.parametrize("coils", [4, 9])
def test_sums_of_modulated_convolutions(coils, complex_image):
    maps, phases, turn = normal(coils, 6, 10), normal(3, 6, 10, seed=1), normal(6, seed=3)
    phases[1] = 1
    symbols = normal(3, 2, 6, 10, dtype=torch.float64, seed=2)
    symbols[2, :, :, 4] = 0
    x = normal(2, 1, 6, 10, dtype=torch.complex128 if complex_image else torch.float64)
    kernel = CompiledGram(maps, phases, turn, symbols, complex_image)
    expected = torch.zeros(2, 1, 6, 10, dtype=torch.complex128)
    turned = [
        (p * t, both[j]) for p, both in zip(phases, symbols, strict=True) for j, t in enumerate((1, turn[:, None]))
    ]
    for p, q in turned:
        k = torch.fft.ifft2(torch.fft.fft2(x * p * maps) * q, norm="forward")
        expected += (k * (p * maps).conj()).sum(1, keepdim=True)
    for each in (kernel, copy.deepcopy(kernel), pickle.loads(pickle.dumps(kernel))):
        assert worst(each.apply(x), expected if complex_image else expected.real) < 1e-14


def test_the_toeplitz_operator_takes_it(monkeypatch):
    arrays = registry.draw("mri-nufft", {"shots": 9, "coils": 4, "toeplitz": True}, (1, 12, 10), seed=0)
    operator = registry.build(arrays)
    x = normal(2, 1, 12, 10, dtype=torch.float32)
    monkeypatch.setenv("RECON_KERNELS", "reference")
    plain = registry.build(arrays)
    assert operator.kernel is not None and plain.kernel is None
    assert worst(operator.normal(x), plain.normal(x)) < 1e-6
    leaf = x.double().requires_grad_()
    assert torch.autograd.gradcheck(operator.to(dtype=torch.float64).normal, leaf)
