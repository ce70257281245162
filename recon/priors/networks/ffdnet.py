"""FFDNet: plain convolutions on a pixel-unshuffled image and a map of its noise level; names are those of KAIR's files.

Source: Zhang et al. 2018 (FFDNet). Departure: sizes are padded by reflection on both sides (see `padding.py`), where
the authors repeat the last row and column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon.errors import ConfigError

UNSHUFFLE = 2


@dataclass(frozen=True)
class FFDNetConfig:
    """Architecture of `FFDNet`.

    in_channels: of the image, and of F.  width: channels inside.  layers: convolutions, at least two.
    """

    in_channels: int = 1
    width: int = 64
    layers: int = 15

    def __post_init__(self) -> None:
        if self.layers < 2 or min(self.in_channels, self.width) < 1:
            raise ConfigError(f"an FFDNet has two or more layers and a channel, got {self}")

    @property
    def multiple(self) -> int:
        """Spatial sizes must divide by this."""
        return UNSHUFFLE


@final
class FFDNet(nn.Module):
    """F(x, c): (B, C, Y, X), (B,) -> (B, C, Y, X), the denoised image.

    Y and X divide by `config.multiple`.  c: standard deviation of the noise, in units of x.
    """

    def __init__(self, config: FFDNetConfig) -> None:
        super().__init__()
        self.config = config
        outer = config.in_channels * UNSHUFFLE**2
        layers: list[nn.Module] = [nn.Conv2d(outer + 1, config.width, 3, padding=1), nn.ReLU()]
        for _ in range(config.layers - 2):
            layers += [nn.Conv2d(config.width, config.width, 3, padding=1), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.Conv2d(config.width, outer, 3, padding=1))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = F.pixel_unshuffle(x, UNSHUFFLE)
        level = c[:, None, None, None].expand(-1, 1, *h.shape[2:])
        return F.pixel_shuffle(self.model(torch.cat([h, level], dim=1)), UNSHUFFLE)
