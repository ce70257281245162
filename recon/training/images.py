"""Random crops of photographs: any part, at any of several sizes, mirrored and turned, in colour or grey.

Every picture is decoded once and kept as 8-bit versions, each smaller than the one before by sqrt(2) (each pixel the
mean over the area that it covers), so a crop costs a copy. A smaller version shows more of the scene in the same
number of pixels and has lost the compression artefacts of its file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recon.errors import InputError

# of the decoded picture; Pillow's own guard is raised as far and no further
MAX_PIXELS = 100_000_000
# ITU-R BT.601 luma, of the values as stored
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# of the standard deviation of a crop's channels in [0, 1]
FLAT = 0.03
GAMMA = float(np.log(1.25))


def decode(path: Path) -> np.ndarray:
    """Return a PNG or JPEG picture as (Y, X, 3), uint8, its sRGB values as stored; transparency is laid on white.

    Raises InputError for anything else, damaged files, and pictures of more than 100 megapixels.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise InputError(f"{path.name} has {picture.width} x {picture.height} pixels", "at most 100 megapixels")
            if picture.mode in ("I;16", "I"):
                return _grey16(np.asarray(picture))
            if picture.has_transparency_data:
                ground = Image.new("RGBA", picture.size, "white")
                return np.asarray(Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB"))
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
        raise InputError(f"cannot read picture {path.name}: {err}", "expected a PNG or JPEG file") from err


def _grey16(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.rint(values / 257.0).astype(np.uint8)[..., None], 3, axis=2)


def pyramid(picture: np.ndarray, longest: int, shortest: int) -> list[np.ndarray]:
    """Return versions (Y, X, 3), uint8, of a picture: longer side at most `longest`, each next one sqrt(2) smaller.

    The last one's shorter side is at least `shortest`.
    The first version is there even if its shorter side is less; nothing is ever enlarged.
    """
    from PIL import Image

    whole = Image.fromarray(picture)
    height, width = picture.shape[:2]
    scale = min(1.0, longest / max(height, width))
    versions: list[np.ndarray] = []
    while True:
        factor = scale * 2 ** (-len(versions) / 2)
        size = (max(round(factor * width), 1), max(round(factor * height), 1))
        if versions and min(size) < shortest:
            return versions
        versions.append(np.asarray(whole if size == (width, height) else whole.resize(size, Image.Resampling.BOX)))


def random_picture_crop(versions: list[np.ndarray], size: int, grey: float, rng: np.random.Generator) -> np.ndarray:
    """Return one crop (3, size, size), float32 in [-1, 1], of one of a picture's versions, each as likely.

    grey: the chance that all channels are set to the luma. Mirrored, turned by a multiple of 90 degrees, with a
    gamma of 0.8 to 1.25; nearly flat crops (empty sky) are mostly drawn again.
    """
    while True:
        version = versions[rng.integers(len(versions))]
        top, left = (int(rng.integers(n - size + 1)) for n in version.shape[:2])
        crop = version[top : top + size, left : left + size].astype(np.float32) / 255
        if crop.std(axis=(0, 1)).max() > FLAT or rng.random() < 0.1:
            break
    crop = np.rot90(crop, int(rng.integers(4)))
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    if rng.random() < grey:
        crop = np.repeat((crop @ LUMA)[..., None], 3, axis=2)
    crop = 2 * np.clip(crop, 0, 1) ** np.exp(rng.uniform(-GAMMA, GAMMA)) - 1
    return np.ascontiguousarray(crop.transpose(2, 0, 1), dtype=np.float32)


def central_square(picture: np.ndarray, size: int) -> np.ndarray:
    """Return the middle (3, size, size) of a picture (Y, X, 3), uint8, as float32 in [-1, 1].

    A picture smaller than `size` is taken as far as it goes.
    """
    height, width = picture.shape[:2]
    top, left = max(height - size, 0) // 2, max(width - size, 0) // 2
    square = picture[top : top + size, left : left + size]
    return np.ascontiguousarray((square.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1))
