"""DhariwalUNet: the ADM architecture as EDM and InverseBench checkpoints hold it.

F(x, c, labels): positional features of c, two linear layers, plus a linear layer of the class; residual blocks with
scale and shift by that conditioning, box resampling, attention with heads of 64 channels.
Source: Dhariwal and Nichol 2021; Karras et al. 2022 (EDM), appendix F.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon.priors.networks.layers import BlockStyle, UNetBlock, group_norm, positional_features


@dataclass(frozen=True)
class DhariwalConfig:
    """Architecture of `DhariwalUNet`.

    size: image side it was trained at; it names the levels and places the attention.
    in_channels, out_channels: of the image and of F.  channels: base width.  multipliers: width of each level.
    blocks: residual blocks a level.  attention: sides (of `size`, halved) that have self-attention.
    embedding: width of the conditioning in base widths.  labels, augment: widths of the class and augmentation inputs.
    """

    size: int
    in_channels: int
    out_channels: int
    channels: int = 192
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 3
    attention: tuple[int, ...] = (32, 16, 8)
    embedding: int = 4
    labels: int = 0
    augment: int = 0

    @property
    def multiple(self) -> int:
        """Spatial sizes must divide by this."""
        return int(2 ** (len(self.multipliers) - 1))


class DhariwalUNet(nn.Module):
    """F(x, c, labels): (B, C, Y, X), (B,), (B, labels) -> (B, out_channels, Y, X)."""

    def __init__(self, config: DhariwalConfig) -> None:
        super().__init__()
        self.config = config
        width, emb = config.channels, config.channels * config.embedding
        style = BlockStyle(emb)
        self.map_augment = nn.Linear(config.augment, width, bias=False) if config.augment else None
        self.map_layer0 = nn.Linear(width, emb)
        self.map_layer1 = nn.Linear(emb, emb)
        self.map_label = nn.Linear(config.labels, emb, bias=False) if config.labels else None

        self.enc = nn.ModuleDict()
        skips: list[int] = []
        c = width * config.multipliers[0]
        for level, multiplier in enumerate(config.multipliers):
            side = config.size >> level
            name = f"{side}x{side}"
            if level == 0:
                self.enc[f"{name}_conv"] = nn.Conv2d(config.in_channels, c, 3, padding=1)
            else:
                self.enc[f"{name}_down"] = UNetBlock(c, c, style, "down")
            skips.append(c)
            for k in range(config.blocks):
                self.enc[f"{name}_block{k}"] = UNetBlock(
                    c, width * multiplier, style, attention=side in config.attention
                )
                c = width * multiplier
                skips.append(c)

        self.dec = nn.ModuleDict()
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            side = config.size >> level
            name = f"{side}x{side}"
            if level == len(config.multipliers) - 1:
                self.dec[f"{name}_in0"] = UNetBlock(c, c, style, attention=True)
                self.dec[f"{name}_in1"] = UNetBlock(c, c, style)
            else:
                self.dec[f"{name}_up"] = UNetBlock(c, c, style, "up")
            for k in range(config.blocks + 1):
                self.dec[f"{name}_block{k}"] = UNetBlock(
                    c + skips.pop(), width * multiplier, style, attention=side in config.attention
                )
                c = width * multiplier
        self.out_norm = group_norm(c, style.eps)
        self.out_conv = nn.Conv2d(c, config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, c: Tensor, labels: Tensor | None = None) -> Tensor:
        emb = self.map_layer1(F.silu(self.map_layer0(positional_features(c, self.config.channels))))
        if self.map_label is not None and labels is not None:
            emb = emb + self.map_label(labels)
        emb = F.silu(emb)
        skips: list[Tensor] = []
        for layer in self.enc.values():
            x = layer(x, emb) if isinstance(layer, UNetBlock) else layer(x)
            skips.append(x)
        for name, layer in self.dec.items():
            x = layer(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, emb)
        return self.out_conv(F.silu(self.out_norm(x)))
