"""From the counts of a transmission scan to line integrals of the attenuation."""

from __future__ import annotations

import numpy as np

from recon.errors import InputError

LEAST = 0.5  # counts above the dark level that a ray without any is taken to have


def line_integrals(raw: np.ndarray, flat: np.ndarray | float, dark: np.ndarray | float = 0.0) -> np.ndarray:
    """Return -ln((raw - dark)/(flat - dark)), flat-field and dark corrected, in nepers; float64, the shape of `raw`.

    raw: counts behind the object, (..., detectors).  flat: without the object (the mean of several, where there are),
    dark: without the beam, both of a shape that broadcasts to raw's. Rays with less than half a count above the dark
    level are taken to have that much, so that the result is finite.
    Raises InputError on shapes that do not fit, on values that are not finite, and where flat is not above dark.
    """
    raw, flat, dark = (np.asarray(each, np.float64) for each in (raw, flat, dark))
    for name, array in (("flat", flat), ("dark", dark)):
        try:
            fits = np.broadcast_shapes(array.shape, raw.shape) == raw.shape
        except ValueError:
            fits = False
        if not fits:
            raise InputError(
                f"the {name} field has shape {array.shape}, which does not fit counts of shape {raw.shape}"
            )
    if not all(np.isfinite(each).all() for each in (raw, flat, dark)):
        raise InputError("counts, flat or dark field hold NaN or infinite values", "mask or fill them first")
    if not (flat > dark).all():
        raise InputError("the flat field is not above the dark field everywhere", "mask dead pixels of the detector")
    return np.log(flat - dark) - np.log(np.maximum(raw - dark, LEAST))
