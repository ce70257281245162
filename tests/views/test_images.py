"""Panels, error maps and their shared window and limit."""

import numpy as np
import pytest

from recon.errors import InputError
from recon.views.colour import EMBER
from recon.views.images import error_image, error_map, image_panel, shared_limit, shared_window, std_map

RAMP = np.array([[0.0, 1.0], [2.0, 4.0]])


def test_grey_panel_and_flip() -> None:
    panel = image_panel(RAMP, (0, 4))
    assert panel.dtype == np.uint8
    assert panel[..., 1].tolist() == [[0, 64], [128, 255]]
    assert image_panel(RAMP, (0, 4), flip_rows=True)[..., 1].tolist() == [[128, 255], [0, 64]]


def test_a_window_is_never_that_of_the_panel() -> None:
    assert image_panel(RAMP / 2, (0, 4)).max() == 128


def test_colour_panel_keeps_its_channels() -> None:
    image = np.stack([RAMP, 0 * RAMP, RAMP[::-1]])
    assert image_panel(image, (0, 4))[0, 1].tolist() == [64, 0, 255]


def test_complex_images_show_their_magnitude() -> None:
    np.testing.assert_array_equal(image_panel(RAMP * 1j, (0, 4)), image_panel(RAMP, (0, 4)))


@pytest.mark.parametrize("shape", [(2, 4, 4), (4, 4, 4), (1, 1, 4, 4), (4,)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="picture"):
        image_panel(np.zeros(shape), (0, 1))


def test_error_image_by_hand() -> None:
    truth = np.zeros((3, 1, 2))
    recon = truth.copy()
    recon[:, 0, 0] = [3.0, -4.0, 0.0]
    np.testing.assert_allclose(error_image(recon, truth), [[5 / 3**0.5, 0.0]])
    assert error_image(np.array([[1 + 1j]]), np.array([[1 - 1j]])) == 2.0  # both complex: phase counts
    assert error_image(np.array([[-2j]]), np.array([[2.0]])) == 0.0


def test_unsigned_images_do_not_wrap_around() -> None:
    assert error_image(np.array([[1]], np.uint8).astype(float), np.array([[3.0]])) == 2.0
    assert error_image(np.array([[1]], np.uint8), np.array([[3]], np.uint8)) == 2.0


def test_error_and_std_map_colours() -> None:
    assert error_map(RAMP, np.zeros((2, 2)), 4.0)[1].tolist() == EMBER[[128, 255]].tolist()
    np.testing.assert_array_equal(std_map(RAMP, 4.0, flip_rows=True), error_map(RAMP, 0 * RAMP, 4.0)[::-1])
    with pytest.raises(InputError, match="one shape"):
        error_map(RAMP, np.zeros((2, 3)), 1.0)


def test_shared_window() -> None:
    assert shared_window(np.linspace(0, 100, 1001)) == (0.0, pytest.approx(99.9))
    assert shared_window(np.linspace(-1000, 3000, 4001))[0] == -1000.0
    assert shared_window(np.array([0.0, 3 + 4j]))[1] == pytest.approx(5.0, rel=0.01)
    assert shared_window(np.zeros(5)) == (0.0, 1.0)


def test_shared_limit_is_rounded_up() -> None:
    assert shared_limit([np.full(10, 0.0312), np.full(10, 0.01)]) == pytest.approx(0.032)
    assert shared_limit([np.full(10, 250.0)]) == pytest.approx(250.0)
    assert shared_limit([np.zeros(10)]) == 1.0
