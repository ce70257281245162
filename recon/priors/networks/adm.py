"""The guided-diffusion UNet (ADM); parameter names are those of its checkpoints.

F(x, c, labels): sinusoidal features of the time c, two linear layers, plus an embedding of the class; residual blocks
conditioned on that, resampling by 2 inside residual blocks or by convolutions, self-attention at chosen levels and
always in the middle.
Source: Dhariwal and Nichol 2021; Nichol and Dhariwal 2021. Departure: the class enters as a vector, so that classes can
be mixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon.errors import ConfigError

GROUPS = 32
MAX_PERIOD = 10000

Resampling = Literal["up", "down"]


@dataclass(frozen=True)
class ADMConfig:
    """Architecture of `ADM`.

    in_channels, out_channels: of the image and of F (twice the image's with learned variance).
    channels: base width, of the time features.  widths: width of each level.  blocks: residual blocks a level.
    attention: levels, from 0, that have self-attention.  heads: attention heads; 0 for one each `head_channels`.
    new_order: whether the channels of qkv are ordered (q/k/v, head, channel) in place of (head, q/k/v, channel).
    scale_shift: whether the conditioning scales and shifts, or is added.  resample_blocks: whether residual blocks
    resample, or convolutions.  labels: number of classes.
    """

    in_channels: int
    out_channels: int
    channels: int
    widths: tuple[int, ...]
    blocks: int = 1
    attention: tuple[int, ...] = ()
    heads: int = 0
    head_channels: int = 64
    new_order: bool = False
    scale_shift: bool = True
    resample_blocks: bool = True
    labels: int = 0

    @property
    def multiple(self) -> int:
        """Spatial sizes must divide by this."""
        return int(2 ** (len(self.widths) - 1))

    def __post_init__(self) -> None:
        if not self.widths or min(self.in_channels, self.out_channels, self.channels, self.blocks, *self.widths) < 1:
            raise ConfigError("an ADM network needs at least one level, block and channel")
        if any(width % GROUPS for width in self.widths):
            raise ConfigError(f"the widths of an ADM network divide by {GROUPS}, got {self.widths}")
        for width in {self.widths[level] for level in (*self.attention, -1)}:
            if width % (self.heads or self.head_channels):
                split = f"{self.heads} heads" if self.heads else f"heads of {self.head_channels} channels"
                raise ConfigError(f"{width} channels cannot be split into {split}", "set heads or head_channels")


@final
class ADM(nn.Module):
    """F(x, c, labels): (B, C, Y, X), (B,), (B, labels) -> (B, out_channels, Y, X).

    Y and X divide by `config.multiple`.  c: time index, 0 to 999.  labels: weights of the classes, one-hot for one.
    needs_class: whether a network with classes cannot do without one.
    """

    needs_class = True

    def __init__(self, config: ADMConfig) -> None:
        super().__init__()
        self.config = config
        base, widths, emb = config.channels, config.widths, 4 * config.channels
        self.time_embed = nn.Sequential(nn.Linear(base, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.label_emb = nn.Embedding(config.labels, emb) if config.labels else None

        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(config.in_channels, widths[0], 3, padding=1)])])
        skips, c = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            for _ in range(config.blocks):
                self.input_blocks.append(_layers(config, level, c))
                c = width
                skips.append(c)
            if level + 1 < len(widths):
                self.input_blocks.append(nn.ModuleList([_resampling(config, c, "down")]))
                skips.append(c)
        self.middle_block = nn.ModuleList([ResBlock(config, c, c), Attention(config, c), ResBlock(config, c, c)])
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for i in range(config.blocks + 1):
                layers = _layers(config, level, c + skips.pop())
                c = widths[level]
                if level and i == config.blocks:
                    layers.append(_resampling(config, c, "up"))
                self.output_blocks.append(layers)
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, c), nn.SiLU(), nn.Conv2d(c, config.out_channels, 3, padding=1))

    def forward(self, x: Tensor, c: Tensor, labels: Tensor | None = None) -> Tensor:
        emb = self.time_embed(time_features(c, self.config.channels).to(x.dtype))
        if self.label_emb is not None:
            if labels is None:
                raise ConfigError(f"the network needs one of {self.config.labels} classes", "give the class")
            emb = emb + labels @ self.label_emb.weight
        h, skips = x, []
        for block in self.input_blocks:
            h = _run(block, h, emb)
            skips.append(h)
        h = _run(self.middle_block, h, emb)
        for block in self.output_blocks:
            h = _run(block, torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h)


def time_features(c: Tensor, width: int) -> Tensor:
    """Return [cos, sin] of c (B,) times width//2 frequencies from 1 down to 1/10000, (B, width).

    The frequencies are float32, as the networks were trained with: c reaches 1000, so their rounding matters.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=c.device)
    phase = c[:, None] * torch.exp(-math.log(MAX_PERIOD) * steps / half)
    return F.pad(torch.cat([phase.cos(), phase.sin()], dim=1), (0, width % 2))


