"""From images to panels: grey or RGB images in one window, maps of error and of standard deviation."""

from __future__ import annotations

import numpy as np

from recon.errors import InputError
from recon.views.colour import Scale, ember, grey

Window = tuple[float, float]


def image_panel(image: np.ndarray, window: Window, flip_rows: bool = False) -> np.ndarray:
    """Return an image (Y, X) or (C, Y, X) as RGB (Y, X, 3), uint8, black and white at the ends of `window`.

    One channel is shown in grey, three are red, green and blue; complex values by magnitude. flip_rows: draw the first
    row at the bottom, as anatomical images in NIfTI order want it. Raises InputError on any other number of channels.
    """
    channels = _channels(image)
    scale = grey(*window)
    if channels.shape[0] == 1:
        panel = scale.colour(channels[0])
    elif channels.shape[0] == 3:
        panel = np.moveaxis(scale.levels(channels), 0, -1)
    else:
        raise InputError(f"a picture shows 1 or 3 channels, got {channels.shape[0]}", "choose one channel")
    return flipped(panel, flip_rows)


def error_image(recon: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return |recon - truth|, (Y, X), of images (Y, X) or (C, Y, X): root mean square over channels.

    Complex images are compared by magnitude where the truth is real. Raises InputError on mismatched shapes.
    """
    if recon.shape != truth.shape:
        raise InputError(f"an error map needs images of one shape, got {recon.shape} and {truth.shape}")
    if np.iscomplexobj(recon) and not np.iscomplexobj(truth):
        recon = np.abs(recon)
    difference = np.abs(np.subtract(recon, truth, dtype=np.result_type(recon, truth, np.float64)))
    return difference if difference.ndim == 2 else np.sqrt((difference**2).mean(axis=0))


def error_map(recon: np.ndarray, truth: np.ndarray, limit: float, flip_rows: bool = False) -> np.ndarray:
    """Return |recon - truth| as RGB (Y, X, 3), uint8, in "ember" from 0 (black) to `limit` (pale yellow)."""
    return flipped(error_scale(limit).colour(error_image(recon, truth)), flip_rows)


def std_map(std: np.ndarray, limit: float, flip_rows: bool = False) -> np.ndarray:
    """Return a standard deviation (Y, X) or (C, Y, X) as RGB, like `error_map`: root mean square over channels."""
    return error_map(std, np.zeros_like(std), limit, flip_rows)


def error_scale(limit: float, label: str = "") -> Scale:
    """Return the scale of `error_map` and `std_map`, for its colour bar."""
    return ember(limit, label)


def shared_window(truth: np.ndarray) -> Window:
    """Return the one window in which a truth and its reconstructions are shown: min(0, smallest) to largest value.

    The largest is the 99.9 % quantile, so that single bright pixels do not darken the rest.
    """
    values = np.abs(truth) if np.iscomplexobj(truth) else truth
    low, high = min(0.0, float(values.min())), float(np.quantile(values, 0.999))
    return (low, high) if high > low else (low, max(float(values.max()), low + 1.0))


def shared_limit(errors: list[np.ndarray]) -> float:
    """Return the one limit of all error maps: their pooled 98 % quantile, rounded up to two digits."""
    top = float(np.quantile(np.concatenate([e.ravel() for e in errors]), 0.98))
    if not top > 0:
        return 1.0
    unit = 10.0 ** (np.floor(np.log10(top)) - 1)
    return float(np.ceil(top / unit - 1e-9) * unit)


def flipped(panel: np.ndarray, flip_rows: bool) -> np.ndarray:
    """Return a panel, its first row at the bottom if `flip_rows`."""
    return panel[::-1] if flip_rows else panel


def _channels(image: np.ndarray) -> np.ndarray:
    """Return an image as real (C, Y, X)."""
    if image.ndim not in (2, 3):
        raise InputError(f"a picture needs an image (Y, X) or (C, Y, X), got shape {image.shape}", "choose one slice")
    real = np.abs(image) if np.iscomplexobj(image) else image
    return real[None] if real.ndim == 2 else real
