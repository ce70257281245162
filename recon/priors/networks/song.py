"""SongUNet: DDPM++ and NCSN++ as EDM and InverseBench checkpoints hold them.

F(x, c, labels): positional (DDPM++) or Fourier (NCSN++) features of c, plus linear layers of the class; residual blocks
that add the conditioning and divide each sum by sqrt(2). The encoder may take a downsampled image at each level, by
`skip` (1x1 convolution) or `residual` (strided convolution); the decoder may sum images of each level (`skip`).
Source: Song et al. 2021 (score SDE), appendix H; Karras et al. 2022 (EDM), appendix F.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon.priors.networks.layers import BlockStyle, ResampledConv, UNetBlock, group_norm, positional_features


@dataclass(frozen=True)
class SongConfig:
    """Architecture of `SongUNet`.

    size: image side it was trained at; it names the levels and places the attention.
    in_channels, out_channels: of the image and of F.  channels: base width.  multipliers: width of each level.
    blocks: residual blocks a level.  attention: sides (of `size`, halved) that have self-attention.
    embedding, noise: widths of the conditioning and of the features of c, in base widths.
    labels, augment: widths of the class and augmentation inputs.
    features: "positional" | "fourier".  encoder: "standard" | "skip" | "residual".  decoder: "standard" | "skip".
    taps: of the resampling filter.
    """

    size: int
    in_channels: int
    out_channels: int
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (16,)
    embedding: int = 4
    noise: int = 1
    labels: int = 0
    augment: int = 0
    features: str = "positional"
    encoder: str = "standard"
    decoder: str = "standard"
    taps: tuple[float, ...] = (1, 1)

    @property
    def multiple(self) -> int:
        """Spatial sizes must divide by this."""
        return int(2 ** (len(self.multipliers) - 1))


class FourierFeatures(nn.Module):
    """[cos, sin] of 2 pi f c for fixed random frequencies f: (B,) -> (B, width)."""

    freqs: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.zeros(width // 2))

    def forward(self, c: Tensor) -> Tensor:
        phase = torch.outer(c, 2 * math.pi * self.freqs)
        return torch.cat([phase.cos(), phase.sin()], dim=1)


class SongUNet(nn.Module):
    """F(x, c, labels): (B, C, Y, X), (B,), (B, labels) -> (B, out_channels, Y, X)."""

    def __init__(self, config: SongConfig) -> None:
        super().__init__()
        self.config = config
        width, emb = config.channels * config.noise, config.channels * config.embedding
        style = BlockStyle(
            emb, adaptive=False, head_channels=None, scale=math.sqrt(0.5), eps=1e-6, project=True, taps=config.taps
        )
        self.map_noise = FourierFeatures(width) if config.features == "fourier" else None
        self.map_label = nn.Linear(config.labels, width) if config.labels else None
        self.map_augment = nn.Linear(config.augment, width, bias=False) if config.augment else None
        self.map_layer0 = nn.Linear(width, emb)
        self.map_layer1 = nn.Linear(emb, emb)
        self.enc, skips = _encoder(config, style)
        self.dec = _decoder(config, style, skips)

    def forward(self, x: Tensor, c: Tensor, labels: Tensor | None = None) -> Tensor:
        emb = self._conditioning(c, labels)
        skips: list[Tensor] = []
        image = x
        for name, layer in self.enc.items():
            if name.endswith("_aux_down"):
                image = layer(image)
            elif name.endswith("_aux_skip"):
                x = skips[-1] = x + layer(image)
            elif name.endswith("_aux_residual"):
                x = skips[-1] = image = (x + layer(image)) / math.sqrt(2)
            else:
                x = layer(x, emb) if isinstance(layer, UNetBlock) else layer(x)
                skips.append(x)
        out: Tensor | None = None
        for name, layer in self.dec.items():
            if name.endswith("_aux_up"):
                out = layer(out)
            elif name.endswith("_aux_norm"):
                image = layer(x)
            elif name.endswith("_aux_conv"):
                image = layer(F.silu(image))
                out = image if out is None else out + image
            else:
                x = layer(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, emb)
        assert out is not None
        return out

    def _conditioning(self, c: Tensor, labels: Tensor | None) -> Tensor:
        if self.map_noise is not None:
            features = self.map_noise(c)
        else:
            features = positional_features(c, self.config.channels * self.config.noise, endpoint=True)
        emb = torch.cat(features.chunk(2, dim=1)[::-1], dim=1)
        if self.map_label is not None:
            if labels is None:
                # this layer has a bias: no class is the class vector zero
                labels = c.new_zeros(1, self.config.labels)
            emb = emb + self.map_label(labels * math.sqrt(self.config.labels))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))


def _encoder(config: SongConfig, style: BlockStyle) -> tuple[nn.ModuleDict, list[int]]:
    """Return the layers of the encoder and the widths of what each of its blocks hands to the decoder."""
    enc, skips = nn.ModuleDict(), []
    c, image = config.channels, config.in_channels
    for level, multiplier in enumerate(config.multipliers):
        side = config.size >> level
        name = f"{side}x{side}"
        if level == 0:
            enc[f"{name}_conv"] = nn.Conv2d(config.in_channels, c, 3, padding=1)
        else:
            enc[f"{name}_down"] = UNetBlock(c, c, style, "down")
            if config.encoder == "skip":
                enc[f"{name}_aux_down"] = ResampledConv(image, image, 0, "down", config.taps)
                enc[f"{name}_aux_skip"] = nn.Conv2d(image, c, 1)
            elif config.encoder == "residual":
                enc[f"{name}_aux_residual"] = ResampledConv(image, c, 3, "down", config.taps, fused=True)
                image = c
        skips.append(c)
        for k in range(config.blocks):
            wide = config.channels * multiplier
            enc[f"{name}_block{k}"] = UNetBlock(c, wide, style, attention=side in config.attention)
            c = wide
            skips.append(c)
    return enc, skips


def _decoder(config: SongConfig, style: BlockStyle, skips: list[int]) -> nn.ModuleDict:
    """Return the layers of the decoder; `skips` is used up."""
    dec = nn.ModuleDict()
    c = skips[-1]
    last = len(config.multipliers) - 1
    for level, multiplier in reversed(list(enumerate(config.multipliers))):
        side = config.size >> level
        name = f"{side}x{side}"
        if level == last:
            dec[f"{name}_in0"] = UNetBlock(c, c, style, attention=True)
            dec[f"{name}_in1"] = UNetBlock(c, c, style)
        else:
            dec[f"{name}_up"] = UNetBlock(c, c, style, "up")
        for k in range(config.blocks + 1):
            wide = config.channels * multiplier
            attention = k == config.blocks and side in config.attention
            dec[f"{name}_block{k}"] = UNetBlock(c + skips.pop(), wide, style, attention=attention)
            c = wide
        if config.decoder == "skip" and level < last:
            dec[f"{name}_aux_up"] = ResampledConv(config.out_channels, config.out_channels, 0, "up", config.taps)
        if config.decoder == "skip" or level == 0:
            dec[f"{name}_aux_norm"] = group_norm(c, style.eps)
            dec[f"{name}_aux_conv"] = nn.Conv2d(c, config.out_channels, 3, padding=1)
    return dec