@final
class ResBlock(nn.Module):
    """norm-SiLU-[resample]-conv-norm(conditioning)-SiLU-conv plus skip."""

    def __init__(self, config: ADMConfig, c_in: int, c_out: int, direction: Resampling | None = None) -> None:
        super().__init__()
        self.direction, self.adaptive = direction, config.scale_shift
        self.in_layers = nn.Sequential(nn.GroupNorm(GROUPS, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.channels, c_out * (2 if self.adaptive else 1)))
        # the third place is that of dropout, which only trains
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, c_out), nn.SiLU(), nn.Identity(), nn.Conv2d(c_out, c_out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, act, conv = self.in_layers
        h = conv(_resample(act(norm(x)), self.direction))
        shift = self.emb_layers(emb)[:, :, None, None]
        if self.adaptive:
            scale, shift = shift.chunk(2, dim=1)
            h = self.out_layers[1:](torch.addcmul(shift, self.out_layers[0](h), 1 + scale))
        else:
            h = self.out_layers(h + shift)
        return self.skip_connection(_resample(x, self.direction)) + h


@final
class Attention(nn.Module):
    """Self-attention over all positions of (B, C, Y, X), plus skip."""

    def __init__(self, config: ADMConfig, channels: int) -> None:
        super().__init__()
        self.heads = config.heads or channels // config.head_channels
        self.new_order = config.new_order
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *sizes = x.shape
        flat = x.reshape(batch, channels, -1)
        qkv = self.qkv(self.norm(flat))
        if self.new_order:
            split = qkv.reshape(batch, 3, self.heads, channels // self.heads, -1).unbind(1)
        else:
            split = qkv.reshape(batch, self.heads, 3, channels // self.heads, -1).unbind(2)
        q, k, v = (part.transpose(-1, -2) for part in split)
        found = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(batch, channels, -1)
        return (flat + self.proj_out(found)).reshape(batch, channels, *sizes)


@final
class Resample(nn.Module):
    """Resampling by 2 with a 3x3 convolution: `op`, of stride 2, on the way down; `conv` after it on the way up."""

    def __init__(self, channels: int, direction: Resampling) -> None:
        super().__init__()
        if direction == "down":
            self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        else:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.direction = direction

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x) if self.direction == "down" else self.conv(_resample(x, "up"))


def _layers(config: ADMConfig, level: int, c_in: int) -> nn.ModuleList:
    width = config.widths[level]
    layers: list[nn.Module] = [ResBlock(config, c_in, width)]
    if level in config.attention:
        layers.append(Attention(config, width))
    return nn.ModuleList(layers)


def _resampling(config: ADMConfig, channels: int, direction: Resampling) -> nn.Module:
    if config.resample_blocks:
        return ResBlock(config, channels, channels, direction)
    return Resample(channels, direction)


def _run(layers: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
    for layer in layers.children():
        h = layer(h, emb) if isinstance(layer, ResBlock) else layer(h)
    return h


def _resample(x: Tensor, direction: Resampling | None) -> Tensor:
    if direction is None:
        return x
    return F.avg_pool2d(x, 2) if direction == "down" else F.interpolate(x, scale_factor=2.0, mode="nearest")
