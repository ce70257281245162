"""A small fully convolutional UNet, fast on CPU.

Pixel-unshuffle stem, residual blocks with group normalisation and scale-shift conditioning on the noise level,
strided down-sampling, nearest up-sampling, pixel-shuffle head; any size that divides by `multiple`. Self-attention is
optional and at the lowest resolution only, where it costs little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon.errors import ConfigError


@dataclass(frozen=True)
class UNetConfig:
    """Architecture of `UNet`.

    in_channels: image channels.  channels: width of each level.  blocks: residual blocks of each level.
    unshuffle: side of the pixel-unshuffle stem.  embedding: width of the noise-level embedding.
    groups: groups of each normalisation.  attention: heads of the self-attention after each block of the last level,
    and in the middle; 0 for none.  padding: of the convolutions at the image's edges, "circular" for periodic images.
    """

    in_channels: int = 1
    channels: tuple[int, ...] = (32, 64, 96, 128)
    blocks: tuple[int, ...] = (1, 1, 1, 1)
    unshuffle: int = 2
    embedding: int = 128
    groups: int = 8
    attention: int = 0
    padding: Literal["zeros", "circular"] = "zeros"

    def __post_init__(self) -> None:
        if self.padding not in ("zeros", "circular"):
            raise ConfigError(f"padding of a UNet is 'zeros' or 'circular', got '{self.padding}'")

    @property
    def multiple(self) -> int:
        """Spatial sizes must divide by this."""
        return int(self.unshuffle * 2 ** (len(self.channels) - 1))


class NoiseEmbedding(nn.Module):
    """Fourier features of a scalar c, then two linear layers: (B,) -> (B, width)."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        # c = ln(sigma)/4 spans about [-1.6, 1.3]: octaves from a quarter turn over that span up to detail of 0.05
        # on the CPU also while the network is made without memory, since no checkpoint holds it
        octaves = torch.linspace(-3, 4, width // 4, device="cpu")
        self.register_buffer("frequencies", 2 * math.pi * 2.0**octaves, persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * (width // 4), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, c: Tensor) -> Tensor:
        phase = c[:, None] * self.frequencies
        return self.layers(torch.cat([phase.sin(), phase.cos()], dim=1))


class ResBlock(nn.Module):
    """norm-SiLU-conv-norm(scale, shift)-SiLU-conv plus skip; the second convolution starts at zero."""

    def __init__(self, c_in: int, c_out: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.affine = nn.Linear(embedding, 2 * c_out)
        self.norm2 = nn.GroupNorm(groups, c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.affine(emb)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        return self.skip(x) + self.conv2(F.silu(h))


class Attention(nn.Module):
    """x + W softmax(q k^T / sqrt(d)) v over all positions, of the normalised x; W starts at zero.

    Source: Vaswani et al. 2017, equation 1, over the positions of an image as in Ho et al. 2020 (DDPM), appendix B.
    """

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, height * width).unbind(1)
        weights = torch.einsum("bhdq,bhdk->bhqk", q * (c // self.heads) ** -0.5, k).softmax(dim=-1)
        return x + self.out(torch.einsum("bhqk,bhdk->bhdq", weights, v).reshape(b, c, height, width))


class UNet(nn.Module):
    """F(x, c): (B, C, Y, X), (B,) -> (B, C, Y, X), with Y and X divisible by `config.multiple`."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        ch, emb, groups = config.channels, config.embedding, config.groups
        stem = config.in_channels * config.unshuffle**2
        self.embed = NoiseEmbedding(emb)
        self.conv_in = nn.Conv2d(stem, ch[0], 3, padding=1)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for level, (width, count) in enumerate(zip(ch, config.blocks, strict=True)):
            self.down_blocks.append(nn.ModuleList(ResBlock(width, width, emb, groups) for _ in range(count)))
            self.up_blocks.append(
                nn.ModuleList(ResBlock(2 * width if k == 0 else width, width, emb, groups) for k in range(count))
            )
            if level + 1 < len(ch):
                self.downs.append(nn.Conv2d(width, ch[level + 1], 3, stride=2, padding=1))
                self.ups.append(nn.Conv2d(ch[level + 1], width, 3, padding=1))
        self.middle = ResBlock(ch[-1], ch[-1], emb, groups)
        # in the order of use: down, middle, up; none leaves the weights' names as they are without attention
        count = 2 * config.blocks[-1] + 1 if config.attention else 0
        self.attentions = nn.ModuleList(Attention(ch[-1], config.attention, groups) for _ in range(count))
        self.norm_out = nn.GroupNorm(groups, ch[0])
        self.conv_out = nn.Conv2d(ch[0], stem, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
                layer.padding_mode = config.padding

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        emb = self.embed(c)
        h = self.conv_in(F.pixel_unshuffle(x, self.config.unshuffle))
        attend = iter(self.attentions)
        lowest = len(self.down_blocks) - 1 if self.config.attention else None
        skips = []
        for level, blocks in enumerate(self.down_blocks):
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, emb)
                if level == lowest:
                    h = next(attend)(h)
            skips.append(h)
            if level < len(self.downs):
                h = self.downs[level](h)
        h = self.middle(h, emb)
        if lowest is not None:
            h = next(attend)(h)
        for level in reversed(range(len(self.up_blocks))):
            h = torch.cat([h, skips[level]], dim=1)
            for block in self.up_blocks[level]:  # type: ignore[attr-defined]
                h = block(h, emb)
                if level == lowest:
                    h = next(attend)(h)
            if level > 0:
                h = self.ups[level - 1](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.config.unshuffle)
