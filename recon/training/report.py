"""Held-out evaluation of a denoiser: PSNR over noise levels against oracle baselines, and the training loss.

PSNR in dB for the width of the prior's value range (2 for [-1, 1]), over all pixels and channels of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from recon.errors import ConfigError
from recon.priors.base import Denoiser, per_item
from recon.training.config import TrainConfig

# (noisy, sigma) -> the estimates of all settings of a baseline; the best on the truth counts
Oracle = Callable[[np.ndarray, float], list[np.ndarray]]

# weights relative to sigma, of the reach in which the best one lies
TV_WEIGHTS = np.geomspace(0.3, 4.0, 12)
NLM_WEIGHTS = np.geomspace(0.3, 1.5, 6)
SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class DenoisingRow:
    """PSNR in dB of one image at one noise level: of the noisy image, the prior, and the baselines by name."""

    image: int
    sigma: float
    noisy: float
    tv_oracle: float
    prior: float
    baselines: dict[str, float]

    @property
    def gain(self) -> float:
        """Prior over oracle total variation, dB."""
        return self.prior - self.tv_oracle


def total_variation(noisy: np.ndarray, sigma: float) -> list[np.ndarray]:
    """Return (C, Y, X) denoised, each channel by itself, by total variation at each weight of `TV_WEIGHTS`."""
    return [
        np.stack([denoise_tv_chambolle(channel, weight=w * sigma, max_num_iter=200) for channel in noisy])
        for w in TV_WEIGHTS
    ]


def non_local_means(noisy: np.ndarray, sigma: float) -> list[np.ndarray]:
    """Return (C, Y, X) denoised by non-local means, 5x5 patches within 13x13, at each filter strength."""
    return [
        denoise_nl_means(noisy, 5, 6, h=w * sigma, fast_mode=True, sigma=sigma, channel_axis=0) for w in NLM_WEIGHTS
    ]


def by_denoiser(denoiser: Denoiser, value_range: tuple[float, float]) -> Oracle:
    """Return a denoiser as an oracle of one setting, for images in `value_range`.

    One of another value range is given the images in that; one of a single channel takes each channel by itself.
    """
    (low, high), (other_low, other_high) = value_range, denoiser.info.value_range
    scale = (other_high - other_low) / (high - low)

    def denoise(noisy: np.ndarray, sigma: float) -> list[np.ndarray]:
        x = torch.from_numpy((noisy - low) * np.float32(scale) + np.float32(other_low))[None]
        if denoiser.info.channels == 1:
            x = x.transpose(0, 1)
        with torch.inference_mode():
            found = denoiser(x, sigma * scale).x0.numpy()
        return [(found.reshape(noisy.shape) - other_low) / scale + low]

    return denoise


def denoising_report(
    denoiser: Denoiser,
    images: Sequence[np.ndarray],
    sigmas: tuple[float, ...],
    seed: int,
    baselines: dict[str, Oracle] | None = None,
    clip: bool = False,
) -> list[DenoisingRow]:
    """Return a row for every image (C, Y, X) in the prior's units and every noise level.

    Each baseline is given its best setting on the truth (an oracle), so a gain is a lower bound of what a user would
    see. baselines: name -> (noisy, sigma) -> estimates, beside total variation.  clip: score estimates (not the noisy
    image) clipped to the value range, as papers on photographs do.
    """
    low, high = denoiser.info.value_range
    oracles: list[Oracle] = [total_variation, by_denoiser(denoiser, (low, high)), *(baselines or {}).values()]
    rows = []
    for index, image in enumerate(images):
        for sigma in sigmas:
            rng = np.random.default_rng([seed, index, int(sigma * 1000)])
            noisy = (image + sigma * rng.standard_normal(image.shape)).astype(np.float32)
            scores = []
            for oracle in oracles:
                estimates = [np.clip(found, low, high) if clip else found for found in oracle(noisy, sigma)]
                scores.append(max(_psnr(estimate, image, high - low) for estimate in estimates))
            tv, prior, *others = scores
            named = dict(zip(baselines or {}, others, strict=True))
            rows.append(DenoisingRow(index, sigma, _psnr(noisy, image, high - low), tv, prior, named))
    return rows


def held_out_loss(
    denoiser: Denoiser, images: Sequence[np.ndarray], config: TrainConfig, at_least: int = 1024, batch: int = 50
) -> float:
    """Return the training loss on held-out crops: every image in tiles of `config.crop`, each as often as is needed.

    Noise levels are the quantiles of the training's distribution in a fixed random order, so the value is that of
    the seed alone and two averages of one training are compared on the same noise. Raises ConfigError where no image
    holds a tile.
    """
    tiles = [tile for image in images for tile in _tiles(image, config.crop)]
    if not tiles:
        raise ConfigError(f"the held-out images are smaller than crop = {config.crop}", "add larger ones to data.test")
    tiles *= -(-at_least // len(tiles))
    order = np.random.default_rng(config.seed).permutation(len(tiles))
    normal = torch.distributions.Normal(config.log_sigma_mean, config.log_sigma_std)
    sigmas = normal.icdf(torch.from_numpy((order + 0.5) / len(tiles)).float()).exp()
    sigmas = sigmas.clamp(config.sigma_min, config.sigma_max)
    generator = torch.Generator().manual_seed(config.seed)
    total = 0.0
    for start in range(0, len(tiles), batch):
        x0 = torch.from_numpy(np.stack(tiles[start : start + batch]))
        sigma = sigmas[start : start + batch]
        noisy = x0 + per_item(sigma, x0) * torch.randn(x0.shape, generator=generator)
        with torch.inference_mode():
            error = denoiser(noisy, sigma).x0 - x0
        weight = (sigma**2 + config.sigma_data**2) / (sigma * config.sigma_data) ** 2
        total += float((weight * (error**2).flatten(1).mean(1)).sum())
    return total / len(tiles)


def spread(images: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """Return at most `count` images, evenly spread over all."""
    if len(images) <= count:
        return list(images)
    return [images[(2 * k + 1) * len(images) // (2 * count)] for k in range(count)]


def _tiles(image: np.ndarray, size: int) -> list[np.ndarray]:
    """Return the tiles (C, size, size) that an image (C, Y, X) holds whole, from its first pixel on."""
    _, height, width = image.shape
    return [
        image[:, top : top + size, left : left + size]
        for top in range(0, height - size + 1, size)
        for left in range(0, width - size + 1, size)
    ]


def _psnr(estimate: np.ndarray, truth: np.ndarray, width: float) -> float:
    return float(10 * np.log10(width**2 / np.mean((estimate - truth) ** 2)))
