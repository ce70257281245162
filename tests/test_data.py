"""Volumes: named axes, the way to the stack (N, C, Y, X) and back, and slices that stay where they lie."""

from __future__ import annotations

from itertools import chain, combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.data import Geometry, Volume, from_stack, take_item, to_stack
from recon.errors import InputError

EXTRA = ("n", "z", "c")
ORDERS = [
    order
    for names in chain.from_iterable(combinations(EXTRA, k) for k in range(3))
    if not {"n", "z"} <= set(names)
    for order in permutations((*names, "y", "x"))
]
FEW = settings(max_examples=60, deadline=None)


def volume(axes: tuple[str, ...], sizes: dict[str, int], affine: np.ndarray | None = None) -> Volume:
    """A volume whose every value is different."""
    shape = tuple(sizes[a] for a in axes)
    return Volume(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), Geometry(axes, affine))


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        (("y", "x"), (2, 3, 4)),
        (("z", "y", "x"), (2, 3)),
        (("y", "y"), (2, 3)),
        (("t", "y", "x"), (2, 3, 4)),
        ((), (2,)),
    ],
)
def test_axes_that_do_not_name_the_dimensions_are_refused(axes, shape):
    with pytest.raises(InputError, match="do not name") as caught:
        Volume(np.zeros(shape), Geometry(axes))
    assert str(shape) in caught.value.message and "--axes" in str(caught.value.hint)


@FEW
@given(st.sampled_from(ORDERS), st.lists(st.integers(1, 4), min_size=5, max_size=5))
def test_stack_and_back_is_the_identity_for_every_order_of_axes(axes, lengths):
    sizes = dict(zip(("n", "z", "c", "y", "x"), lengths, strict=True))
    original = volume(axes, sizes)
    stack = to_stack(original)
    expected = [sizes[a] if a in axes else 1 for a in ("c", "y", "x")]
    items = sizes["n"] if "n" in axes else sizes["z"] if "z" in axes else 1
    assert stack.shape == (items, *expected) and stack.flags.c_contiguous
    back = from_stack(stack, original.geometry)
    assert back.geometry is original.geometry and back.array.flags.c_contiguous
    np.testing.assert_array_equal(back.array, original.array)


@FEW
@given(st.sampled_from(list(permutations(("n", "z", "c", "y", "x")))), st.data())
def test_each_entry_goes_where_its_names_say(axes, data):
    """Items count n first and z fastest, whatever the order in the file."""
    sizes = {"n": 2, "z": 3, "c": 2, "y": 4, "x": 5}
    original = volume(axes, sizes)
    at = {a: data.draw(st.integers(0, n - 1)) for a, n in sizes.items()}
    value = original.array[tuple(at[a] for a in axes)]
    assert to_stack(original)[at["n"] * 3 + at["z"], at["c"], at["y"], at["x"]] == value


def test_stack_keeps_the_type():
    stack = to_stack(Volume(np.zeros((3, 2), np.complex64), Geometry(("x", "y"))))
    assert stack.dtype == np.complex64 and stack.shape == (1, 1, 2, 3)


@pytest.mark.parametrize("axes", [("z", "y"), ("x",), ("n", "c", "x")])
def test_an_image_without_rows_or_columns_has_no_stack(axes):
    with pytest.raises(InputError, match="expected axes y and x"):
        to_stack(Volume(np.zeros((2,) * len(axes)), Geometry(axes)))


@pytest.mark.parametrize(
    ("shape", "axes", "words"),
    [
        ((1, 3, 4, 5), ("y", "x"), "3 channels do not fit"),
        ((2, 1, 4, 5), ("y", "x"), "2 slices do not fit"),
        ((2, 3, 4, 5), ("c", "y", "x"), "2 slices do not fit"),
        ((2, 1, 4, 5), ("n", "z", "y", "x"), "both n and z"),
    ],
)
def test_a_stack_that_does_not_fit_the_axes_is_refused(shape, axes, words):
    with pytest.raises(InputError, match=words):
        from_stack(np.zeros(shape), Geometry(axes))


@FEW
@given(
    st.sampled_from([o for o in ORDERS if "z" in o]),
    st.lists(st.floats(-3, 3), min_size=12, max_size=12),
    st.integers(1, 4),
    st.data(),
)
def test_the_world_coordinate_of_a_voxel_is_that_of_its_slice(axes, numbers, depth, data):
    affine = np.vstack([np.array(numbers).reshape(3, 4), [0, 0, 0, 1]])
    kept = affine.copy()
    sizes = {"z": depth, "c": 2, "y": 3, "x": 4}
    whole = volume(axes, sizes, affine)
    index = data.draw(st.integers(-depth, depth - 1))
    one = take_item(whole, index)
    assert one.geometry.axes == axes and one.array.shape[axes.index("z")] == 1
    np.testing.assert_array_equal(one.array, whole.array.take([index], axis=axes.index("z")))
    x, y, z = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 2)), index % depth
    np.testing.assert_allclose(one.geometry.affine @ [x, y, 0, 1], affine @ [x, y, z, 1], atol=1e-12)
    np.testing.assert_array_equal(whole.geometry.affine, kept)


def test_an_item_that_is_no_slice_keeps_its_place():
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    one = take_item(volume(("n", "y", "x"), {"n": 3, "y": 2, "x": 2}, affine), 2)
    np.testing.assert_array_equal(one.geometry.affine, affine)
    np.testing.assert_array_equal(one.array, [[[8, 9], [10, 11]]])


@pytest.mark.parametrize("index", [3, -4, 100])
def test_an_index_outside_the_slices_is_refused(index):
    with pytest.raises(InputError, match=r"outside 0\.\.2"):
        take_item(volume(("z", "y", "x"), {"z": 3, "y": 2, "x": 2}), index)


def test_an_image_without_slices_has_none_to_choose():
    with pytest.raises(InputError, match="no slices") as caught:
        take_item(volume(("y", "x", "c"), {"y": 2, "x": 2, "c": 3}), 0)
    assert "--index" in str(caught.value.hint)
