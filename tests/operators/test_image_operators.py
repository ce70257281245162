"""The image operators: battery, refusals, and the way through the registry."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from battery import check_operator
from image_cases import CASES, KERNEL, MASK, SHAPES, image, make, sparse_arrays

from recon.data import OperatorSpec
from recon.errors import ConfigError, InputError
from recon.operators import groups
from recon.operators.blur import trimmed
from recon.operators.catalog import OPERATORS
from recon.operators.convolution import PaddedBlur
from recon.operators.registry import build, draw, family, parse_params

# battery


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("kind", "params", "arrays"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_battery(kind: str, params: dict[str, Any], arrays: dict[str, np.ndarray], shape: tuple[int, ...]) -> None:
    op = make(kind, params, shape, arrays)
    check_operator(op)
    check_operator(op.H)


def test_battery_where_the_shape_is_special() -> None:
    check_operator(make("downsample", {"filter": "box", "factor": 3}, (3, 9, 15)))
    check_operator(make("downsample", {"filter": "gaussian", "factor": 3}, (2, 9, 15)))
    check_operator(make("downsample", {"filter": "array", "factor": 2}, (1, 3, 6, 8), {"kernel": KERNEL}))
    check_operator(make("colour-mix", {}, (3, 5, 7)))
    check_operator(make("colour-mix", {"mix": "matrix", "matrix": [[1, 2], [0, 1], [3, 1]]}, (2, 5, 7)))
    check_operator(make("inpaint", {}, (3, 15, 13), {"mask": np.stack([MASK, 1 - MASK, MASK])}))
    check_operator(make("blur", {"size": 1, "sigma": 1.0}, (1, 1, 1)))


@pytest.mark.parametrize("complex_matrix", [False, True])
@pytest.mark.parametrize("complex_image", [False, True])
def test_battery_of_matrices(complex_matrix: bool, complex_image: bool) -> None:
    shape, params = (2, 3, 5), {"complex_image": complex_image, "out_shape": [3, 4]}
    kind = np.complex128 if complex_matrix else np.float64
    arrays = sparse_arrays(12, 30, dtype=kind)
    dense = scipy.sparse.csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), (12, 30)).toarray()
    sparse_op, dense_op = make("matrix", params, shape, arrays), make("matrix", params, shape, {"matrix": dense})
    for op in (sparse_op, dense_op):
        check_operator(op)
        check_operator(op.H)
        x = np.random.default_rng(0).standard_normal((2, *shape)) * (1 + 0.5j if complex_image else 1)
        y = op.forward(torch.from_numpy(x).to(op.in_dtype)).numpy()
        np.testing.assert_allclose(y, (x.reshape(2, -1) @ dense.T).reshape(2, 3, 4), rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_battery_on_the_gpu() -> None:
    for kind, params, arrays in [*CASES, ("matrix", {}, sparse_arrays(12, 3 * 15 * 13))]:
        check_operator(make(kind, params, (3, 15, 13), arrays), device="cuda")


# refusals


GOOD = {"data": np.ones(3), "indices": np.array([0, 5, 11]), "indptr": np.array([0, 2, 3])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indices": np.array([0, 5, 12])}, "outside"),
        ({"indices": np.array([0, -1, 5])}, "outside"),
        ({"indices": np.array([0, 5, 2**63], np.uint64)}, "outside"),
        ({"indices": np.array([0.0, 5.0, 6.0])}, "integers"),
        ({"indices": np.array([0, 5])}, "do not fit"),
        ({"indptr": np.array([0, 2, 99])}, "do not fit"),
        ({"indptr": np.array([1, 2, 3])}, "do not fit"),
        ({"indptr": np.array([0, 9, 3])}, "decreases"),
        ({"indptr": np.array([0, -7, 3])}, "decreases"),
        ({"indptr": np.array([0, 9, 3], np.uint64)}, "decreases"),
        ({"indptr": np.array([[0, 3]])}, "one axis"),
        ({"indptr": np.array([], int)}, "empty"),
        ({"data": np.array([1.0, np.nan, 2.0])}, "non-finite"),
        ({"data": np.array(["a", "b", "c"])}, "type"),
        ({"data": np.array([None, None, None])}, "type"),
    ],
)
def test_hostile_sparse_matrices_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    draw("matrix", {}, (1, 3, 4), 0, GOOD)
    with pytest.raises(InputError, match=message):
        draw("matrix", {}, (1, 3, 4), 0, GOOD | change)
    with pytest.raises(InputError, match=message):
        build(OperatorSpec("matrix", {}, (1, 3, 4), GOOD | change))


@pytest.mark.parametrize(
    ("kind", "params", "shape", "arrays", "error", "message"),
    [
        ("inpaint", {"size": 0}, (1, 9, 9), {}, ConfigError, "size = 0"),
        ("inpaint", {"size": 1.5}, (1, 9, 9), {}, ConfigError, "size = 1.5"),
        ("inpaint", {"margin": -1}, (1, 9, 9), {}, ConfigError, "margin = -1"),
        ("inpaint", {"size": 8, "margin": 2}, (1, 9, 9), {}, ConfigError, "does not fit"),
        ("inpaint", {"size": 9, "margin": 0}, (1, 9, 9), {}, ConfigError, "leaves no pixel"),
        ("inpaint", {"missing": 0.5, "kept": 0.5}, (1, 9, 9), {}, ConfigError, "not both"),
        ("inpaint", {"mask": "random", "missing": [0.7, 0.3]}, (1, 9, 9), {}, ConfigError, "no fraction"),
        ("inpaint", {"mask": "random", "missing": 1.0}, (1, 9, 9), {}, ConfigError, "leaves no pixel"),
        ("inpaint", {"mask": "random", "missing": float("nan")}, (1, 9, 9), {}, ConfigError, "no fraction"),
        ("inpaint", {"mask": "array"}, (1, 9, 9), {}, ConfigError, "without the array"),
        ("inpaint", {"mask": "star"}, (1, 9, 9), {}, ConfigError, "parameter mask"),
        ("inpaint", {}, (1, 9, 9), {"mask": np.ones((9, 8))}, InputError, r"expected \(9, 9\)"),
        ("inpaint", {}, (1, 9, 9), {"mask": np.zeros((9, 9))}, InputError, "no measured pixel"),
        ("inpaint", {}, (1, 9, 9), {"mask": np.arange(81).reshape(9, 9)}, InputError, "different values"),
        ("inpaint", {}, (1, 9, 9), {"masks": np.ones((9, 9))}, ConfigError, "takes no array"),
        ("inpaint", {}, (9, 9), {}, ConfigError, "image shape"),
        ("downsample", {"factor": 0}, (1, 9, 9), {}, ConfigError, "factor = 0"),
        ("downsample", {"factor": 10}, (1, 9, 9), {}, ConfigError, "leaves nothing"),
        ("downsample", {"factor": 2, "filter": "box"}, (1, 9, 8), {}, ConfigError, "needs sides that 2 divides"),
        ("downsample", {"factor": 2, "filter": "gaussian"}, (1, 9, 8), {}, ConfigError, "needs sides that 2 divides"),
        ("downsample", {"filter": "gaussian"}, (1, 4, 4), {}, ConfigError, "larger than the image"),
        ("downsample", {"size": 4}, (1, 8, 8), {}, ConfigError, "size = 4"),
        ("downsample", {"sigma": 0}, (1, 8, 8), {}, ConfigError, "sigma = 0"),
        ("downsample", {"filter": "array"}, (1, 8, 8), {}, ConfigError, "without the array"),
        ("downsample", {"filter": "array"}, (1, 8, 8), {"kernel": np.ones(3)}, InputError, "downsample kernel"),
        ("downsample", {}, (1, 8, 8), {"kernel": np.ones((3, 3))}, ConfigError, "takes no array"),
        ("blur", {}, (1, 32, 32), {}, ConfigError, "larger than the image"),
        ("blur", {}, (1, 9, 9), {"kernel": np.ones((3, 10))}, ConfigError, "larger than the image"),
        ("blur", {"size": 4}, (1, 9, 9), {}, ConfigError, "size = 4"),
        ("blur", {"size": 3, "sigma": 0}, (1, 9, 9), {}, ConfigError, "sigma = 0"),
        ("blur", {"size": 3, "intensity": 2}, (1, 9, 9), {}, ConfigError, "intensity = 2"),
        ("blur", {"kernel": "array"}, (1, 9, 9), {}, ConfigError, "without the array"),
        ("blur", {}, (1, 9, 9), {"kernel": np.ones(3)}, InputError, "no \\(k, k\\) array"),
        ("blur", {}, (1, 9, 9), {"kernel": np.zeros((3, 3))}, InputError, "not all zero"),
        ("blur", {}, (1, 9, 9), {"kernel": np.full((3, 3), np.inf)}, InputError, "non-finite"),
        ("blur", {}, (1, 9, 9), {"kernel": np.full((3, 3), 1j)}, InputError, "real numbers"),
        ("blur", {"normalise": True}, (1, 9, 9), {"kernel": np.eye(2) - 0.5}, InputError, "not positive"),
        ("colour-mix", {}, (1, 9, 9), {}, ConfigError, "needs 3 channels"),
        ("colour-mix", {"mix": "matrix"}, (3, 9, 9), {}, ConfigError, "without one"),
        ("colour-mix", {"matrix": [[1, 1, 1]]}, (3, 9, 9), {}, ConfigError, "mix = 'luma'"),
        ("colour-mix", {"mix": "matrix", "matrix": [[1, 2], [1]]}, (2, 9, 9), {}, ConfigError, "differ in length"),
        ("colour-mix", {"mix": "matrix", "matrix": [[1, 2]]}, (3, 9, 9), {}, InputError, r"expected \(C_out, 3\)"),
        ("colour-mix", {}, (3, 9, 9), {"matrix": np.zeros((1, 3))}, InputError, "zero"),
        ("matrix", {}, (1, 3, 4), {}, ConfigError, "without a matrix"),
        ("matrix", {}, (1, 3, 4), {"matrix": np.ones((5, 11))}, InputError, "12 entries"),
        ("matrix", {}, (1, 3, 4), {"matrix": np.ones(12)}, InputError, "expected \\(rows, columns\\)"),
        ("matrix", {}, (1, 3, 4), {"matrix": np.ones((2, 12)), **GOOD}, InputError, "dense and a sparse"),
        ("matrix", {}, (1, 3, 4), {"data": np.ones(3)}, InputError, "no array 'indices'"),
        ("matrix", {"out_shape": [3]}, (1, 3, 4), GOOD, InputError, "2 rows"),
        ("matrix", {"out_shape": [-1, 2]}, (1, 3, 4), GOOD, ConfigError, "out_shape"),
    ],
)
def test_refusals(
    kind: str,
    params: dict[str, Any],
    shape: tuple[int, ...],
    arrays: dict[str, np.ndarray],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        draw(kind, params, shape, 0, arrays)


@pytest.mark.parametrize("kind", ["inpaint", "blur", "colour-mix", "matrix"])
def test_a_specification_without_its_arrays_is_refused(kind: str) -> None:
    with pytest.raises(InputError, match="has no array"):
        build(OperatorSpec(kind, {}, (3, 70, 70)))


# registry


@pytest.mark.parametrize(("kind", "params", "arrays"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_specifications_survive_json_and_build_the_same(
    kind: str, params: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    shape = (3, 15, 13)
    state = np.random.get_state()[1].copy(), torch.get_rng_state()
    spec, twin = (draw(kind, params, shape, 5, arrays) for _ in range(2))
    reread = OperatorSpec(kind, json.loads(json.dumps(spec.params)), spec.in_shape, spec.arrays)
    for name, array in spec.arrays.items():
        np.testing.assert_array_equal(array, twin.arrays[name])
    again = draw(kind, spec.params, shape, 99, spec.arrays)
    x = image(*shape).float()
    first = build(spec).forward(x)
    for other in (spec, twin, reread, again):
        assert torch.equal(build(other).forward(x), first)
    np.testing.assert_array_equal(state[0], np.random.get_state()[1])
    assert torch.equal(state[1], torch.get_rng_state())


@pytest.mark.parametrize(("kind", "params", "arrays"), CASES, ids=lambda v: v if isinstance(v, str) else "")
def test_the_image_shape_is_read_from_the_measurement(
    kind: str, params: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    shape = (3, 36, 24)
    spec = draw(kind, params, shape, 0, arrays)
    reads = family(kind).reads_shape
    assert reads is not None
    found = reads(parse_params(kind, spec.params), spec.arrays, build(spec).out_shape)
    assert found == shape
    if kind in ("colour-mix", "blur"):
        hostile = {name: np.ones(3) for name in spec.arrays}
        assert reads(parse_params(kind, spec.params), hostile, (3, 36, 24)) in (None, (3, 36, 24))


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("inpaint", {}),
        ("inpaint", {"mask": "random"}),
        ("inpaint", {"position": "centre", "size": 0.2, "size_max": 0.8}),
        ("blur", {"kernel": "motion", "size": 9}),
    ],
)
def test_random_parts_follow_the_seed_and_must_come_with_data(kind: str, params: dict[str, Any]) -> None:
    (name,) = family(kind).never_invented(parse_params(kind, params))
    drawn = [draw(kind, params, (1, 30, 30), seed).arrays[name] for seed in range(4)]
    assert not all(np.array_equal(drawn[0], other) for other in drawn[1:])


def test_fixed_parts_need_not_come_with_data() -> None:
    for kind, params in (("inpaint", {"position": "centre"}), ("blur", {}), ("denoise", {}), ("downsample", {})):
        assert family(kind).never_invented(parse_params(kind, params)) == frozenset()
    assert family("downsample").never_invented(parse_params("downsample", {"filter": "array"})) == {"kernel"}
    assert {"denoise", "inpaint", "downsample", "blur", "colour-mix", "matrix"} <= set(OPERATORS)


@pytest.mark.parametrize("shape", [(7, 7), (6, 9), (8, 8), (1, 5)])
def test_a_kernel_without_its_zeros_blurs_the_same(shape):
    rng = np.random.default_rng(0)
    for _ in range(20):
        kernel = np.zeros(shape)
        kernel[rng.integers(shape[0]), rng.integers(shape[1])] = 1.0
        kernel[shape[0] // 2, rng.integers(shape[1])] += 0.5
        small = trimmed(kernel)
        assert small.size <= kernel.size and small.sum() == kernel.sum()
        first, second = (PaddedBlur((1, 12, 11), torch.from_numpy(k), "reflect") for k in (kernel, small))
        x = torch.from_numpy(rng.standard_normal((1, 1, 12, 11)))
        torch.testing.assert_close(first.forward(x), second.forward(x), rtol=0, atol=1e-12)
    assert trimmed(np.pad(np.ones((3, 3)), 2)).shape == (3, 3)


@pytest.mark.parametrize("boundary", ["reflect", "valid", "circular"])
def test_planes_in_groups_are_blurred_the_same(boundary, monkeypatch):
    op = make("blur", {"size": 5, "kernel": "motion", "boundary": boundary}, (3, 12, 10))
    x = torch.randn(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    whole = op.forward(x), op.normal(x), op.adjoint(op.forward(x))
    monkeypatch.setattr(groups, "CACHED_BYTES", 1)
    for found, expected in zip((op.forward(x), op.normal(x), op.adjoint(op.forward(x))), whole, strict=True):
        torch.testing.assert_close(found, expected)
