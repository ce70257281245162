"""Sums, products, multiples, stacks and adjoints of operators are operators that keep the contract."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from battery import check_operator, random_input, random_output
from image_cases import make

from recon.errors import ConfigError, InputError
from recon.operators.base import LinearOperator, Operator, stack
from recon.operators.masked import Masked

SHAPE = (1, 8, 6)
MASK = np.random.default_rng(3).integers(0, 2, SHAPE[1:]).astype(np.uint8)
OTHER = np.random.default_rng(4).integers(0, 2, SHAPE[1:]).astype(np.uint8)


def blur(shape: tuple[int, ...] = SHAPE) -> LinearOperator:
    return make("blur", {"size": 3, "sigma": 0.8, "boundary": "circular"}, shape)


def inpaint(mask: np.ndarray = MASK, shape: tuple[int, ...] = SHAPE) -> LinearOperator:
    return make("inpaint", {"mask": "array"}, shape, {"mask": mask})


def box() -> LinearOperator:
    return make("downsample", {"factor": 2, "filter": "box"}, SHAPE)


def mri(complex_image: bool = False, mask: np.ndarray = MASK) -> LinearOperator:
    return make("mri", {"mask": "given", "complex_image": complex_image}, SHAPE, {"mask": mask})


def identity(shape: tuple[int, ...] = SHAPE) -> LinearOperator:
    return make("denoise", {}, shape)


CASES = {
    "composed": lambda: box() @ blur(),
    "composed, complex data": lambda: mri() @ blur(),
    "composed, complex images": lambda: mri(True, OTHER).H @ mri(True),
    "composed, colours": lambda: inpaint() @ make("colour-mix", {"mix": "luma"}, (3, 8, 6)),
    "scaled": lambda: 3.0 * blur(),
    "scaled, negative": lambda: mri() * -0.25,
    "sum": lambda: blur() + inpaint(),
    "sum, masked": lambda: inpaint() + inpaint(OTHER),
    "sum, complex": lambda: mri(True) + mri(True, OTHER),
    "stacked": lambda: stack(blur(), box(), inpaint()),
    "stacked, complex": lambda: stack(mri(), mri(mask=OTHER)),
    "masked": lambda: Masked(blur(), torch.from_numpy(MASK)),
    "masked, masked": lambda: Masked(mri(True), torch.from_numpy(OTHER)),
    "masked, stacked": lambda: Masked(stack(blur(), mri().H @ mri()), (torch.arange(96) % 3 > 0).float()),
    "adjoint": lambda: box().H,
    "adjoint, complex": lambda: mri().H,
    "nested": lambda: 2.0 * (stack(box(), blur()) @ (blur() + 0.5 * identity())),
}


@pytest.mark.parametrize("name", CASES)
def test_the_battery(name):
    check_operator(CASES[name](), tol64=1e-11)


def test_each_does_what_its_formula_says():
    g = torch.Generator().manual_seed(0)
    a, b, c = blur(), inpaint(), box()
    x, y = random_input(a, 2, "cpu", g), random_output(a, 2, "cpu", g)
    torch.testing.assert_close((c @ a).forward(x), c.forward(a.forward(x)))
    torch.testing.assert_close((-0.3 * a).forward(x), -0.3 * a.forward(x))
    torch.testing.assert_close((a + b).forward(x), a.forward(x) + b.forward(x))
    joined = stack(a, c).forward(x)
    assert joined.shape == (2, 48 + 12)
    torch.testing.assert_close(joined[:, :48], a.forward(x).flatten(1))
    torch.testing.assert_close(joined[:, 48:], c.forward(x).flatten(1))
    torch.testing.assert_close(a.H.forward(y), a.adjoint(y))
    torch.testing.assert_close(a.H.adjoint(x), a.forward(x))
    assert a.H.H is a
    assert (c.H.in_shape, c.H.out_shape) == (c.out_shape, c.in_shape)
    assert (mri().H.in_dtype, mri().H.out_dtype) == (torch.complex64, torch.float32)


@pytest.mark.parametrize("scale", [4.0, -0.2])
@pytest.mark.parametrize("rho", [0.05, torch.tensor(2.0)])
def test_prox_of_a_multiple_is_the_optimum(scale, rho):
    """(s^2 A^H A + rho) x = s A^H y + rho z, solved as a dense system in float64."""
    g = torch.Generator().manual_seed(1)
    base = blur().to(dtype=torch.float64)
    op = scale * base
    z, y = random_input(base, 1, "cpu", g), random_output(base, 1, "cpu", g)
    eye = torch.eye(48, dtype=torch.float64)
    matrix = op.forward(eye.reshape(48, *SHAPE)).flatten(1).T
    exact = torch.linalg.solve(matrix.T @ matrix + rho * eye, matrix.T @ y.flatten() + rho * z.flatten())
    found = op.prox(z, rho, y)
    assert found is not None
    torch.testing.assert_close(found.flatten(), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [4.0, -0.2])
def test_pinv_of_a_multiple_undoes_it(scale):
    op = scale * box()
    y = random_output(op, 2, "cpu", torch.Generator().manual_seed(2))
    found = op.pinv(y)
    assert found is not None
    torch.testing.assert_close(op.forward(found), y)


def test_a_multiple_has_no_more_closed_forms_than_its_operator():
    maps = np.ones((2, 8, 6), np.complex64)
    base = make("mri", {"mask": "given", "maps": "given"}, SHAPE, {"mask": MASK, "maps": maps})
    y, z = torch.zeros(1, 2, 8, 6, dtype=torch.complex64), torch.zeros(1, *SHAPE)
    assert (2 * base).pinv(y) is None and (2 * base).prox(z, 1.0, y) is None


def tensors(op: Operator) -> Iterator[torch.Tensor]:
    """Every tensor of an operator and its parts."""
    for value in vars(op).values():
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, torch.Tensor):
                yield part
            elif isinstance(part, Operator):
                yield from tensors(part)


@pytest.mark.parametrize("name", CASES)
def test_to_reaches_every_part_and_leaves_the_original(name):
    single = CASES[name]()
    kinds = single.in_dtype, single.out_dtype
    double = single.to(dtype=torch.float64)
    assert isinstance(double, LinearOperator) and type(double) is type(single)
    assert double.in_dtype.to_real() == double.out_dtype.to_real() == torch.float64
    for op, kind in ((double, torch.float64), (single, torch.float32)):
        assert {t.dtype.to_real() for t in tensors(op) if t.is_floating_point() or t.is_complex()} <= {kind}
    x = random_input(double, 1, "cpu", torch.Generator().manual_seed(0))
    assert double.forward(x).dtype == double.out_dtype
    assert (single.in_dtype, single.out_dtype) == kinds
    assert single.forward(x.to(kinds[0])).dtype == kinds[1]
    assert double.to(dtype=torch.float32).forward(x.to(kinds[0])).dtype == kinds[1]


def test_measured_counts_real_numbers():
    seen, other = int(MASK.sum()), int(OTHER.sum())
    assert blur().measured() == 48
    assert box().measured() == 12
    assert inpaint().measured() == seen
    assert inpaint(shape=(3, 8, 6)).measured() == 3 * seen
    assert mri().measured() == mri(True).measured() == 2 * seen
    maps = np.ones((2, 8, 6), np.complex64)
    coils = make("mri", {"mask": "given", "maps": "given"}, SHAPE, {"mask": MASK, "maps": maps})
    assert coils.measured() == 4 * seen
    # algebra
    assert (inpaint() @ blur()).measured() == (5.0 * inpaint()).measured() == seen
    assert (inpaint() + inpaint(OTHER)).measured() == int((MASK | OTHER).sum())
    assert (inpaint() + blur()).measured() == 48
    assert stack(inpaint(), blur(), inpaint(OTHER)).measured() == seen + 48 + other
    assert stack(blur(), box()).measured() == 60
    assert stack(mri(), mri(mask=OTHER)).measured() == 2 * (seen + other)
    assert mri().H.measured() == 48


def test_a_mask_leaves_out_data():
    op, x = Masked(blur(), torch.from_numpy(MASK)), torch.ones(2, *SHAPE)
    torch.testing.assert_close(op.forward(x), torch.from_numpy(MASK) * blur().forward(x))
    assert op.measured() == int(MASK.sum())
    assert Masked(inpaint(), torch.from_numpy(OTHER)).measured() == int((MASK & OTHER).sum())
    with pytest.raises(ConfigError, match=r"mask of shape \(8, 7\) does not fit"):
        Masked(blur(), torch.ones(8, 7))
    for bad in (torch.zeros(8, 6), torch.full((8, 6), 0.5)):
        with pytest.raises(InputError, match=r"0 \(missing\)"):
            Masked(blur(), bad)


def test_only_what_can_be_differentiated_says_so():
    hidden = blur()
    hidden.differentiable = False
    for op in (hidden @ blur(), box() @ hidden, 2 * hidden, hidden + blur(), stack(blur(), hidden), hidden.H):
        assert not op.differentiable
    assert (box() @ blur()).differentiable and blur().H.differentiable


@pytest.mark.parametrize(
    ("join", "words"),
    [
        (lambda: blur() @ box(), "cannot compose"),
        (lambda: mri(True) @ blur(), "cannot compose.*complex64.*float32"),
        (lambda: blur() @ mri(True), "cannot compose"),
        (lambda: blur() @ blur().to(dtype=torch.float64), "cannot compose.*float64"),
        (lambda: blur() + box(), "cannot add"),
        (lambda: mri() + mri(True), "cannot add"),
        (lambda: stack(blur(), blur((1, 6, 8))), "cannot stack.*6, 8"),
        (lambda: stack(blur(), mri()), "cannot stack"),
        (lambda: stack(mri(), mri(True)), "cannot stack"),
        (lambda: stack(), "cannot stack"),
        (lambda: 0.0 * blur(), "cannot scale"),
        (lambda: blur() * float("nan"), "cannot scale"),
    ],
)
def test_what_does_not_fit_is_refused(join, words):
    with pytest.raises(ConfigError, match=words):
        join()


@pytest.mark.parametrize("make_op", [blur, box, inpaint, mri, identity])
def test_wrong_shapes_name_what_was_expected(make_op):
    op: Operator = make_op()
    with pytest.raises(ConfigError, match=r"input of shape \(B, 1, 8, 6\), got \(1, 1, 8, 7\)"):
        op.forward(torch.zeros(1, 1, 8, 7))
    assert isinstance(op, LinearOperator)
    with pytest.raises(ConfigError, match="measurement of shape"):
        op.adjoint(torch.zeros(2, *op.out_shape, 1, dtype=op.out_dtype))
