"""Named protocols: every choice that a PSNR or SSIM depends on, in one place, described as JSON.

    image01   declared data range, clipped to it, each image on its own, mean over images
    fastmri   magnitude, cut to a square, range of the volume's maximum; PSNR and NMSE over the volume, SSIM over slices
    volume    range of the volume's maximum; PSNR, NMSE and a three-dimensional SSIM over the volume

No protocol normalises an image by its own values. Sources: fastMRI `evaluate.py`; Wang et al. 2004 (SSIM window).
"""

from __future__ import annotations

import difflib
import importlib.metadata
from dataclasses import dataclass
from typing import Any, Literal

from recon.errors import ConfigError
from recon.metrics.ssim import SsimWindow

RANGES = {
    "declared": "the range that the file's type declares, else from min(0, smallest) to the largest value of the truth",
    "truth-max": "0 to the largest value of the truth, after magnitude and crop",
}
CROPS = {"none": "none", "square": "rows about the centre, to as many as there are columns"}
MAGNITUDES = {"complex": "of complex data", "always": "of all data"}
REDUCTIONS = {"image": "each image on its own, then the mean over images", "volume": "all slices together"}


@dataclass(frozen=True)
class Protocol:
    """How a stack of reconstructions (N, C, Y, X) is compared with the truth.

    data_range: "declared" or "truth-max", see RANGES.  clip: both to the data range.  crop: see CROPS.
    magnitude: of which data the magnitude is taken.  reduction: of PSNR and NMSE over N.
    ssim_reduction: "image" (2-D windows in each image, mean over images) or "volume" (3-D windows, N as depth).
    """

    name: str
    data_range: Literal["declared", "truth-max"]
    clip: bool
    crop: Literal["none", "square"]
    magnitude: Literal["complex", "always"]
    reduction: Literal["image", "volume"]
    window: SsimWindow
    ssim_reduction: Literal["image", "volume"]

    def describe(self) -> dict[str, Any]:
        """Return every choice as a JSON-able dictionary."""
        return {
            "name": self.name,
            "data_range": RANGES[self.data_range],
            "clip": self.clip,
            "crop": CROPS[self.crop],
            "magnitude": MAGNITUDES[self.magnitude],
            "reduction": REDUCTIONS[self.reduction],
            "ssim_reduction": REDUCTIONS[self.ssim_reduction],
            "ssim_window": self.window.describe() | {"dimensions": 3 if self.ssim_reduction == "volume" else 2},
            "ssim_library": f"scikit-image {importlib.metadata.version('scikit-image')}",
            "mask": "metrics named *_masked average over the foreground mask only",
        }


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol("image01", "declared", True, "none", "complex", "image", SsimWindow("gaussian", sigma=1.5), "image"),
        Protocol("fastmri", "truth-max", False, "square", "always", "volume", SsimWindow("uniform", size=7), "image"),
        Protocol(
            "volume", "truth-max", False, "none", "complex", "volume", SsimWindow("gaussian", sigma=1.5), "volume"
        ),
    )
}


def find_protocol(name: str) -> Protocol:
    """Return the protocol of that name. Raises ConfigError, naming the nearest, if there is none."""
    if name not in PROTOCOLS:
        near = difflib.get_close_matches(name, PROTOCOLS, 1)
        raise ConfigError(
            f"unknown metric protocol '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""),
            f"choose from: {', '.join(PROTOCOLS)}",
        )
    return PROTOCOLS[name]
