"""Planes: which voxels they show and how long; frames: one a slice, for their time."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from recon.errors import InputError
from recon.views.colour import grey
from recon.views.gif import encode_gif
from recon.views.layout import GAP, MARGIN, TITLE
from recon.views.planes import planes

SIDE = 256


def volume(slices: int = SIDE) -> np.ndarray:
    return np.random.default_rng(0).random((slices, 1, SIDE, SIDE))


def panel(picture: np.ndarray, index: int) -> np.ndarray:
    top, left = MARGIN + TITLE + GAP // 2, MARGIN + index * (SIDE + GAP)
    return picture[top : top + SIDE, left : left + SIDE]


def test_the_middle_planes_stand_with_the_first_slice_at_the_bottom():
    stack, middle = volume(), SIDE // 2
    picture, show = planes(stack, window=(0.0, 1.0)), grey(0, 1).colour
    assert np.array_equal(panel(picture, 0), show(stack[middle, 0]))
    assert np.array_equal(panel(picture, 1), show(stack[::-1, 0, middle]))
    assert np.array_equal(panel(picture, 2), show(stack[::-1, 0, :, middle]))
    flipped = planes(stack, window=(0.0, 1.0), flip_rows=True)
    assert np.array_equal(panel(flipped, 0), show(stack[middle, 0, ::-1]))


def test_thick_slices_are_as_long_as_they_are():
    stack = volume(slices=64)
    picture = planes(stack, spacing=(3.0, 1.0, 1.0), window=(0.0, 1.0))
    drawn = panel(picture, 1)
    black, rows = (SIDE - 192) // 2, stack[::-1, 0, SIDE // 2].repeat(3, axis=0)
    assert (drawn[:black] == 0).all() and (drawn[SIDE - black :] == 0).all()
    assert np.array_equal(drawn[black : black + 192], grey(0, 1).colour(rows))


def test_a_single_slice_has_no_planes():
    with pytest.raises(InputError, match="several slices"):
        planes(volume(slices=1))


def test_every_frame_has_its_time_even_if_nothing_changes():
    same, other = np.zeros((8, 9, 3), np.uint8), np.full((8, 9, 3), 200, np.uint8)
    found = Image.open(io.BytesIO(encode_gif([same, other, other, same], seconds=0.2)))
    times = []
    for index in range(found.n_frames):
        found.seek(index)
        times.append(found.info["duration"])
    assert sum(times) == 800 and found.size == (9, 8) and found.info["loop"] == 0
