"""The fused vector updates against their definition in torch, for every kind of number, and each for any threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.errors import ConfigError
from recon.kernels import compiled, fused

KINDS = [torch.float32, torch.float64, torch.complex64, torch.complex128]
needs_library = pytest.mark.skipif(compiled.library().handle is None, reason=compiled.library().reason)


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def tolerance(dtype):
    return 1e-5 if dtype in (torch.float32, torch.complex64) else 1e-13


def close(found, expected, dtype):
    scale = max(float(expected.abs().max()), 1e-30)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance(dtype) * scale)


def by_reference(monkeypatch, act):
    monkeypatch.setenv("RECON_KERNELS", "reference")
    found = act()
    monkeypatch.delenv("RECON_KERNELS")
    return found


@needs_library
def test_the_cpu_takes_the_compiled_kernels_unless_told_or_unable(monkeypatch):
    x = normal(2, 3)
    assert fused._kernels(x).__name__ == "recon.kernels.vectors"
    assert fused._kernels(x, normal(1, 3)) is None and fused._kernels(x.half()) is None
    assert fused._kernels(x, x.double()) is None and fused._kernels(x[:0]) is None
    traced = x.clone().requires_grad_()
    assert fused._kernels(traced) is None
    with torch.no_grad():
        assert fused._kernels(traced) is not None
    monkeypatch.setenv("RECON_KERNELS", "reference")
    assert fused._kernels(x) is None
    monkeypatch.setenv("RECON_KERNELS", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert fused._kernels(x) is None
    monkeypatch.setenv("RECON_KERNELS", "fast")
    with pytest.raises(ConfigError, match="'fast' is unknown"):
        fused._kernels(x)
    monkeypatch.delenv("RECON_KERNELS")
    monkeypatch.setattr(compiled, "library", lambda: compiled.Library(None, reason="none here"))
    assert fused._kernels(x) is None


sizes = st.sampled_from([(1, 1), (2, 7), (3, 8), (1, 2049), (2, 40001)])


@settings(max_examples=25, deadline=None)
@given(size=sizes, dtype=st.sampled_from(KINDS), count=st.integers(2, 4), seed=st.integers(0, 9))
def test_combinations(size, dtype, count, seed):
    terms = [normal(*size, dtype=dtype, seed=seed + k) for k in range(count)]
    weights = [1.0, -0.3, 2.5, 0.0][:count]
    kept = [v.clone() for v in terms]
    close(fused.combine(terms, weights), sum(w * v for w, v in zip(weights, terms, strict=True)), dtype)
    assert all(torch.equal(v, w) for v, w in zip(terms, kept, strict=True))


@settings(max_examples=25, deadline=None)
@given(size=sizes, dtype=st.sampled_from(KINDS), change=st.booleans(), noise=st.booleans())
def test_denoise_guide_renoise(size, dtype, change, noise):
    x, clean, base, d, z = (normal(*size, dtype=dtype, seed=k) for k in range(5))
    corrected, moved = fused.guide(x, clean, base, d if change else None, z if noise else None, 0.7, 0.4)
    expected = clean + d if change else clean
    close(corrected, expected, dtype)
    close(moved, expected + 0.7 * (x - base) + (0.4 * z if noise else 0), dtype)


def test_arguments_may_be_views_conjugates_and_channels_last():
    wide = normal(3, 4, 10, dtype=torch.complex64)
    views = [wide[:, :, ::2], wide[:, :, 1::2].conj(), wide[:, :, :5].transpose(0, 1).contiguous().transpose(0, 1)]
    close(fused.combine(views, (1.0, 2.0, 3.0)), views[0] + 2 * views[1] + 3 * views[2], torch.complex64)
    close(fused.square(views[1]), views[1].abs().square().sum((1, 2)).double(), torch.complex64)


def test_gradients_are_traced_through_the_reference():
    a, b = normal(2, 5).requires_grad_(), normal(2, 5, seed=1)
    fused.combine((a, b), (2.0, 1.0)).sum().backward()
    assert torch.equal(a.grad, torch.full((2, 5), 2.0))
    fused.guide(b, a, b, None, None, 0.5, 0.0)[1].sum().backward()
    assert torch.equal(a.grad, torch.full((2, 5), 3.0))


def conjugate_case(size, dtype, seed=0):
    vectors = [normal(*size, dtype=dtype, seed=seed + k) for k in range(4)]
    image = vectors.pop() + 3 * vectors[2]
    limit = torch.zeros(size[0], dtype=torch.float64)
    return vectors, image, limit


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (2, 3, 4097), (2, 40001)])
def test_an_iteration_of_conjugate_gradients(monkeypatch, dtype, size):
    shift, weight = (torch.linspace(*ends, size[0], dtype=torch.float64) for ends in ((0.5, 1.0), (2.0, 1.5)))

    def act():
        vectors, image, limit = conjugate_case(size, dtype)
        kept, square = image.clone(), fused.square(vectors[1])
        reduced = fused.conjugate_step(*vectors, image, square, *(v.to(square) for v in (limit, shift, weight)))
        assert torch.equal(image, kept)
        return [*vectors, reduced.double()]

    for found, expected in zip(act(), by_reference(monkeypatch, act), strict=True):
        close(found, expected, dtype)
    vectors, image, _ = conjugate_case(size, dtype)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    double = [v.to(wide) for v in (*vectors, image)]
    column = (-1, *(1,) * (image.ndim - 1))
    q = shift.reshape(column) * double[2] + weight.reshape(column) * double[3]
    square = double[1].abs().square().flatten(1).sum(1)
    step = (square / (double[2].conj() * q).real.flatten(1).sum(1)).clamp_min(0)
    residual = double[1] - step.reshape(column) * q
    turn = residual.abs().square().flatten(1).sum(1) / square
    found = act()
    close(found[0].to(wide), double[0] + step.reshape(column) * double[2], dtype)
    close(found[1].to(wide), residual, dtype)
    close(found[2].to(wide), residual + turn.reshape(column) * double[2], dtype)
    close(found[3], residual.abs().square().flatten(1).sum(1), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_frozen_items_and_negative_curvature_take_no_step(dtype):
    vectors, image, limit = conjugate_case((3, 50), dtype)
    image[2] = -vectors[2][2]  # negative curvature
    square = fused.square(vectors[1])
    limit[0] = 2 * square[0]  # solved already
    before = [v.clone() for v in vectors]
    one = torch.ones_like(square)
    reduced = fused.conjugate_step(*vectors, image, square, limit.to(square), 0 * one, one)
    for item in (0, 2):
        assert torch.equal(vectors[0][item], before[0][item]) and torch.equal(vectors[1][item], before[1][item])
    assert not torch.equal(vectors[0][1], before[0][1])
    assert torch.equal(vectors[2][0], before[1][0])  # p = r
    assert float(reduced[0]) == float(square[0])


@needs_library
@pytest.mark.parametrize("threads", [2, 5])
def test_results_do_not_depend_on_threads(monkeypatch, threads):
    def act():
        vectors, image, limit = conjugate_case((2, 700_001), torch.float32)
        square = fused.square(vectors[1])
        one = torch.ones_like(square)
        reduced = fused.conjugate_step(*vectors, image, square, limit, one, one)
        both = fused.guide(*vectors, image, vectors[0], 0.7, 0.4)
        return [*vectors, square, reduced, *both, fused.combine(vectors, (1.0, 2.0, 3.0))]

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = act()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert all(torch.equal(a, b) for a, b in zip(act(), alone, strict=True))


def test_sums_of_long_vectors_are_accurate():
    x = normal(1, 3_000_000) + 3
    exact = float(x.double().square().sum())
    assert abs(float(fused.square(x)) - exact) < (1e-7 if compiled.library().handle else 1e-4) * exact


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 2, 3), (2, 3, 4, 5, 7), (1, 1, 3, 129, 140)])
def test_shrinkage_of_slice_differences(dtype, around, shape):
    x, dual = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1)
    split, following = fused.shrink(x, dual, 0.8, around)
    ahead = x.roll(-1, 2) - x
    if not around:
        ahead[:, :, -1] = 0
    v = ahead + dual
    expected = torch.sgn(v) * (v.abs() - 0.8).clamp_min(0)
    close(split, expected, dtype)
    close(following, v - expected, dtype)
