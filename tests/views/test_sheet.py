"""Sheets: where panels stand, what is drawn around them, and the PNG bytes."""

import io

import numpy as np
import pytest
from PIL import Image

from recon.errors import InputError
from recon.views.colour import EMBER, ember, grey
from recon.views.comparison import Compared, comparison, comparison_png
from recon.views.layout import GAP, MARGIN, TITLE, Row, compose, number
from recon.views.png import encode_png
from recon.views.sheet import sheet, spaced, view_volume

TOP = MARGIN + TITLE + GAP // 2  # of the first panel under a title


def image(rows: int = 260, columns: int = 300, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, columns))


def find(picture: np.ndarray, panel: np.ndarray) -> list[tuple[int, int]]:
    """Return the places (row, column) where the panel stands in the picture, unchanged."""
    height, width = panel.shape[:2]
    places = []
    for y in range(picture.shape[0] - height + 1):
        for x in np.flatnonzero((picture[y, : picture.shape[1] - width + 1] == panel[0, 0]).all(axis=1)):
            if np.array_equal(picture[y : y + height, x : x + width], panel):
                places.append((y, int(x)))
    return places


def test_panels_stand_unchanged_in_one_window() -> None:
    first, second = image(), 0.5 * image(seed=1)
    picture = sheet([first, second], ["a", "b"], ["20.0 dB", "30.0 dB"], (0.0, 1.0))
    assert picture.dtype == np.uint8
    assert find(picture, grey(0, 1).colour(first)) == [(TOP, MARGIN)]
    assert find(picture, grey(0, 1).colour(second)) == [(TOP, MARGIN + 300 + GAP)]


def test_titles_and_captions_are_drawn() -> None:
    blank = sheet([image()], [" "], [" "], (0.0, 1.0))
    titled, captioned = (sheet([image()], [t], [c], (0.0, 1.0)) for t, c in (("TV", " "), (" ", "24.2 dB")))
    changed = [np.argwhere((other != blank).any(axis=2)) for other in (titled, captioned)]
    assert changed[0][:, 0].max() < TOP
    assert changed[1][:, 0].min() >= TOP + 260
    for places in changed:  # about the panel's centre
        assert abs((places[:, 1].min() + places[:, 1].max()) / 2 - (MARGIN + 150)) < 4


@pytest.mark.parametrize(
    "title", ["TV (oracle) 24.2 dB", "a title much too long for a panel of three hundred pixels " * 3]
)
def test_titles_stay_within_their_panel(title: str) -> None:
    pictures = [sheet([image(), image()], [t, " "], [], (0.0, 1.0)) for t in (title, " ")]
    columns = np.argwhere((pictures[0] != pictures[1]).any(axis=2))[:, 1]
    assert columns.min() >= MARGIN
    assert columns.max() <= MARGIN + 300


def test_small_panels_are_magnified_by_whole_pixels() -> None:
    pixels = image(28, 20)
    panel = grey(0, 1).colour(pixels).repeat(9, axis=0).repeat(9, axis=1)
    assert find(sheet([pixels], [], [], (0.0, 1.0)), panel) == [(MARGIN, MARGIN)]


def test_panels_of_half_size_are_doubled() -> None:
    flat = np.full((208, 176), 0.5)
    assert find(sheet([flat], [], [], (0.0, 1.0)), np.full((416, 352, 3), 128, np.uint8)) == [(MARGIN, MARGIN)]


def test_large_panels_are_reduced_to_512() -> None:
    picture = sheet([np.full((1024, 700), 0.5)], [], [], (0.0, 1.0))
    assert picture.shape[0] == 512 + 2 * MARGIN
    assert find(picture, np.full((512, 350, 3), 128, np.uint8)) == [(MARGIN, MARGIN)]


def test_rows_break_after_the_columns() -> None:
    images = [image(seed=i) for i in range(3)]
    picture = sheet(images, ["a", "b", "c"], [], (0.0, 1.0), columns=2)
    below = TOP + 260 + GAP + TITLE + GAP // 2
    assert find(picture, grey(0, 1).colour(images[2])) == [(below, MARGIN)]


