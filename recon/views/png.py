"""RGB pictures as the bytes of a PNG file."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np


def encode_png(picture: np.ndarray, text: Mapping[str, str] | None = None) -> bytes:
    """Return an RGB picture (Y, X, 3), uint8, as PNG bytes; the same picture and text always give the same bytes.

    text: short facts to keep in the file (tEXt), such as the command; never paths or names of people.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", pnginfo=info, optimize=True)
    return stream.getvalue()
