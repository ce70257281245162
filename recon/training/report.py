"""Held-out denoising: a prior against oracle total variation, over noise levels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from skimage.restoration import denoise_tv_chambolle

from recon.priors.base import Denoiser

# weights relative to sigma, of the reach in which the best total-variation weight lies
TV_WEIGHTS = np.geomspace(0.3, 4.0, 12)


@dataclass(frozen=True)
class DenoisingRow:
    """PSNR in dB for a range of 2 ([-1, 1]) of one image at one noise level."""

    image: int
    sigma: float
    noisy: float
    tv_oracle: float
    prior: float

    @property
    def gain(self) -> float:
        """Prior over oracle total variation, dB."""
        return self.prior - self.tv_oracle


def denoising_report(
    denoiser: Denoiser, images: list[np.ndarray], sigmas: tuple[float, ...], seed: int
) -> list[DenoisingRow]:
    """Return a row for every image (Y, X) in the prior's units and every noise level.

    TV is given its best weight on the truth (an oracle), so the gain is a lower bound of what a user would see.
    """
    rows = []
    for index, image in enumerate(images):
        for sigma in sigmas:
            rng = np.random.default_rng([seed, index, int(sigma * 1000)])
            noisy = (image + sigma * rng.standard_normal(image.shape)).astype(np.float32)
            with torch.inference_mode():
                found = denoiser(torch.from_numpy(noisy)[None, None], sigma).x0[0, 0].numpy()
            tv = max(_psnr(denoise_tv_chambolle(noisy, weight=w * sigma, max_num_iter=200), image) for w in TV_WEIGHTS)
            rows.append(DenoisingRow(index, sigma, _psnr(noisy, image), tv, _psnr(found, image)))
    return rows


def _psnr(estimate: np.ndarray, truth: np.ndarray) -> float:
    return float(10 * np.log10(4.0 / np.mean((estimate - truth) ** 2)))