def test_colour_bar_runs_from_high_to_low() -> None:
    picture = compose([Row([ember(3.0).colour(image())], scales=(ember(3.0),))])
    bar = picture[MARGIN : MARGIN + 260, MARGIN + 300 + GAP + 5]
    assert bar[0].tolist() == EMBER[-1].tolist()
    assert bar[-1].tolist() == EMBER[0].tolist()
    assert bar[129].tolist() in (EMBER[128].tolist(), EMBER[129].tolist())


def test_maps_are_not_interpolated() -> None:
    values = image(208, 176)
    panel = ember(1.0).colour(values)
    picture = compose([Row([panel], smooth=False)])
    assert find(picture, panel.repeat(2, axis=0).repeat(2, axis=1)) == [(MARGIN, MARGIN)]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1e-17, "0"), (0.03125, "0.0312"), (255.0, "255"), (1234.0, "1.23e+03"), (-1.5, "-1.5")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_refusals() -> None:
    with pytest.raises(InputError, match="one size"):
        sheet([image(), image(100, 100)], [], [], (0.0, 1.0))
    with pytest.raises(InputError, match="one size, got none"):
        compose([Row([None])])
    with pytest.raises(InputError, match="1 panels got 2 titles"):
        sheet([image()], ["a", "b"], [], (0.0, 1.0))


def test_evenly_spaced_slices() -> None:
    assert spaced(10, 3) == [1, 5, 8]
    assert spaced(2, 12) == [0, 1]
    assert spaced(181, 1) == [90]


def test_volume_shows_its_slices_in_one_window() -> None:
    stack = np.stack([np.full((1, 300, 256), float(k)) for k in range(3)])
    picture = view_volume(stack, count=3, window=(0.0, 4.0))
    for k in range(3):
        level = grey(0, 4).levels(np.array([float(k)]))[0]
        x = MARGIN + k * (256 + GAP)
        assert (picture[TOP : TOP + 300, x : x + 256] == level).all()


def comparison_case() -> tuple[np.ndarray, list[Compared]]:
    truth = np.stack([image(seed=i)[None] for i in range(3)])
    return truth, [Compared("zero-filled", truth + 0.2), Compared("TV (oracle)", truth - 0.1)]


def test_comparison_shows_images_over_errors() -> None:
    truth, compared = comparison_case()
    picture = comparison(truth, compared, ["14.0 dB", "20.0 dB"], limit=0.4, window=(0.0, 1.0))
    ((y, x),) = find(picture, grey(0, 1).colour(truth[1, 0]))  # the middle slice
    ((y1, x1),) = find(picture, grey(0, 1).colour(truth[1, 0] - 0.1))
    assert (y1, x1) == (y, x + 2 * (300 + GAP))
    below = y + 260 + 40
    errors = [picture[below + 100, x + k * (300 + GAP) + 150].tolist() for k in (1, 2)]
    assert errors == [EMBER[128].tolist(), EMBER[64].tolist()]
    assert picture[below + 100, x + 150].tolist() == [255, 255, 255]  # no error map under the truth


def test_comparison_shows_the_std_in_the_errors_colours_below_the_truth() -> None:
    truth, compared = comparison_case()
    picture = comparison(truth, compared, std=np.full_like(truth, 0.2), limit=0.4, window=(0.0, 1.0), index=0)
    ((y, x),) = find(picture, grey(0, 1).colour(truth[0, 0]))
    assert picture[y + 260 + 140, x + 150].tolist() == EMBER[128].tolist()


def test_comparison_refuses_what_does_not_match() -> None:
    truth, compared = comparison_case()
    with pytest.raises(InputError, match="TV has shape"):
        comparison(truth, [Compared("TV", truth[:, :, 1:])])
    with pytest.raises(InputError, match="2 reconstructions got 1 captions"):
        comparison(truth, compared, ["a"])
    with pytest.raises(InputError, match="slice 4 is not among the 3"):
        comparison(truth, compared, index=3)


def test_png_bytes_hold_the_picture_and_its_text() -> None:
    picture = comparison(*comparison_case(), flip_rows=True)
    data = comparison_png(*comparison_case(), flip_rows=True)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), picture)
    noted = encode_png(picture, {"Command": "recon view a.nii b.png"})
    assert Image.open(io.BytesIO(noted)).text == {"Command": "recon view a.nii b.png"}  # type: ignore[attr-defined]
    assert encode_png(picture) == data
