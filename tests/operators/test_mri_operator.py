"""Cartesian MRI against the definition of the centred transform, in all its variants."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from battery import check_operator

from recon.data import OperatorSpec
from recon.errors import ConfigError, InputError
from recon.operators import cartesian, groups
from recon.operators.coils import birdcage_maps
from recon.operators.registry import build, draw, family, parse_params


def make(shape, seed=0, given=None, **params):
    params = {"acceleration": 2.0, "acs": 1, **params}
    return build(draw("mri", params, (1, *shape), seed, given))


def dft(n):
    """The centred orthonormal DFT from its definition."""
    k = np.arange(n) - n // 2
    return np.exp(-2j * np.pi * np.outer(k, k) / n) / np.sqrt(n)


def dense(op):
    """The matrix of an operator, real and imaginary parts as separate numbers."""
    columns = []
    for part in (1, 1j) if op.in_dtype.is_complex else (1,):
        for i in range(int(np.prod(op.in_shape))):
            x = torch.zeros(op.in_shape, dtype=op.in_dtype).flatten()
            x[i] = part
            columns.append(torch.view_as_real(op.forward(x.reshape(1, *op.in_shape))).flatten().numpy())
    return np.stack(columns, axis=1)


def as_reals(x):
    """A complex tensor as the vector of all real, then all imaginary parts; a real one flat."""
    return np.concatenate([x.real.flatten(), x.imag.flatten()]) if x.is_complex() else x.flatten().numpy()


@pytest.mark.parametrize("shape", [(16, 16), (15, 15), (9, 14), (1, 7)])
@pytest.mark.parametrize("complex_image", [False, True])
@pytest.mark.parametrize("coils", [None, 1, 4])
@pytest.mark.parametrize("mask, axis", [("random", "x"), ("uniform", "y"), ("poisson", "x")])
def test_battery(shape, complex_image, coils, mask, axis):
    check_operator(make(shape, mask=mask, axis=axis, coils=coils, complex_image=complex_image))


@pytest.mark.parametrize("shape", [(8, 8), (7, 7), (6, 9)])
@pytest.mark.parametrize("coils", [1, 3])
@pytest.mark.parametrize("mask", [{"mask": "gaussian2d"}, {"acceleration": 3.0}, {"acceleration": 3.0, "axis": "y"}])
def test_forward_is_the_centred_transform_by_definition(shape, coils, mask):
    op = make(shape, **{"mask": "random", **mask}, coils=coils, complex_image=True).to(dtype=torch.float64)
    gen = np.random.default_rng(1)
    x = gen.normal(size=shape) + 1j * gen.normal(size=shape)
    maps = np.ones((1, *shape)) if op.maps is None else op.maps.numpy()
    expected = op.support.numpy() * (dft(shape[0]) @ (maps * x) @ dft(shape[1]).T)
    assert np.allclose(op.forward(torch.from_numpy(x)[None, None]).numpy()[0], expected, rtol=0, atol=1e-13)
    assert 0 < op.support.sum() < op.support.numel()


@pytest.mark.parametrize("shape", [(8, 12), (9, 7)])
def test_known_images_have_known_spectra(shape):
    op = make(shape, acceleration=1)
    size, (cy, cx) = shape[0] * shape[1], (shape[0] // 2, shape[1] // 2)
    y = op.forward(torch.full((1, 1, *shape), 3.0))
    expected = torch.zeros_like(y)
    expected[0, 0, cy, cx] = 3 * size**0.5
    assert torch.allclose(y, expected, atol=1e-4)

    delta = torch.zeros(1, 1, *shape)
    delta[0, 0, cy, cx] = 1
    assert torch.allclose(op.forward(delta), torch.full_like(y, size**-0.5), atol=1e-6)

    wave = torch.cos(2 * torch.pi * 2 * (torch.arange(shape[1]) - cx) / shape[1]).expand(1, 1, *shape)
    y = op.forward(wave.contiguous())
    expected = torch.zeros_like(y)
    expected[0, 0, cy, cx - 2] = expected[0, 0, cy, cx + 2] = size**0.5 / 2
    assert torch.allclose(y, expected, atol=1e-4)


@pytest.mark.parametrize("axis, dimension", [("x", -1), ("y", -2)])
def test_lines_undersample_the_named_axis(axis, dimension):
    op = make((12, 18), axis=axis, mask="random", acceleration=3)
    profile = op.support.amax(-1 if dimension == -2 else -2)
    assert profile.sum() == op.support.shape[dimension] / 3
    assert torch.equal(op.support, (profile[:, None] if axis == "y" else profile).expand(12, 18))


@pytest.mark.parametrize("shape", [(5, 6), (4, 4), (5, 3)])
@pytest.mark.parametrize("complex_image", [False, True])
@pytest.mark.parametrize("mask", ["random", "gaussian2d"])
def test_pinv_is_the_moore_penrose_inverse(shape, complex_image, mask):
    op = make(shape, seed=3, mask=mask, complex_image=complex_image).to(dtype=torch.float64)
    y = torch.randn(1, 1, *shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    expected = np.linalg.pinv(dense(op), rcond=1e-10) @ torch.view_as_real(y).flatten().numpy()
    assert np.allclose(as_reals(op.pinv(y)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("complex_image", [False, True])
def test_prox_solves_its_dense_problem(complex_image):
    op = make((5, 6), seed=1, mask="gaussian2d", complex_image=complex_image).to(dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(1, 1, 5, 6, dtype=op.out_dtype, generator=generator)
    z = torch.randn(1, 1, 5, 6, dtype=op.in_dtype, generator=generator)
    matrix, rho = dense(op), 0.3
    right = matrix.T @ torch.view_as_real(y).flatten().numpy() + rho * as_reals(z)
    expected = np.linalg.solve(matrix.T @ matrix + rho * np.eye(matrix.shape[1]), right)
    assert np.allclose(as_reals(op.prox(z, rho, y)), expected, rtol=0, atol=1e-12)


def test_several_coils_have_no_closed_forms():
    op = make((8, 8), coils=2)
    y = torch.zeros(1, *op.out_shape, dtype=torch.complex64)
    assert op.pinv(y) is None and op.prox(torch.zeros(1, 1, 8, 8), 1.0, y) is None


def test_full_sampling_with_normalised_maps_is_an_isometry():
    op = make((10, 11), acceleration=1, coils=5, complex_image=True).to(dtype=torch.float64)
    x = torch.randn(2, 1, 10, 11, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(op.normal(x), x, atol=1e-6)  # the maps are normalised in single precision


@pytest.mark.parametrize("coils, shape", [(1, (8, 8)), (4, (31, 20)), (12, (64, 64))])
def test_birdcage_maps_are_normalised_and_smooth(coils, shape):
    maps = birdcage_maps(coils, shape)
    assert maps.shape == (coils, *shape) and maps.dtype == np.complex64
    assert np.allclose((np.abs(maps) ** 2).sum(0), 1, atol=1e-6)
    step = max(np.abs(np.diff(maps, axis=axis)).max() for axis in (1, 2))
    assert step < 10 / min(shape)
    if coils > 1:
        brightest = [np.unravel_index(np.abs(m).argmax(), shape) for m in maps]
        assert len(set(brightest)) == coils


@pytest.mark.parametrize("stored", ["lines", "row", "plane", "boolean", "scaled"])
def test_given_masks_are_kept_whatever_their_form(stored):
    lines = np.array([0, 1, 0, 1, 1, 0, 1, 0])
    mask = {
        "lines": lines,
        "row": lines[None],
        "plane": np.tile(lines, (8, 1)),
        "boolean": lines.astype(bool),
        "scaled": 255.0 * lines,
    }[stored]
    op = make((8, 8), given={"mask": mask}, mask="given")
    assert np.array_equal(op.support.numpy(), np.tile(lines, (8, 1)))
    down = make(
        (8, 8), given={"mask": np.tile(lines, (8, 1)).T if mask.ndim == 2 and len(mask) > 1 else lines}, axis="y"
    )
    assert np.array_equal(down.support.numpy(), np.tile(lines, (8, 1)).T)


def test_bad_masks_are_refused():
    for mask, message in (
        (np.ones(9), "shape"),
        (np.ones((8, 7)), "shape"),
        (np.zeros(8), "values"),
        (np.arange(8), "values"),
        (np.full(8, np.nan), "non-finite"),
        (np.ones(8) * 1j, "real"),
    ):
        with pytest.raises(InputError, match=message):
            make((8, 8), given={"mask": mask})
    with pytest.raises(ConfigError, match="without the array 'mask'"):
        make((8, 8), mask="given")


def test_given_maps_decide_the_number_of_coils():
    maps = birdcage_maps(3, (8, 6))
    assert make((8, 6), given={"maps": maps}, maps="given").out_shape == (3, 8, 6)
    with pytest.raises(ConfigError, match="coils = 4"):
        make((8, 6), given={"maps": maps}, coils=4)
    with pytest.raises(InputError, match="maps have shape"):
        make((8, 8), given={"maps": maps})
    with pytest.raises(ConfigError, match="without the array 'maps'"):
        make((8, 6), maps="given")
    with pytest.raises(InputError, match="'maps'"):
        build(OperatorSpec("mri", {"coils": 2}, (1, 8, 6), {"mask": np.ones(6)}))


def test_a_specification_rebuilds_the_same_operator():
    spec = draw("mri", {"coils": 3, "mask": "gaussian", "acs": 0.1}, (1, 12, 20), 5)
    again = OperatorSpec(spec.kind, json.loads(json.dumps(spec.params)), spec.in_shape, spec.arrays)
    x = torch.randn(1, 1, 12, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(build(spec).forward(x), build(again).forward(x))
    same, other = (draw("mri", spec.params, (1, 12, 20), seed) for seed in (5, 6))
    assert np.array_equal(same.arrays["mask"], spec.arrays["mask"])
    assert not np.array_equal(other.arrays["mask"], spec.arrays["mask"])


def test_what_a_measurement_tells():
    fam, params = family("mri"), parse_params("mri", {})
    assert fam.reads_shape(params, {}, (4, 12, 20)) == (1, 12, 20)
    assert fam.reads_shape(params, {}, (12, 20)) is None
    assert fam.never_invented(params) == {"mask"}
    assert fam.never_invented(parse_params("mri", {"coils": 4})) == {"mask", "maps"}
    assert set(asdict(params)) == {"acceleration", "mask", "acs", "axis", "coils", "maps", "complex_image"}


@pytest.mark.parametrize(
    "params", [{"acceleration": 0.5}, {"acs": -1}, {"acs": 1.5}, {"coils": 0}, {"axis": "z"}, {"mask": "spiral"}]
)
def test_bad_parameters_are_refused(params):
    with pytest.raises(ConfigError):
        parse_params("mri", params)


def test_images_of_several_channels_are_refused():
    with pytest.raises(ConfigError, match=r"\(1, Y, X\)"):
        draw("mri", {}, (3, 8, 8), 0)
    with pytest.raises(ConfigError, match=r"\(1, Y, X\)"):
        draw("mri", {}, (1, 4, 8, 8), 0)


@pytest.mark.parametrize("axis", ["x", "y"])
def test_many_lines_and_few_give_the_same(axis, monkeypatch):
    """Where few lines are measured, only those are transformed along their length."""
    x = torch.randn(2, 1, 12, 15, generator=torch.Generator().manual_seed(0))
    few = make((12, 15), acceleration=3.0, axis=axis, coils=3)
    monkeypatch.setattr(cartesian, "FEW_LINES", 0.0)
    whole = make((12, 15), acceleration=3.0, axis=axis, coils=3)
    assert len(few.lines) and not len(whole.lines)
    y = whole.forward(x)
    torch.testing.assert_close(few.forward(x), y)
    torch.testing.assert_close(few.adjoint(y), whole.adjoint(y))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("memory", [1, 2**40])
def test_groups_of_coils_change_nothing(threads, memory, monkeypatch):
    op = make((8, 9), coils=5)
    x = torch.randn(2, 1, 8, 9, generator=torch.Generator().manual_seed(0))
    y, normal = op.forward(x), op.normal(x)
    monkeypatch.setattr(groups, "CACHED_BYTES", memory)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = list(groups.coil_groups(5, x))
    assert [first for first, _ in found][1:] == [last for _, last in found][:-1] and found[-1][1] == 5
    assert len(found) == (5 if memory == 1 else 1)
    torch.testing.assert_close(op.forward(x), y)
    torch.testing.assert_close(op.normal(x), normal)


def test_second_derivatives_go_through():
    op = make((4, 5), coils=2).to(dtype=torch.float64)
    x = torch.randn(1, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for call in (op.forward, op.normal, lambda v: op.adjoint(op.forward(v))):
        assert torch.autograd.gradcheck(call, (x,), check_forward_ad=True) and torch.autograd.gradgradcheck(call, (x,))
