"""The UNet2DModel of diffusers; parameter names are those of its files.

F(x, c, labels): sinusoidal features of the time c, two linear layers, plus an embedding of the class; residual blocks
conditioned on that, self-attention after the blocks of chosen levels, strided convolutions on the way down, nearest
neighbours and a convolution on the way up.
Source: Ho et al. 2020 (DDPM), in the form of the diffusers library. Departure: the class enters as a vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon.errors import ConfigError


@dataclass(frozen=True)
class DiffusersConfig:
    """Architecture of `DiffusersUNet`.

    in_channels, out_channels: of the image and of F.  widths: width of each level.  blocks: residual blocks a level.
    attention_down, attention_up: levels, from 0, that have self-attention on the way down and up.
    middle_attention: whether the middle has.  head_channels: of an attention head; 0 for one head.
    groups, eps: of the normalisations; middle_groups: of the middle's attention; 0 for none.
    scale_shift: whether the conditioning scales and shifts, or is added.  middle_scale: divides sums in the middle.
    cosine_first, frequency_shift: form of the time features.  corner_padding: whether convolutions on the way down pad
    at the far edges alone.  centred: whether F takes images in [0, 1] to [-1, 1] itself.  labels: number of classes.
    """

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    blocks: int = 2
    attention_down: tuple[int, ...] = ()
    attention_up: tuple[int, ...] = ()
    middle_attention: bool = True
    head_channels: int = 8
    groups: int = 32
    middle_groups: int = 32
    eps: float = 1e-5
    scale_shift: bool = False
    middle_scale: float = 1.0
    cosine_first: bool = True
    frequency_shift: float = 0.0
    corner_padding: bool = False
    centred: bool = False
    labels: int = 0

    def __post_init__(self) -> None:
        levels = {*self.attention_down, *self.attention_up, *([len(self.widths) - 1] if self.middle_attention else [])}
        narrowest = min((self.widths[level] for level in levels), default=self.head_channels)
        if narrowest < self.head_channels:
            raise ConfigError(f"an attention head of {self.head_channels} channels does not fit into {narrowest}")

    @property
    def multiple(self) -> int:
        """Spatial sizes must divide by this."""
        return int(2 ** (len(self.widths) - 1))


@final
class DiffusersUNet(nn.Module):
    """F(x, c, labels): (B, C, Y, X), (B,), (B, labels) -> (B, out_channels, Y, X).

    needs_class: whether a network with classes cannot do without one.
    """

    needs_class = True

    def __init__(self, config: DiffusersConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0])
        self.class_embedding = nn.Embedding(config.labels, 4 * widths[0]) if config.labels else None
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        c, skips = widths[0], [widths[0]]
        for level, width in enumerate(widths):
            inputs = [c if k == 0 else width for k in range(config.blocks)]
            last = level + 1 == len(widths)
            down = None if last else Downsample(width, config.corner_padding)
            self.down_blocks.append(Stage(config, inputs, width, level in config.attention_down, downsample=down))
            c = width
            skips += [width] * (config.blocks + (not last))
        self.mid_block = Middle(config)
        for level, width in reversed(list(enumerate(widths))):
            inputs = [(c if k == 0 else width) + skips.pop() for k in range(config.blocks + 1)]
            up = Upsample(width) if level else None
            self.up_blocks.append(Stage(config, inputs, width, level in config.attention_up, upsample=up))
            c = width
        self.conv_norm_out = nn.GroupNorm(config.groups, c, eps=config.eps)
        self.conv_out = nn.Conv2d(c, config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, c: Tensor, labels: Tensor | None = None) -> Tensor:
        config = self.config
        features = time_features(c, config.widths[0], config.frequency_shift, config.cosine_first)
        emb = self.time_embedding(features.to(x.dtype))
        if self.class_embedding is not None:
            if labels is None:
                raise ConfigError(f"the network needs one of {config.labels} classes", "give the class")
            emb = emb + labels @ self.class_embedding.weight
        h = self.conv_in(2 * x - 1 if config.centred else x)
        skips = [h]
        for stage in self.down_blocks:
            h = stage(h, emb, kept=skips)
        h = self.mid_block(h, emb)
        for stage in self.up_blocks:
            h = stage(h, emb, joined=skips)
        return self.conv_out(F.silu(self.conv_norm_out(h)))


def time_features(c: Tensor, width: int, shift: float, cosine_first: bool) -> Tensor:
    """Return [cos, sin], or [sin, cos], of c (B,) times frequencies 10000^(-k/(width//2 - shift)), (B, width).

    The frequencies are float32, as the networks were trained with: c reaches 1000, so their rounding matters.
    """
    half = width // 2
    exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=c.device) / (half - shift)
    phase = c[:, None] * exponent.exp()
    parts = [phase.cos(), phase.sin()] if cosine_first else [phase.sin(), phase.cos()]
    return F.pad(torch.cat(parts, dim=1), (0, width % 2))


@final
class TimeEmbedding(nn.Module):
    """Two linear layers with SiLU between: (B, width) -> (B, 4 width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, 4 * width)
        self.linear_2 = nn.Linear(4 * width, 4 * width)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(features)))


