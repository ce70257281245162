"""DRUNet: a residual UNet without normalisation, on an image and a map of its noise level; names as in KAIR's files.

Without biases, as published, F(a x, a c) = a F(x, c) for a > 0: it does not depend on the units of its images.
Source: Zhang et al. 2021 (DPIR), figure 2. Departure: sizes are padded by reflection (see `padding.py`), where the
authors split large images into overlapping parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from recon.errors import ConfigError


@dataclass(frozen=True)
class DRUNetConfig:
    """Architecture of `DRUNet`.

    in_channels: of the image, and of F.  widths: of its levels.  blocks: residual blocks of each level.
    bias: whether convolutions have one.
    """

    in_channels: int = 3
    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: int = 4
    bias: bool = False

    def __post_init__(self) -> None:
        if not self.widths or min(self.in_channels, self.blocks, *self.widths) < 1:
            raise ConfigError(f"a DRUNet has at least one level, block and channel, got {self}")

    @property
    def multiple(self) -> int:
        """Spatial sizes must divide by this."""
        return int(2 ** (len(self.widths) - 1))


@final
class ResBlock(nn.Module):
    """x + conv(ReLU(conv(x)))."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        first, last = (nn.Conv2d(width, width, 3, padding=1, bias=bias) for _ in range(2))
        self.res = nn.Sequential(first, nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res(x)


@final
class DRUNet(nn.Module):
    """F(x, c): (B, C, Y, X), (B,) -> (B, C, Y, X), the denoised image.

    Y and X divide by `config.multiple`.  c: standard deviation of the noise, in units of x.
    """

    def __init__(self, config: DRUNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, bias, last = config.widths, config.bias, len(config.widths) - 1
        self.m_head = nn.Conv2d(config.in_channels + 1, widths[0], 3, padding=1, bias=bias)
        # levels are counted from 1 in the files
        for level in range(last):
            down = nn.Conv2d(widths[level], widths[level + 1], 2, stride=2, bias=bias)
            self.add_module(f"m_down{level + 1}", nn.Sequential(*_blocks(config, level), down))
            up = nn.ConvTranspose2d(widths[level + 1], widths[level], 2, stride=2, bias=bias)
            self.add_module(f"m_up{level + 1}", nn.Sequential(up, *_blocks(config, level)))
        self.m_body = nn.Sequential(*_blocks(config, last))
        self.m_tail = nn.Conv2d(widths[0], config.in_channels, 3, padding=1, bias=bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = self.m_head(torch.cat([x, c[:, None, None, None].expand(-1, 1, *x.shape[2:])], dim=1))
        skips, levels = [h], range(1, len(self.config.widths))
        for level in levels:
            h = self.get_submodule(f"m_down{level}")(h)
            skips.append(h)
        h = self.m_body(h)
        for level in reversed(levels):
            h = self.get_submodule(f"m_up{level}")(h + skips.pop())
        return self.m_tail(h + skips.pop())


def _blocks(config: DRUNetConfig, level: int) -> list[nn.Module]:
    return [ResBlock(config.widths[level], config.bias) for _ in range(config.blocks)]
