"""Mosaics of small images."""

from __future__ import annotations

import numpy as np
import pytest

from recon.errors import InputError
from recon.views.mosaic import GAP, mosaic


def test_images_stand_in_rows_in_one_window():
    images = [np.full((1, 4, 6), value) for value in (-1.0, 0.0, 1.0)]
    page = mosaic(images, (-1.0, 1.0), columns=2, magnify=3)
    assert page.shape == (2 * 12 + GAP, 2 * 18 + GAP, 3) and page.dtype == np.uint8
    assert page[0, 0, 0] == 0 and page[0, 18 + GAP, 0] in (127, 128) and page[12 + GAP, 0, 0] == 255
    assert (page[12 : 12 + GAP] == 255).all() and (page[12 + GAP :, 18 + GAP :] == 255).all()


def test_colour_is_kept_and_a_pixel_becomes_a_square():
    image = np.stack([np.eye(2), np.zeros((2, 2)), np.ones((2, 2))])
    page = mosaic([image], (0.0, 1.0), columns=4, magnify=2)
    assert page.shape == (4, 4, 3)
    np.testing.assert_array_equal(page[:2, :2], np.broadcast_to([255, 0, 255], (2, 2, 3)))
    np.testing.assert_array_equal(page[:2, 2:], np.broadcast_to([0, 0, 255], (2, 2, 3)))


def test_sizes_must_agree():
    with pytest.raises(InputError, match="one size"):
        mosaic([np.zeros((1, 2, 2)), np.zeros((1, 2, 3))], (0.0, 1.0), 2)
    with pytest.raises(InputError, match="none"):
        mosaic([], (0.0, 1.0), 2)