@final
class ResBlock(nn.Module):
    """norm1-SiLU-conv1-norm2(conditioning)-SiLU-conv2 plus skip, divided by `scale`."""

    def __init__(self, config: DiffusersConfig, c_in: int, c_out: int, scale: float = 1.0) -> None:
        super().__init__()
        self.adaptive, self.scale = config.scale_shift, scale
        self.norm1 = nn.GroupNorm(config.groups, c_in, eps=config.eps)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(4 * config.widths[0], c_out * (2 if self.adaptive else 1))
        self.norm2 = nn.GroupNorm(config.groups, c_out, eps=config.eps)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        shift = self.time_emb_proj(F.silu(emb))[:, :, None, None]
        if self.adaptive:
            scale, shift = shift.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + shift)
        h = self.conv2(F.silu(h))
        return ((x if self.conv_shortcut is None else self.conv_shortcut(x)) + h) / self.scale


@final
class Attention(nn.Module):
    """Self-attention over all positions of (B, C, Y, X), plus skip, divided by `scale`."""

    def __init__(self, config: DiffusersConfig, width: int, groups: int, scale: float = 1.0) -> None:
        super().__init__()
        dim = config.head_channels or width
        self.heads, self.scale = width // dim, scale
        self.group_norm = nn.GroupNorm(groups, width, eps=config.eps) if groups else None
        inner = self.heads * dim
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])

    def forward(self, x: Tensor) -> Tensor:
        flat = (x if self.group_norm is None else self.group_norm(x)).flatten(2).transpose(1, 2)
        q, k, v = (
            layer(flat).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v)
        )
        found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return (x + self.to_out[0](found).transpose(1, 2).reshape(x.shape)) / self.scale


@final
class Downsample(nn.Module):
    """3x3 convolution of stride 2."""

    def __init__(self, width: int, corner_padding: bool) -> None:
        super().__init__()
        self.corner_padding = corner_padding
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=0 if corner_padding else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.corner_padding else x)


@final
class Upsample(nn.Module):
    """Nearest neighbours, twice the size, then a 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


@final
class Stage(nn.Module):
    """The blocks of one level on the way down or up, each maybe with attention, then the resampling."""

    def __init__(
        self,
        config: DiffusersConfig,
        inputs: list[int],
        width: int,
        attention: bool,
        downsample: Downsample | None = None,
        upsample: Upsample | None = None,
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(Attention(config, width, config.groups) for _ in inputs if attention)
        self.resnets = nn.ModuleList(ResBlock(config, c_in, width) for c_in in inputs)
        self.downsamplers = nn.ModuleList([downsample] if downsample is not None else [])
        self.upsamplers = nn.ModuleList([upsample] if upsample is not None else [])

    def forward(
        self, h: Tensor, emb: Tensor, kept: list[Tensor] | None = None, joined: list[Tensor] | None = None
    ) -> Tensor:
        """Return h after the blocks; results are appended to `kept`, or earlier ones taken off `joined`."""
        for k, block in enumerate(self.resnets):
            h = block(h if joined is None else torch.cat([h, joined.pop()], dim=1), emb)
            if len(self.attentions):
                h = self.attentions[k](h)
            if kept is not None:
                kept.append(h)
        for layer in (*self.downsamplers, *self.upsamplers):
            h = layer(h)
            if kept is not None:
                kept.append(h)
        return h


@final
class Middle(nn.Module):
    """Block, attention, block."""

    def __init__(self, config: DiffusersConfig) -> None:
        super().__init__()
        width, scale = config.widths[-1], config.middle_scale
        attention = [Attention(config, width, config.middle_groups, scale)] if config.middle_attention else []
        self.attentions = nn.ModuleList(attention)
        self.resnets = nn.ModuleList(ResBlock(config, width, width, scale) for _ in range(2))

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        h = self.resnets[0](h, emb)
        for layer in self.attentions:
            h = layer(h)
        return self.resnets[1](h, emb)
