"""Frames as the bytes of an animated GIF."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np


def encode_gif(frames: Sequence[np.ndarray], seconds: float = 0.12) -> bytes:
    """Return RGB frames (Y, X, 3), uint8, of one size as a GIF that repeats; each is shown for `seconds`."""
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in frames]
    stream = io.BytesIO()
    # a frame like the one before is kept: every slice has its time
    pictures[0].save(
        stream, "GIF", save_all=True, append_images=pictures[1:], duration=round(1000 * seconds), loop=0, disposal=2
    )
    return stream.getvalue()
