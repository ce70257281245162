"""Singular value decompositions of operators: the bases, the values, and what follows from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from battery import check_operator, norm, random_input, random_output
from hypothesis import given, settings
from hypothesis import strategies as st
from image_cases import KERNEL, make, sparse_arrays

from recon.operators.base import LinearOperator, stack
from recon.operators.matrix import SVD_SIDE, DenseMatrix
from recon.operators.spectral import complete_svd, hartley
from recon.solvers.dense import dense_matrix, real_rows

SHAPE = (1, 6, 8)
ODD = (1, 5, 7)
RNG = np.random.default_rng(5)


def mask(shape: tuple[int, ...], share: float = 0.5, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < share).astype(np.uint8)


def mri(shape: tuple[int, ...], complex_image: bool, share: float = 0.5) -> LinearOperator:
    arrays = {"mask": mask(shape[1:], share)}
    return make("mri", {"mask": "given", "complex_image": complex_image}, shape, arrays)


def full_mri(shape: tuple[int, ...]) -> LinearOperator:
    arrays = {"mask": np.ones(shape[1:], np.uint8)}
    return make("mri", {"mask": "given", "complex_image": True}, shape, arrays)


def circular(shape: tuple[int, ...], size: int = 5) -> LinearOperator:
    return make("blur", {"size": size, "sigma": 0.9, "boundary": "circular"}, shape)


def dense(rows: int, shape: tuple[int, ...], kind: type, complex_image: bool) -> LinearOperator:
    m = np.random.default_rng(2).standard_normal((rows, int(np.prod(shape)), 2))
    matrix = m[..., 0] if kind is float else m[..., 0] + 1j * m[..., 1]
    return make("matrix", {"complex_image": complex_image}, shape, {"matrix": matrix})


def sparse(rows: int, shape: tuple[int, ...], kind: type, complex_image: bool) -> LinearOperator:
    arrays = sparse_arrays(rows, int(np.prod(shape)), dtype=np.complex128 if kind is complex else np.float64)
    return make("matrix", {"complex_image": complex_image}, shape, arrays)


CASES = {
    "denoise": lambda: make("denoise", {}, (3, 4, 5)),
    "inpaint": lambda: make("inpaint", {"mask": "array"}, (2, 6, 8), {"mask": mask((6, 8))}),
    "inpaint, slices": lambda: make("inpaint", {"mask": "array"}, (1, 2, 6, 8), {"mask": mask((6, 8))}),
    "colour to grey": lambda: make("colour-mix", {"mix": "luma"}, (3, 4, 5)),
    "more colours": lambda: make("colour-mix", {"mix": "matrix", "matrix": ((1, 2), (3, 1), (0, 1))}, (2, 4, 5)),
    "colours of rank one": lambda: make("colour-mix", {"mix": "matrix", "matrix": ((1, 2), (2, 4))}, (2, 4, 5)),
    "box average": lambda: make("downsample", {"factor": 2, "filter": "box"}, (2, 6, 8)),
    "box average by 1": lambda: make("downsample", {"factor": 1, "filter": "box"}, (1, 3, 4)),
    "box average, slices": lambda: make("downsample", {"factor": 3, "filter": "box"}, (1, 2, 3, 6)),
    "bicubic": lambda: make("downsample", {"factor": 2}, (2, 7, 9)),
    "bicubic by 4": lambda: make("downsample", {"factor": 4}, (1, 16, 8)),
    "circular blur": lambda: circular((2, 6, 8)),
    "circular blur, odd": lambda: circular(ODD),
    "circular blur, mixed": lambda: circular((1, 5, 8)),
    "circular blur, slices": lambda: circular((1, 2, 8, 5)),
    "circular blur, skew": lambda: make(
        "blur", {"kernel": "array", "boundary": "circular"}, (1, 7, 8), {"kernel": KERNEL[:, :6]}
    ),
    "circular blur with zeros": lambda: make(
        "blur", {"kernel": "array", "boundary": "circular"}, (1, 6, 8), {"kernel": np.full((2, 2), 0.25)}
    ),
    "separable blur": lambda: make("blur", {"size": 5, "sigma": 0.8}, (2, 8, 9)),
    "valid blur": lambda: make("blur", {"size": 5, "sigma": 0.8, "boundary": "valid"}, (1, 8, 9)),
    "mri": lambda: mri((1, 6, 8), False),
    "mri, odd": lambda: mri(ODD, False),
    "mri, mixed": lambda: mri((1, 5, 8), False, 0.3),
    "mri, complex": lambda: mri((1, 6, 8), True),
    "mri, complex, odd": lambda: mri(ODD, True),
    "mri, lines": lambda: make("mri", {"mask": "given"}, (1, 6, 8), {"mask": mask((8,))}),
    "wide matrix": lambda: dense(20, SHAPE, float, False),
    "tall matrix": lambda: dense(60, SHAPE, float, False),
    "complex matrix": lambda: dense(20, SHAPE, complex, False),
    "complex matrix on complex images": lambda: dense(20, SHAPE, complex, True),
    "real matrix on complex images": lambda: dense(60, SHAPE, float, True),
    "sparse matrix": lambda: sparse(20, SHAPE, float, False),
    "sparse complex matrix": lambda: sparse(30, SHAPE, complex, False),
    "sparse matrix on complex images": lambda: sparse(20, SHAPE, complex, True),
    "scaled": lambda: -0.3 * circular(ODD),
    "scaled twice": lambda: 2.0 * (1.5 * mri((1, 6, 8), False)),
    "before a unitary operator": lambda: mri((1, 6, 8), True) @ (-2.0 * full_mri((1, 6, 8))),
    "after a unitary operator": lambda: (2.0 * make("denoise", {}, (1, 6, 8))) @ circular((1, 6, 8)),
}


def exact(name: str) -> LinearOperator:
    op = CASES[name]().to(dtype=torch.float64)
    assert isinstance(op, LinearOperator)
    return op


def close(a: torch.Tensor, b: torch.Tensor, tol: float = 1e-10) -> None:
    assert a.shape == b.shape and a.dtype == b.dtype
    assert norm(a - b) <= tol * max(norm(b), 1.0), norm(a - b) / max(norm(b), 1.0)


@pytest.mark.parametrize("name", CASES)
def test_the_decomposition_is_the_operator(name):
    op, g = exact(name), torch.Generator().manual_seed(0)
    spectrum = op.svd()
    assert spectrum is not None
    s = spectrum.values
    x, y = random_input(op, 2, "cpu", g), random_output(op, 2, "cpu", g)
    close(spectrum.from_u(s * spectrum.to_v(x)), op.forward(x))
    close(spectrum.from_v(s * spectrum.to_u(y)), op.adjoint(y))
    assert bool((s >= 0).all()) and not s.is_complex()
    values = (s.expand_as(spectrum.to_v(x)[0]) if s.ndim < x.ndim else s[0]).flatten().sort(descending=True).values
    if spectrum.to_v(x).is_complex():  # each counts for the real and the imaginary part
        values = values.repeat_interleave(2)
    found = torch.linalg.svdvals(dense_matrix(op))
    assert values.numel() == real_rows(x).shape[1]
    padded = torch.nn.functional.pad(found, (0, max(0, len(values) - len(found))))
    assert torch.allclose(values, padded[: len(values)], atol=1e-9 * float(found[0]))
    assert bool((padded[len(values) :] < 1e-9).all())


@pytest.mark.parametrize("name", CASES)
def test_the_bases_are_orthonormal(name):
    op, g = exact(name), torch.Generator().manual_seed(1)
    spectrum = op.svd()
    assert spectrum is not None
    x, y = random_input(op, 3, "cpu", g), random_output(op, 3, "cpu", g)
    c = spectrum.to_v(x)
    close(spectrum.from_v(c), x)
    d = torch.randn(c.shape, dtype=c.dtype, generator=g)
    close(spectrum.to_v(spectrum.from_v(d)), d)
    assert torch.allclose(real_rows(c).norm(dim=1), real_rows(x).norm(dim=1), rtol=1e-12)
    assert c.is_complex() <= x.is_complex(), "coefficients of real images are real"
    measured = (spectrum.values > 0).expand_as(d)
    u = spectrum.from_u(d)
    close(u, spectrum.from_u(measured * d))
    close(spectrum.to_u(u), measured * d)
    assert torch.allclose(real_rows(u).norm(dim=1), real_rows(measured * d).norm(dim=1), rtol=1e-10)
    seen = spectrum.to_u(y)
    assert not bool(torch.where(measured, 0, seen).abs().max() > 1e-12)
    assert abs(float((real_rows(seen) * real_rows(d)).sum() - (real_rows(y) * real_rows(u)).sum())) < 1e-9


@pytest.mark.parametrize("name", CASES)
def test_prox_and_pseudo_inverse_are_those_of_the_dense_matrix(name):
    op, g = exact(name), torch.Generator().manual_seed(2)
    spectrum = op.svd()
    assert spectrum is not None
    z, y = random_input(op, 2, "cpu", g), random_output(op, 1, "cpu", g)
    matrix = dense_matrix(op)
    gram, data = matrix.T @ matrix, matrix.T @ real_rows(y)[0]
    eye = torch.eye(len(gram), dtype=torch.float64)
    for rho in (1e-3, 1.0, 1e3):
        expected = torch.linalg.solve(gram + rho * eye, (data + rho * real_rows(z)).T).T
        close(real_rows(spectrum.prox(z, rho, y)), expected)
        closed = op.prox(z, rho, y)
        assert closed is not None
        close(real_rows(closed), expected, 1e-9)
    per_item = torch.tensor([0.5, 2.0], dtype=torch.float64).reshape(-1, *(1,) * (z.ndim - 1))
    both = spectrum.prox(z, per_item, y)
    for i, rho in enumerate((0.5, 2.0)):
        close(both[i : i + 1], spectrum.prox(z[i : i + 1], rho, y))
    inverse = torch.linalg.pinv(matrix, rtol=1e-9) @ real_rows(y)[0]
    close(real_rows(spectrum.pinv(y))[0], inverse, 1e-8)
    misfit = y - op.forward(z)
    close(spectrum.prox(z, 0.0, y), z + spectrum.pinv(misfit), 1e-8)


@pytest.mark.parametrize("name", CASES)
def test_single_precision_keeps_to_single_precision(name):
    op, g = CASES[name](), torch.Generator().manual_seed(3)
    spectrum = op.svd()
    assert spectrum is not None
    x = random_input(op, 2, "cpu", g)
    assert spectrum.values.dtype == torch.float32
    close(spectrum.from_u(spectrum.values * spectrum.to_v(x)), op.forward(x), 1e-4)
    close(spectrum.from_v(spectrum.to_v(x)), x, 1e-5)


def test_white_noise_stays_white_in_every_basis():
    """The law that spectral samplers rely on: the covariance of V^H n is that of n, one, in each real number."""
    for name in ("circular blur, odd", "mri, odd", "mri, complex", "bicubic", "box average"):
        op, g = exact(name), torch.Generator().manual_seed(4)
        spectrum = op.svd()
        assert spectrum is not None
        basis = torch.eye(real_rows(random_input(op, 1, "cpu", g)).shape[1], dtype=torch.float64)
        images = torch.view_as_complex(basis.unflatten(1, (-1, 2))) if op.in_dtype.is_complex else basis
        rows = real_rows(spectrum.to_v(images.reshape(-1, *op.in_shape)))
        assert torch.allclose(rows.T @ rows, basis, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_hartley_is_an_orthonormal_involution(rows, columns, seed):
    x = torch.randn(2, rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    close(hartley(hartley(x)), x)
    angle = 2 * np.pi * (np.outer(np.arange(rows), np.arange(rows))[:, None, :, None] / rows
                         + np.outer(np.arange(columns), np.arange(columns))[None, :, None] / columns)  # fmt: skip
    cas = torch.from_numpy(np.cos(angle) + np.sin(angle)) / (rows * columns) ** 0.5
    close(hartley(x), torch.einsum("abcd,ncd->nab", cas, x))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 8), st.booleans(), st.integers(0, 99))
def test_complete_svd_of_any_matrix(rows, columns, rank, is_complex, seed):
    g = torch.Generator().manual_seed(seed)
    kind = torch.complex128 if is_complex else torch.float64
    left, right = (torch.randn(*s, dtype=kind, generator=g) for s in ((rows, rank), (rank, columns)))
    matrix = left @ right
    u, s, v = complete_svd(matrix)
    assert u.shape == (rows, columns) and s.shape == (columns,) and v.shape == (columns, columns)
    close((u * s) @ v.mH, matrix)
    close(v.mH @ v, torch.eye(columns, dtype=kind))
    close(u.mH @ u, torch.diag((s > 0).to(kind)))
    assert int((s > 0).sum()) == min(rows, columns, rank)


def test_small_values_can_be_left_out():
    op = exact("circular blur")
    whole = op.svd()
    assert whole is not None
    kept = whole.above(0.2)
    share = whole.values / whole.values.max()
    assert 0 < int((kept.values == 0).sum()) == int((share < 0.2).sum())
    assert torch.equal(kept.values[share >= 0.2], whole.values[share >= 0.2])
    y = random_output(op, 2, "cpu", torch.Generator().manual_seed(0))
    assert not bool(kept.to_u(y)[..., share < 0.2].any())
    matrix = dense_matrix(op)
    expected = torch.linalg.pinv(matrix, rtol=0.2) @ real_rows(y).T
    close(real_rows(kept.pinv(y)), expected.T)
    assert torch.equal(whole.above(0.0).values, whole.values)


@pytest.mark.parametrize(
    "op",
    [
        make("ct", {"angles": 5}, (1, 8, 8)),
        make("blur", {"kernel": "motion", "size": 5}, (1, 8, 8)),
        make("mri", {"coils": 2}, (1, 16, 16)),
        2.0 * make("mri", {"coils": 2}, (1, 16, 16)),
        circular((1, 6, 8)) + make("denoise", {}, (1, 6, 8)),
        stack(circular((1, 6, 8)), make("denoise", {}, (1, 6, 8))),
        circular((1, 6, 8)) @ make("inpaint", {}, (1, 6, 8)),
        make("colour-mix", {"mix": "matrix", "matrix": ((1, 0), (0, 1), (0, 0))}, (2, 4, 5)).H,
        DenseMatrix((1, 1, SVD_SIDE + 1), (2,), torch.ones(2, SVD_SIDE + 1), False),
    ],
    ids=lambda op: type(op).__name__,
)
def test_without_a_cheap_decomposition_there_is_none(op):
    assert op.svd() is None
    assert op.prox(torch.zeros(1, *op.in_shape, dtype=op.in_dtype), 1.0,
                   torch.zeros(1, *op.out_shape, dtype=op.out_dtype)) is None  # fmt: skip


@pytest.mark.parametrize("name", ["wide matrix", "sparse complex matrix", "after a unitary operator"])
def test_closed_forms_by_default_pass_the_battery(name):
    op = CASES[name]()
    assert op.pinv(torch.zeros(1, *op.out_shape, dtype=op.out_dtype)) is not None
    check_operator(op, tol64=1e-11)
