"""Images of other channels than a prior's: complex images, grey ones through a colour prior, and colours one by one.

    wrapper         image                 what the prior sees
    ComplexPairs    complex, C channels   2 C real channels (re, im), a prior of complex images: exact
    RealParts       complex, C channels   real and imaginary part as images of their own, in one batch
    PerChannel      real, C channels      each channel as an image of its own, in one batch: channels are independent
    GreyInColour    real, 1 channel       three equal channels at level sqrt(3) sigma; the mean of the channels of D

GreyInColour: the noise of three equal channels is sqrt(3) sigma along (1, 1, 1)/sqrt(3), the only direction that the
grey image has, and none across it. A colour prior at level s expects s along every direction, so that s = sqrt(3) sigma
gives the grey direction its true noise; for a Gaussian prior whose luminance and colour are independent that is exact.
With FFDNet's weights for colour, on three photographs at sigma 25/255, in the mean: 29.8 dB; at level sigma 23.6 dB,
since the network then takes noise for detail; with fresh noise added across, as the network was trained, 29.9 dB.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from recon.errors import ConfigError
from recon.priors.base import Denoiser, Prediction
from recon.priors.wrapper import Wrapper

COLOURS = 3


@final
class ComplexPairs(Wrapper):
    """A prior whose channel pairs are real and imaginary parts, for native complex images (B, C, Y, X).

    The learned variance of the two parts, where the prior has one, is left out. Raises ConfigError for other priors.
    """

    def __init__(self, inner: Denoiser) -> None:
        if not inner.info.complex_channels or inner.info.channels % 2:
            raise ConfigError(f"prior '{inner.info.name}' is not for complex images")
        self.inner = inner
        self.info = replace(inner.info, channels=inner.info.channels // 2)

    def _denoise(self, x: Tensor, sigma: Tensor, cond: Tensor | None) -> Prediction:
        pairs = torch.view_as_real(x).movedim(-1, 2).flatten(1, 2)

        def back(parts: Tensor) -> Tensor:
            return torch.view_as_complex(parts.unflatten(1, (-1, 2)).movedim(2, -1).contiguous())

        return _mapped(self.inner(pairs, sigma, cond), back)

    def around(self, inner: Denoiser) -> ComplexPairs:
        return ComplexPairs(inner)


@final
class RealParts(Wrapper):
    """A prior of real images for complex ones (B, C, Y, X): their real and imaginary parts are images of their own.

    Zero is the prior's black in both parts; the units of the real part have it there already, those of the imaginary
    part are moved. A prior has not seen values below black, as parts have where the phase is not small.
    Source: Chung and Ye 2022 (Score-MRI), on priors of magnitude images for complex ones.
    """

    def __init__(self, inner: Denoiser) -> None:
        self.inner = inner
        self.info = replace(inner.info, complex_channels=True)

    def _denoise(self, x: Tensor, sigma: Tensor, cond: Tensor | None) -> Prediction:
        black = self.inner.info.value_range[0]
        parts = torch.cat([x.real, x.imag + black])

        def back(found: Tensor) -> Tensor:
            real, imaginary = found.chunk(2)
            return torch.complex(real, imaginary - black)

        return _mapped(self.inner(parts, sigma.repeat(2), None if cond is None else torch.cat([cond, cond])), back)

    def around(self, inner: Denoiser) -> RealParts:
        return RealParts(inner)


@final
class PerChannel(Wrapper):
    """A prior of one channel for images of several, (B, C, Y, X), each channel by itself."""

    def __init__(self, inner: Denoiser, channels: int) -> None:
        if inner.info.channels != 1:
            raise ConfigError(f"prior '{inner.info.name}' has {inner.info.channels} channels: they belong together")
        self.inner, self.channels = inner, channels
        self.info = replace(inner.info, channels=channels)

    def _denoise(self, x: Tensor, sigma: Tensor, cond: Tensor | None) -> Prediction:
        classes = None if cond is None else cond.repeat_interleave(self.channels, 0)
        seen = self.inner(x.flatten(0, 1)[:, None], sigma.repeat_interleave(self.channels), classes)

        def back(found: Tensor) -> Tensor:
            return found[:, 0].unflatten(0, x.shape[:2])

        mix = None if seen.variance_mix is None else back(seen.variance_mix)
        return replace(_mapped(seen, back), variance_mix=mix)

    def around(self, inner: Denoiser) -> PerChannel:
        return PerChannel(inner, self.channels)


@final
class GreyInColour(Wrapper):
    """A prior of three colours for grey images (B, 1, Y, X); its levels are sqrt(3) lower than the colour prior's."""

    def __init__(self, inner: Denoiser) -> None:
        if inner.info.channels != COLOURS:
            raise ConfigError(f"prior '{inner.info.name}' has {inner.info.channels} channels, not {COLOURS} colours")
        root = math.sqrt(COLOURS)
        self.inner = inner
        low, high = inner.info.sigma_min / root, inner.info.sigma_max / root
        self.info = replace(inner.info, channels=1, sigma_min=low, sigma_max=high)

    def _denoise(self, x: Tensor, sigma: Tensor, cond: Tensor | None) -> Prediction:
        colours = x.expand(-1, COLOURS, *[-1] * (x.ndim - 2))
        return _mapped(self.inner(colours, math.sqrt(COLOURS) * sigma, cond), lambda found: found.mean(1, keepdim=True))

    def around(self, inner: Denoiser) -> GreyInColour:
        return GreyInColour(inner)


def fit_channels(prior: Denoiser, channels: int, is_complex: bool, split: bool = False) -> tuple[Denoiser, str | None]:
    """Return a prior that takes images of `channels`, and what was done for it; the prior itself where it does.

    split: let a prior of one real channel see every channel, or real and imaginary part, as an image of its own.
    """
    name, own = prior.info.name, prior.info.channels
    if is_complex:
        if prior.info.complex_channels and own == 2 * channels:
            return ComplexPairs(prior), None
        if split and not prior.info.complex_channels and own == channels:
            return RealParts(prior), f"prior '{name}' sees real and imaginary parts as images of their own"
        return prior, None
    if split and own == 1 and channels > 1:
        return PerChannel(prior, channels), f"prior '{name}' has one channel: it sees the image's {channels} one by one"
    if own == COLOURS and channels == 1:
        return GreyInColour(prior), f"prior '{name}' has three colours: it sees the grey image as three equal ones"
    return prior, None


def _mapped(seen: Prediction, back: Callable[[Tensor], Tensor]) -> Prediction:
    """Return the means of a prediction in the image's channels; the variance is left out."""
    return Prediction(back(seen.x0), None, None if seen.x0_uncond is None else back(seen.x0_uncond))
